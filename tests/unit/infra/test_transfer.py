"""A run from one log to another: whole, once, and over before anyone can work on it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infra import archive, transfer
from infra.log import Log, Record
from infra.memory import MemoryLog
from infra.problems import BadInput, RunsDiffer
from infra.runs import facts_of, named, runs_on
from infra.transfer import PLACED, Arrival
from schemas.equality import first_difference
from schemas.events import (
    ApplicationRegistered,
    ApplicationRejected,
    Event,
    RequirementsDrafted,
    RunEnded,
    RunStarted,
    SuiteRan,
    Verdict,
)
from schemas.topics import KINDS
from tests.histories import RUN, application, run_ended, run_started
from tests.laws.drafting import drafting_job
from tests.whole_run import dead_lettered, whole_run

CHILD = RUN[:-1] + "b"


def silent(_: str) -> None:
    """Nobody listens."""


def history() -> list[Event]:
    """One whole run and its applications, one of which it does not use; a dead letter is of the run."""
    facts = list(whole_run())
    apps = tuple(fact.application_id for fact in facts if isinstance(fact, ApplicationRegistered))
    letter = replace(dead_lettered(), run_id=RUN, event_id="of the run")
    named_apps = [replace(fact, application_ids=apps) if isinstance(fact, RunStarted) else fact for fact in facts]
    return [application("x = 1\n", "not of the run"), *named_apps, letter]


def log_of(*facts: Event, seed: int = 1) -> MemoryLog:
    log = MemoryLog(3, seed)
    log.publish(facts)
    return log


def exported(tmp_path: Path, log: MemoryLog, name: str = "latest") -> Path:
    file = tmp_path / "run.iccm"
    transfer.export(log, name, file, silent)
    return file


def imported(log: Log, file: Path) -> Arrival:
    return transfer.take_in(log, transfer.checked(file), "test", silent)


def on(log: Log, *kinds: type[Event]) -> list[Event]:
    return [record.event for record in log.replay(kinds or KINDS) if record.event is not None]


def test_a_run_arrives_whole_with_what_it_refers_to(tmp_path: Path) -> None:
    there, here = log_of(*history()), MemoryLog(2, seed=5)
    arrival = imported(here, exported(tmp_path, there))
    theirs, ours = named(runs_on(there), RUN), named(runs_on(here), RUN)
    assert first_difference(facts_of(there, theirs), facts_of(here, ours)) is None
    assert ours.ended is not None
    unused, *expected = (fact for fact in history() if not isinstance(fact, (ApplicationRejected, *PLACED)))
    assert sorted(fact.event_id for fact in on(here)) == sorted(fact.event_id for fact in expected)
    assert unused not in on(here)
    assert (arrival.written, arrival.there, arrival.left_out) == (len(on(here)), 0, 1)


def test_a_run_that_arrives_gives_nobody_work(tmp_path: Path) -> None:
    here = MemoryLog(3, seed=7)
    imported(
        here, exported(tmp_path, log_of(*(fact for fact in history() if not isinstance(fact, RequirementsDrafted))))
    )
    before = here.end_offsets()
    here.settle([drafting_job()])
    assert here.end_offsets() == before


def test_a_run_says_where_the_log_stood_that_it_came_to(tmp_path: Path) -> None:
    here = log_of(*(replace(run_started(), event_id=f"other {i}", run_id=f"other {i}") for i in range(40)))
    stood = here.end_offsets()
    imported(here, exported(tmp_path, log_of(*history())))
    run = named(runs_on(here), RUN)
    assert run.started.offsets == stood
    assert len(list(facts_of(here, run))) == len([fact for fact in on(here) if fact.run_id == RUN])


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    file, here = exported(tmp_path, log_of(*history())), MemoryLog(3)
    first = imported(here, file)
    before = here.end_offsets()
    again = imported(here, file)
    assert here.end_offsets() == before
    assert (again.written, again.there) == (0, first.written)


def test_importing_where_it_came_from_changes_nothing(tmp_path: Path) -> None:
    there = log_of(*history())
    before = there.end_offsets()
    assert imported(there, exported(tmp_path, there)).written == 0
    assert there.end_offsets() == before


@pytest.mark.parametrize("count", [2, 3, 30])
def test_an_interrupted_import_is_completed(tmp_path: Path, count: int) -> None:
    file, whole, here = exported(tmp_path, log_of(*history())), MemoryLog(3), MemoryLog(3)
    imported(whole, file)
    bounds = [fact for fact in on(whole) if isinstance(fact, RunStarted | RunEnded)]
    here.publish([*bounds, *(fact for fact in on(whole) if fact not in bounds)][:count])
    arrival = imported(here, file)
    assert arrival.there >= 2
    assert sorted(fact.event_id for fact in on(here)) == sorted(fact.event_id for fact in on(whole))


def test_other_facts_of_the_same_run_are_refused_and_the_first_difference_is_named(tmp_path: Path) -> None:
    suite = next(fact for fact in history() if isinstance(fact, SuiteRan))
    other = replace(suite, verdict=Verdict.PASSED)
    here = log_of(*(other if fact is suite or fact == suite else fact for fact in history()))
    before = here.end_offsets()
    with pytest.raises(RunsDiffer, match=r"SuiteRan .*: verdict is .*passed.* on the left, .*failed.* on the right"):
        imported(here, exported(tmp_path, log_of(*history())))
    assert here.end_offsets() == before


def test_facts_that_the_file_does_not_have_are_a_difference_too(tmp_path: Path) -> None:
    without = [fact for fact in history() if not (isinstance(fact, SuiteRan) and fact.round == 2)]
    with pytest.raises(RunsDiffer, match=r"SuiteRan .* is present on the left, absent on the right"):
        imported(log_of(*history()), exported(tmp_path, log_of(*without)))


def test_clocks_and_machines_are_no_difference(tmp_path: Path) -> None:
    slower = [replace(fact, sandbox="another") if isinstance(fact, SuiteRan) else fact for fact in history()]
    assert imported(log_of(*slower), exported(tmp_path, log_of(*history()))).written == 0


def test_an_open_run_is_neither_exported_nor_imported_onto(tmp_path: Path) -> None:
    open_run = [fact for fact in history() if not isinstance(fact, RunEnded)]
    with pytest.raises(BadInput, match="has not ended"):
        exported(tmp_path, log_of(*open_run))
    with pytest.raises(RunsDiffer, match="is open on this log"):
        imported(log_of(*open_run), exported(tmp_path, log_of(*history())))


def of_child(fact: Event) -> Event:
    return replace(fact, run_id=CHILD, event_id=f"child of {fact.event_id}")


@pytest.mark.parametrize("step", [1, None])
def test_a_fork_and_a_re_scoring_bring_the_run_they_come_from(tmp_path: Path, step: int | None) -> None:
    started = replace(run_started(seconds=100), parent_run_id=RUN, parent_step=step, label="child")
    there = log_of(*history(), of_child(started), of_child(run_ended(seconds=200)))
    file, here = exported(tmp_path, there, "child"), MemoryLog(3)
    assert archive.check(file).runs == (RUN, CHILD)
    imported(here, file)
    parent, child = runs_on(here)
    assert [parent.run_id, child.run_id] == [RUN, CHILD]
    before = [record.event for record in here.replay(KINDS, until=child.started.offsets)]
    assert set(facts_of(here, parent)) <= set(before), "what it descends from was there when it began"
    without = log_of(of_child(started), of_child(run_ended()))
    with pytest.raises(BadInput, match="not on this log"):
        exported(tmp_path, without, "child")


def forged(tmp_path: Path, facts: Sequence[Event]) -> Path:
    file = tmp_path / "forged.iccm"
    archive.write(file, [RUN], [Record(topic="runs", partition=0, offset=0, event=fact) for fact in facts])
    return file


def test_a_file_with_more_or_less_than_its_runs_is_refused(tmp_path: Path) -> None:
    whole = [run_started(), run_ended()]
    for facts, said in (
        (whole[:1], "from its start to its end"),
        (whole[1:], "from its start to its end"),
        ([*whole, replace(dead_lettered(), run_id="x"), of_child(run_ended())], "which it does not name"),
        ([*whole, replace(application(), application_id="a" * 64)], "whose content has another id"),
    ):
        with pytest.raises(BadInput, match=said):
            transfer.checked(forged(tmp_path, facts))
