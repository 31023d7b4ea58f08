"""A fork's whole past is what it shares with the runs it comes from, and its own facts: each once, none too many."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.memory import MemoryLog
from infra.problems import BadInput
from infra.runs import Run, cut_of, history_of, label, lineage, rounds_behind, runs, runs_on, updates_of
from schemas.events import Event, PolicyUpdated, Purpose, RoundOpened, RunStarted
from tests.histories import policy_updated, round_opened, run_ended, run_started

TRAIN, VALIDATE = Purpose.TRAIN, Purpose.VALIDATE
SKIPPED = 2  # the train round that teaches nothing, so that step N is made in round N + 1 from here on


def a_start(run_id: str, parent: str | None = None, step: int | None = None) -> RunStarted:
    return replace(run_started(run_id=run_id, seconds=len(run_id)), parent_run_id=parent, parent_step=step)


def rounds(run_id: str, first: int, last: int) -> Iterator[Event]:
    """Train rounds, and a validation opened after each."""
    for number in range(first, last + 1):
        for purpose in (TRAIN, VALIDATE):
            opened = round_opened(number, purpose)
            yield replace(opened, run_id=run_id, event_id=f"{run_id} {purpose} {number}")
        update = replace(policy_updated(number, run_id=run_id), step=number if number < SKIPPED else number - 1)
        yield replace(update, skipped="flat") if number == SKIPPED else update


def facts() -> list[Event]:
    """Run a to round 6; ab from its step 3, made in round 4, to round 6; abc from ab's step 2, which is a's."""
    return [
        *(a_start("a"), *rounds("a", 1, 6), run_ended("a")),
        *(a_start("ab", "a", 3), *rounds("ab", 5, 6)),
        *(a_start("abc", "ab", 2), *rounds("abc", 4, 6), a_start("new", "a", None)),
    ]


FOUND = runs(facts())


def the(run_id: str) -> Run:
    return next(run for run in FOUND if run.run_id == run_id)


def line(run_id: str) -> list[Run]:
    return lineage(FOUND, the(run_id))


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_the_same_whatever_the_order_of_their_facts(seed: int) -> None:
    shuffled = facts()
    random.Random(seed).shuffle(shuffled)
    assert runs([*shuffled, *facts()]) == FOUND


def test_a_lineage_leads_from_the_eldest_to_the_run_and_a_rescoring_has_none() -> None:
    assert [run.run_id for run in line("abc")] == ["a", "ab", "abc"]
    assert [run.run_id for run in line("new")] == ["new"]
    assert [run.rescores for run in (*line("abc"), *line("new"))] == [False, False, False, True]


def test_a_step_is_the_update_that_made_it_not_a_round_that_taught_nothing() -> None:
    assert {step: update.round for step, update in updates_of(line("a")).items()} == {1: 1, 2: 3, 3: 4, 4: 5, 5: 6}


def test_the_updates_of_a_fork_are_those_it_shares_and_its_own() -> None:
    updates = updates_of(line("abc"))
    assert {step: (each.run_id, each.round) for step, each in updates.items()} == {
        1: ("a", 1),
        2: ("a", 3),
        3: ("abc", 4),
        4: ("abc", 5),
        5: ("abc", 6),
    }


def test_a_fork_is_cut_where_its_step_was_made_and_a_run_that_begins_untrained_nowhere() -> None:
    cuts = [cut_of(line(run_id)) for run_id in ("ab", "abc")]
    assert [(cut.run_id, cut.round) for cut in cuts if cut] == [("a", 4), ("a", 3)]
    assert cut_of(line("a")) is None
    assert cut_of([the("a"), Run(started=a_start("untrained", "a", 0))]) is None


def test_a_fork_that_has_closed_no_round_has_behind_it_what_it_shares() -> None:
    assert [rounds_behind(line(run_id)) for run_id in ("a", "ab", "new")] == [6, 6, 0]
    assert rounds_behind([the("a"), Run(started=a_start("young", "a", 3))]) == 4


def a_log() -> MemoryLog:
    log = MemoryLog()
    log.publish(facts())
    return log


def told(run_id: str) -> dict[str, str]:
    """The rounds of a history by purpose: the run that opened each, and its number."""
    log = a_log()
    found = runs_on(log)
    assert found == FOUND
    history = list(history_of(log, line(run_id)))
    assert len({each.event_id for each in history}) == len(history)
    opened = sorted((each.round, each.run_id, each.purpose) for each in history if isinstance(each, RoundOpened))
    return {
        str(purpose): " ".join(f"{run}{number}" for number, run, each in opened if each is purpose)
        for purpose in (TRAIN, VALIDATE)
    }


def test_a_history_holds_training_up_to_the_cut_and_other_rounds_opened_before_it() -> None:
    assert told("ab") == {"train": "a1 a2 a3 a4 ab5 ab6", "validate": "a1 a2 a3 ab5 ab6"}


def test_of_several_cuts_the_earliest_counts() -> None:
    assert told("abc") == {"train": "a1 a2 a3 abc4 abc5 abc6", "validate": "a1 a2 abc4 abc5 abc6"}


def test_a_history_tells_every_start_and_no_end_but_its_own() -> None:
    history = list(history_of(a_log(), line("abc")))
    assert sorted(each.run_id or "" for each in history if isinstance(each, RunStarted)) == ["a", "ab", "abc"]
    assert not any(each.event_id == run_ended("a").event_id for each in history)
    assert [each.run_id for each in history if isinstance(each, PolicyUpdated)].count("a") == 3


def test_a_parent_that_is_missing_or_the_run_itself_is_named() -> None:
    with pytest.raises(BadInput, match="run ab comes from run a, which is not on this log"):
        lineage([the("ab")], the("ab"))
    circle = [Run(started=a_start("x", "y", 1)), Run(started=a_start("y", "x", 1))]
    with pytest.raises(BadInput, match="said to come from itself"):
        lineage(circle, circle[0])
    with pytest.raises(BadInput, match="begins at step 9 of its parent, which this log does not hold"):
        cut_of([the("a"), Run(started=a_start("late", "a", 9))])


def test_a_label_is_no_other_way_of_naming_a_run() -> None:
    assert label("reward-0.5_b") == "reward-0.5_b"
    for name in ("latest", "", "home:run", "two words"):
        with pytest.raises(BadInput, match="cannot name a run"):
            label(name)
