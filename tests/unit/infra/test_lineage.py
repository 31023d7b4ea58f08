"""From an update down to the prompt behind it and back, and how a person names what is to be explained."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.lineage import LONG, SHOWN, Node, Past, Telling, as_plain, came_from, causes, led_to, lines
from infra.memory import MemoryLog
from infra.problems import BadInput
from infra.why import explained
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    DraftFailed,
    Event,
    ImplementationFailed,
    ImplementationWritten,
    PolicyUpdated,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
    SuiteUnit,
    ValidationCompleted,
    Verdict,
)
from tests.histories import DAWN, RUN, run_ended, run_started
from tests.whole_run import whole_run

CHILD = RUN[:-1] + "b"
WHOLE = Telling(every=True)


def history(rounds: int = 2, applications: int = 2, drafts: int = 2) -> list[Event]:
    """A run whose rounds name the update they were opened with."""
    facts = list(whole_run(rounds=rounds, applications=applications, drafts=drafts))
    updates = {fact.round: fact.event_id for fact in facts if isinstance(fact, PolicyUpdated)}
    return [
        replace(fact, caused_by=(updates.get(fact.round - 1, run_started().event_id),))
        if isinstance(fact, RoundOpened)
        else fact
        for fact in facts
    ]


def one(facts: list[Event], kind: type[Event], **fields: object) -> Event:
    """The first fact of this kind with these fields."""
    return next(
        fact
        for fact in facts
        if isinstance(fact, kind) and all(getattr(fact, name) == value for name, value in fields.items())
    )


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for branch in node.branches:
        yield from nodes(branch)


def ids(node: Node) -> set[str]:
    return {each.event_id for each in nodes(node)}


def test_an_update_comes_from_everything_that_was_written_in_its_round() -> None:
    facts = history(applications=12, drafts=3)
    tree = came_from(Past(facts), one(facts, PolicyUpdated, round=2), WHOLE)
    kinds = (ApplicationDrawn, RequirementsDrafted, DraftFailed, ImplementationWritten, ImplementationFailed)
    of_the_round = {
        fact.event_id
        for fact in facts
        if isinstance(fact, (*kinds, SuiteRan, RewardScored)) and (fact.round, str(fact.purpose)) == (2, "train")
    }
    assert of_the_round < ids(tree)
    assert {fact.event_id for fact in facts if isinstance(fact, ApplicationRegistered)} < ids(tree)
    assert one(facts, PolicyUpdated, round=1).event_id in ids(tree)
    assert one(facts, RoundOpened, round=1).event_id not in ids(tree), "the update before is another question"


def test_a_draft_leads_to_its_rebuilds_its_suites_its_reward_and_its_advantage() -> None:
    facts = history()
    draft = one(facts, RequirementsDrafted, round=1)
    tree = led_to(Past(facts), draft, Telling())
    rebuilt, failed, reward = tree.branches
    assert [each.kind for each in (rebuilt, failed, reward)] == [
        "ImplementationWritten", "ImplementationFailed", "RewardScored"
    ]  # fmt: skip
    assert [each.kind for each in rebuilt.branches] == ["SuiteRan"]
    assert rebuilt.branches[0].branches == ()
    (update,) = reward.branches
    assert update.event_id == one(facts, PolicyUpdated, round=1).event_id
    assert update.said.endswith(", advantage +0.300")


def test_up_and_down_are_the_same_ways() -> None:
    facts = history()
    past = Past(facts)
    up = {(fact.event_id, cause) for fact in past.facts.values() for cause in past.causes(fact) if cause in past.facts}
    down = {(effect, fact.event_id) for fact in past.facts.values() for effect in past.effects(fact)}
    rewards = {(fact.event_id, fact.requirements_id) for fact in facts if isinstance(fact, RewardScored)}
    assert down == up | rewards


def test_the_order_of_arrival_changes_nothing() -> None:
    facts = history()
    update = one(facts, PolicyUpdated, round=2)
    for tell in (came_from, led_to):
        assert as_plain(tell(Past(reversed(facts)), update, WHOLE)) == as_plain(tell(Past(facts), update, WHOLE))


def test_what_weighed_most_comes_first_and_the_rest_is_counted() -> None:
    facts = history(applications=6)
    update = one(facts, PolicyUpdated, round=1)
    assert isinstance(update, PolicyUpdated)
    advantages = tuple(0.1 * place - 0.55 for place in range(len(update.reward_ids)))
    past = Past([replace(update, advantages=advantages), *facts])
    tree = came_from(past, past.facts[update.event_id], Telling())
    shown = [each for each in tree.branches if each.kind == "RewardScored"]
    assert [each.said[-6:] for each in shown] == ["-0.550", "+0.550", "-0.450"]
    assert tree.left_out == f"{len(advantages) - SHOWN} more RewardScored (--all shows them)"
    assert len(advantages) > LONG
    assert len(came_from(past, past.facts[update.event_id], WHOLE).branches) > len(advantages)


def test_a_fact_is_told_once_and_named_where_it_is_met_again() -> None:
    facts = history()
    tree = came_from(Past(facts), one(facts, RewardScored, round=1), Telling())
    told = [each for each in nodes(tree) if each.kind == "RequirementsDrafted"]
    assert [(each.again, bool(each.branches)) for each in told] == [(False, True), (True, False)]
    assert sum("(see above)" in line for line in lines(tree)) == 1


def test_tests_that_failed_stand_beneath_their_suite() -> None:
    facts = history()
    tree = came_from(Past(facts), one(facts, SuiteRan, round=1), Telling())
    assert tree.said.startswith("tests of impl-0: failed, 2 of 3 tests passed")
    assert tree.details == ("test t2: failed, '{\"a\\\\b\", NULL}'",)


def test_an_answer_used_again_names_the_one_that_was_paid_for() -> None:
    facts = history()
    suite = one(facts, SuiteRan, round=2)
    assert isinstance(suite, SuiteRan)
    unit = SuiteUnit(work_key="w", path="t", test_ids=("t0",), verdict=Verdict.PASSED, answered_from="paid elsewhere")
    again = replace(suite, units=(unit,), answered_from=one(facts, SuiteRan, round=1).event_id)
    past = Past([again, *facts], {"paid elsewhere": "tests of another run"})
    told = came_from(past, again, Telling()).branches
    assert [each.said for each in told[1:]] == [
        "tests of impl-0: failed, 2 of 3 tests passed, whose answer was used again",
        "tests of another run",
    ]
    assert past.wanting() == set()


def test_what_is_not_on_the_log_is_said_to_be_missing() -> None:
    facts = history()
    suite = one(facts, SuiteRan, round=1)
    assert Past([suite]).wanting() == set(causes(suite))
    (missing,) = came_from(Past([suite]), suite, Telling()).branches
    assert missing.said == "a fact not on this log"


def test_what_a_model_wrote_cannot_write_to_the_terminal() -> None:
    facts = history()
    draft = one(facts, RequirementsDrafted, round=1)
    evil = replace(draft, text="\x1b[2Jgone\r\nsecond\u202e line")  # type: ignore[call-arg]
    app = one(facts, ApplicationRegistered)
    loud = replace(app, name="\x1b]0;title\x07")  # type: ignore[call-arg]
    tree = came_from(Past([evil, loud, *facts]), one(facts, RewardScored, round=1), Telling(text=True))
    printed = "\n".join(lines(tree))
    assert "gone" in printed
    assert "title" in printed
    assert all(each.isprintable() or each == "\n" for each in printed)


# ---- how a person names what is to be explained --------------------------------------------------------------------


def log_of(*facts: Event) -> MemoryLog:
    log = MemoryLog(3, seed=3)
    log.publish(facts)
    return log


def test_a_number_is_the_update_of_that_train_round() -> None:
    facts = history()
    found, past = explained(log_of(*facts), "2")
    assert found == one(facts, PolicyUpdated, round=2)
    assert one(facts, RewardScored, round=1).event_id not in past.facts, "another round is another question"
    with pytest.raises(BadInput, match="no update of train round 3: 2 rounds are closed"):
        explained(log_of(*facts), "3")


@pytest.mark.parametrize(
    "kind", [RequirementsDrafted, SuiteRan, RoundOpened, RunStarted, RunEnded, ValidationCompleted]
)
def test_an_id_or_its_beginning_is_that_fact_and_what_it_comes_from_is_read(kind: type[Event]) -> None:
    facts = history()
    log = log_of(*facts)
    fact = one(facts, kind)
    for name in (fact.event_id, fact.event_id[:13]):
        found, past = explained(log, name)
        assert found == fact
        assert all(each.said != "a fact not on this log" for each in nodes(came_from(past, found, WHOLE)))


def test_an_applications_id_leads_to_every_round_it_was_drawn_for() -> None:
    facts = history()
    app = one(facts, ApplicationRegistered)
    found, past = explained(log_of(*facts), app.event_id)
    assert found == app
    kinds = {each.kind for each in nodes(led_to(past, found, WHOLE))}
    assert {"ApplicationDrawn", "RequirementsDrafted", "SuiteRan", "RewardScored", "PolicyUpdated"} <= kinds


def test_a_test_is_found_by_its_suite_or_by_the_code_it_judged() -> None:
    facts = history()
    suite = one(facts, SuiteRan, round=1)
    assert isinstance(suite, SuiteRan)
    for name in (suite.event_id, suite.implementation_id):
        assert explained(log_of(*facts), f"{name}::t2")[0] == suite
    with pytest.raises(BadInput, match=r"ran no test 't9'"):
        explained(log_of(*facts), f"{suite.event_id}::t9")
    with pytest.raises(BadInput, match=r"RewardScored .* ran no test"):
        explained(log_of(*facts), f"{one(facts, RewardScored).event_id}::t2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("abc", "neither a train round nor an id"),
        ("what", "neither a train round nor an id"),
        ("0" * 30, "no fact on this log begins with"),
        ("aaaa", "2 facts begin with aaaa"),
    ],
)
def test_a_name_that_means_nothing_or_too_much_is_refused(name: str, said: str) -> None:
    twins = [replace(run_ended(), event_id=f"aaaa{number}") for number in range(2)]
    with pytest.raises(BadInput, match=said):
        explained(log_of(*history(), *twins), name)


def test_a_fact_of_another_run_than_the_latest_is_found_on_the_log() -> None:
    facts = history()
    later = replace(run_started(seconds=99), run_id=CHILD, event_id="later")
    draft = one(facts, RequirementsDrafted)
    assert explained(log_of(*facts, later), draft.event_id[:12])[0] == draft
    with pytest.raises(BadInput, match="no fact"):
        explained(log_of(*facts, later), draft.event_id[:12], CHILD)


def test_a_fork_is_explained_beyond_its_cut_by_its_parent() -> None:
    facts = history()
    forked = replace(run_started(seconds=99), run_id=CHILD, event_id="forked", parent_run_id=RUN, parent_step=1)
    found, past = explained(log_of(*facts, forked), "1", CHILD)
    assert found == one(facts, PolicyUpdated, round=1)
    assert one(facts, RequirementsDrafted, round=1).event_id in ids(came_from(past, found, WHOLE))
    with pytest.raises(BadInput, match="no update of train round 2"):
        explained(log_of(*facts, forked), "2", CHILD)


def test_the_rewards_of_a_re_scoring_come_from_suites_of_the_run_that_it_scores_again() -> None:
    facts = history()
    again = replace(run_started(seconds=99), run_id=CHILD, event_id="again", parent_run_id=RUN)
    reward = replace(one(facts, RewardScored, round=1), run_id=CHILD, event_id="feedbeef", recorded_at=DAWN)
    found, past = explained(log_of(*facts, again, reward), "feed")
    assert found == reward
    kinds = {each.kind for each in nodes(came_from(past, found, WHOLE))}
    assert {"SuiteRan", "ImplementationWritten", "RequirementsDrafted", "ApplicationRegistered"} <= kinds
