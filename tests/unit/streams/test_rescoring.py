"""A run scored again is a run of its own, complete or repeatable, and its parent stays as it is."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from infra.log import Log
from infra.memory import MemoryLog
from infra.problems import BadInput, RunsDiffer, ServiceUnavailable
from infra.runs import facts_of, named, runs_on
from schemas.events import (
    Event,
    RewardScored,
    RewardWeights,
    RunOutcome,
)
from schemas.identity import event_id
from streams.gathering import Gathering
from streams.rescore import rescoring
from streams.rescore.comparison import compare, pairs
from streams.rescore.functions import RewardFunction
from streams.rescore.report import plain, points, text
from streams.rescore.rescoring import Plan, Rescored, parent_of, plan, rescore, rescored, scorer_of, write
from streams.rewards import FUNCTION, score, weighed
from tests.histories import DAWN, RUN, run_ended, run_started
from tests.unit.streams.playing import clock, played, suites

SOFTER = RewardWeights(variance=0.5)
MINE = RewardFunction("mine:reward", "0" * 12, lambda suites: len([s for s in suites if s.results]) / 10)


def never() -> bool:
    return False


def log_of(facts: Sequence[Event], seed: int = 0) -> MemoryLog:
    log = MemoryLog(seed=seed)
    log.publish(facts)
    return log


def planned(
    log: Log, name: str = "softer", weights: RewardWeights = SOFTER, function: RewardFunction | None = None
) -> Plan:
    found = runs_on(log)
    parent = parent_of(found, RUN)
    return plan(
        found,
        parent,
        name,
        weights=weights,
        function=function,
        offsets=log.end_offsets,
        now=clock(),
        code_version="1",
    )


def scored_again(log: Log, plan: Plan) -> Rescored:
    return rescore(log, plan, clock=clock, progress=lambda _: None)


def score_again(log: Log, plan: Plan | None = None) -> Rescored:
    plan = plan or planned(log)
    done = scored_again(log, plan)
    assert write(log, "rescore", done.missing, stop=never)
    return done


def facts_on(log: Log, name: str = "softer") -> list[Event]:
    return list(facts_of(log, named(runs_on(log), name)))


def rewards_on(log: Log, name: str = "softer") -> list[RewardScored]:
    return [fact for fact in facts_on(log, name) if isinstance(fact, RewardScored)]


def test_every_draft_gets_a_reward_by_the_new_weights_in_a_run_of_its_own() -> None:
    facts = suites()
    log = log_of(list(played(facts)))
    score_again(log)
    again = named(runs_on(log), "softer")
    assert (again.started.parent_run_id, again.started.parent_step, again.started.scoring) == (RUN, None, "")
    assert again.started.specification == replace(run_started().specification, reward=SOFTER)
    assert again.ended is not None
    assert again.ended.outcome is RunOutcome.FINISHED
    drafts = {
        fact.requirements_id: [each for each in facts if each.requirements_id == fact.requirements_id] for fact in facts
    }
    found = {reward.requirements_id: reward for reward in rewards_on(log)}
    assert {key: (each.value, each.terms, each.function) for key, each in found.items()} == {
        key: (wanted.value, wanted.terms, FUNCTION)
        for key, draft in drafts.items()
        for wanted in [weighed(draft, SOFTER)]
    }


def test_a_reward_names_the_parents_suites_and_its_id_derives_from_run_and_draft() -> None:
    facts = suites(rounds=1, applications=1, drafts=1)
    log = log_of(list(played(facts)))
    score_again(log)
    (reward,) = rewards_on(log)
    again = named(runs_on(log), "softer")
    assert again.run_id == event_id(RUN, "softer", "rescore")
    assert reward.event_id == event_id(again.run_id, facts[0].requirements_id, "reward")
    assert reward.suite_ids == reward.caused_by == tuple(fact.event_id for fact in facts)


def test_the_parent_stays_as_it_is() -> None:
    log = log_of(list(played(suites())))
    before = list(facts_of(log, parent_of(runs_on(log), RUN)))
    score_again(log)
    after = list(facts_of(log, parent_of(runs_on(log), RUN)))
    assert sorted(map(repr, before)) == sorted(map(repr, after))


def test_the_same_weights_give_the_same_rewards() -> None:
    log = log_of(list(played(suites())))
    done = score_again(log, planned(log, "same", RewardWeights()))
    assert {each.requirements_id: each.value for each in done.rewards} == done.before
    assert compare(pairs(done.before, done.rewards)).moved == 0


def test_a_broken_machine_is_no_bad_grade_the_second_time_either() -> None:
    log = log_of(list(played(suites())))
    for name, function in (("softer", None), ("mine", MINE)):
        done = score_again(log, planned(log, name, function=function))
        invalid = [each for each in done.rewards if each.value is None]
        assert [each.cause for each in invalid] == ["impl-0: the engine was away"]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_in_which_facts_are_met_changes_nothing(seed: int) -> None:
    facts = list(played(suites()))
    done, again = (scored_again(log, planned(log)) for log in (log_of(facts), log_of([*facts, *facts], seed)))
    assert [replace(each, recorded_at=DAWN) for each in done.rewards] == list(again.rewards)


def test_repeating_a_finished_one_writes_nothing() -> None:
    log = log_of(list(played(suites())))
    first = score_again(log)
    second = score_again(log)
    assert second.missing == []
    assert second.rewards == first.rewards
    assert len(facts_on(log)) == len(first.missing)


@pytest.mark.parametrize("written", [1, 2, 7, -1])
def test_one_that_was_interrupted_is_completed_by_repeating_it(written: int) -> None:
    facts = list(played(suites()))
    whole, log = log_of(facts), log_of(facts)
    score_again(whole)
    log.publish(scored_again(log, planned(log)).missing[:written])
    score_again(log)
    assert sorted(map(repr, facts_on(log))) == sorted(map(repr, facts_on(whole)))


def test_what_was_run_after_it_started_is_left_out_of_a_repetition() -> None:
    facts = suites()
    log = log_of(list(played(facts[: len(facts) // 2], ended=False)))
    begun = scored_again(log, planned(log))
    log.publish(begun.missing[:2])
    log.publish(facts[len(facts) // 2 :])
    assert score_again(log).rewards == begun.rewards


def test_asking_to_stop_leaves_the_rest_to_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescoring, "TRANSACTION", 5)
    log = log_of(list(played(suites())))
    done = scored_again(log, planned(log))
    asked = iter([False, True])
    assert not write(log, "rescore", done.missing, stop=lambda: next(asked))
    assert len(facts_on(log)) == 5
    score_again(log)
    assert sorted(map(repr, facts_on(log))) == sorted(map(repr, done.missing))


def test_an_unknown_outcome_says_to_repeat_the_command() -> None:
    log = MemoryLog(mishaps=1.0)
    with pytest.raises(ServiceUnavailable, match="repeat the command"):
        write(log, "rescore", [run_started()], stop=never)


def test_a_draft_without_all_its_suites_is_left_out_and_counted() -> None:
    log = log_of(list(played(suites()[:-1])))
    done = scored_again(log, planned(log))
    assert (len(done.rewards), done.left_out) == (11, 1)


def test_a_name_is_for_one_run() -> None:
    log = log_of([*played(suites()), replace(run_started(run_id="b"), label="taken")])
    with pytest.raises(BadInput, match="is the name of run b"):
        planned(log, "taken")
    with pytest.raises(BadInput, match="cannot name a run"):
        planned(log, "latest")


@pytest.mark.parametrize(
    "another", [partial(planned, weights=RewardWeights(variance=0.7)), partial(planned, function=MINE)]
)
def test_a_name_is_for_one_way_of_scoring(another: Callable[[Log], Plan]) -> None:
    log = log_of(list(played(suites())))
    score_again(log)
    with pytest.raises(BadInput, match=r"scores the same run by mean 1, variance 0\.5"):
        another(log)


def test_a_name_that_was_ended_otherwise_is_not_gone_on_with() -> None:
    log = log_of(list(played(suites())))
    started, *_ = scored_again(log, planned(log)).missing
    log.publish([started, run_ended(started.run_id or "", RunOutcome.ABANDONED)])
    with pytest.raises(BadInput, match="was ended as abandoned"):
        planned(log)


def test_a_function_that_changed_is_another_one() -> None:
    log = log_of(list(played(suites())))
    score_again(log, planned(log, "mine", function=MINE))
    with pytest.raises(BadInput, match="was scored by mine:reward@000000000000, which is mine:reward@1"):
        score_again(log, planned(log, "mine", function=replace(MINE, version="1")))


def test_a_function_that_answers_otherwise_the_second_time_is_found_out() -> None:
    log = log_of(list(played(suites())))
    dice = random.Random(1)
    fickle = replace(MINE, function=lambda _: dice.random())
    score_again(log, planned(log, "mine", function=fickle))
    with pytest.raises(RunsDiffer, match="depends on more than the suites"):
        scored_again(log, planned(log, "mine", function=fickle))


def test_a_function_that_fails_on_one_draft_leaves_no_trace() -> None:
    log = log_of(list(played(suites())))
    before = log.end_offsets()
    failing = replace(MINE, function=lambda suites: 1 / (suites[0].draft - 2))
    with pytest.raises(BadInput, match="mine:reward raised ZeroDivisionError"):
        score_again(log, planned(log, "mine", function=failing))
    assert log.end_offsets() == before


def test_a_rescoring_has_nothing_to_score_and_latest_means_a_run_that_was_played() -> None:
    log = log_of(list(played(suites())))
    score_again(log)
    found = runs_on(log)
    with pytest.raises(BadInput, match="is a re-scoring"):
        parent_of(found, "softer")
    assert parent_of(found[::-1], "latest").run_id == RUN


def test_a_run_without_results_is_refused() -> None:
    log = log_of([run_started(), run_ended()])
    with pytest.raises(BadInput, match="no draft whose tests have all been run"):
        scored_again(log, planned(log))


def test_what_scores_a_rescoring_on_the_log_gives_its_rewards_again() -> None:
    facts = suites()
    log = log_of(list(played(facts)))
    done = score_again(log)
    started = named(runs_on(log), "softer").started
    again = rescored(Gathering(), facts, started.run_id or "", scorer_of(started), clock=clock)
    assert {each.event_id: each for each in again} == {each.event_id: each for each in done.rewards}


def test_the_report_says_what_was_done_and_what_moved() -> None:
    log = log_of(list(played(suites())))
    wanted = planned(log, "upside-down", function=replace(MINE, function=lambda suites: 1 - (score(suites).value or 0)))
    done = score_again(log, wanted)
    drafts = pairs(done.before, done.rewards)
    comparison = compare(drafts)
    said = text(wanted, done, comparison)
    assert "12 drafts, 14 facts written; no model was asked, no test was run" in said
    assert "before: mean 1, variance 1; after: mine:reward" in said
    assert "rank correlation (Spearman) over 11 drafts  -1.000" in said
    assert "another best draft in 4 of 4 groups" in said
    values = plain(wanted, done, comparison)
    assert (values["label"], values["drafts"], values["correlation"]) == ("upside-down", 12, pytest.approx(-1.0))
    assert [len(each) for each in points(drafts).values()] == [11]
