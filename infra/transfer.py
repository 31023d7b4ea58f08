"""A run from a log into a file, and from a file onto a log.

A file holds one run that has ended, the runs it descends from, and the applications they refer to. On the log it comes
to, a run is at once there and over: its RunStarted and RunEnded are written in one transaction before its other facts,
so no worker takes up what it finds of it. Ids make it repeatable: what is there already is not written again, and an
import that was interrupted is completed by the next. Where a run's facts say where they stood on the log they came
from, they are brought up to date (RunStarted.offsets) or left out (dead letters): both name places on that log alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra import archive
from infra.archive import Contents
from infra.log import Log, OutcomeUnknown, Record
from infra.problems import BadInput, RunsDiffer, ServiceUnavailable
from infra.runs import Run, facts_of, named, runs_on
from schemas.avro import encode
from schemas.equality import first_difference
from schemas.events import (
    ApplicationRegistered,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
    Event,
    RunEnded,
    RunStarted,
)
from schemas.identity import files_digest
from schemas.topics import KINDS

APPLICATION_KINDS = (ApplicationRegistered, ApplicationVerified)
RUN_KINDS = tuple(kind for kind in KINDS if kind not in APPLICATION_KINDS)
PLACED = (DeadLettered, DeadLetterReplayed)  # what is about one log alone
SAY_EVERY = 20_000  # facts
EXPORT_AGAIN = "do not use it; export the run again"

Say = Callable[[str], None]


# ---- from a log into a file ----------------------------------------------------------------------------------------


def export(log: Log, name: str, file: Path, say: Say) -> Contents:
    """Write the run of this name with all it descends from. BadInput where one of them is open: facts will follow."""
    found = runs_on(log)
    line = descent(found, named(found, name))
    for each in line:
        if each.ended is None:
            raise BadInput(
                f"run {each.run_id} has not ended, so its facts are not complete",
                "`iccm run start` with its specification goes on with it; `iccm run list` shows when it has ended",
            )
    return archive.write(file, [each.run_id for each in line], _said(_records(log, line), say))


def descent(found: Sequence[Run], run: Run) -> list[Run]:
    """A run and all it needs to be verified: the runs it was forked from or scores again, the eldest first."""
    by_id = {each.run_id: each for each in found}
    line = [run]
    while (parent_id := line[0].started.parent_run_id) is not None:
        if parent_id not in by_id:
            raise BadInput(f"run {line[0].run_id} comes from {parent_id}, which is not on this log", "import it first")
        if by_id[parent_id] in line:
            raise BadInput(f"run {parent_id} is said to come from itself")
        line.insert(0, by_id[parent_id])
    return line


def _records(log: Log, line: Sequence[Run]) -> Iterator[Record]:
    wanted = {each for run in line for each in run.started.application_ids}
    for record in log.replay(APPLICATION_KINDS):
        if isinstance(record.event, APPLICATION_KINDS) and record.event.application_id in wanted:
            yield record
    for run in line:
        for record in log.replay(RUN_KINDS, start=run.started.offsets):
            if record.event is not None and record.event.run_id == run.run_id:
                yield record


# ---- from a file onto a log ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What became of a file's facts."""

    written: int
    there: int  # were on the log already, equal
    left_out: int  # dead letters: they name places on the log they come from


@dataclass(slots=True)
class Notes:
    """What is kept of a file that was checked: enough to tell its facts from those of a log."""

    file: Path
    contents: Contents = field(init=False)
    digests: dict[str, bytes] = field(default_factory=dict)  # by event id
    started: dict[str, RunStarted] = field(default_factory=dict)  # by run
    ended: dict[str, RunEnded] = field(default_factory=dict)
    runs: set[str | None] = field(default_factory=set)
    left_out: int = 0
    misnamed: str = ""  # an application that is not what its id says

    def take(self, record: Record) -> None:
        """One more fact of the file."""
        event = record.event
        if event is None or isinstance(event, PLACED):
            self.left_out += 1
            return
        self.digests.setdefault(event.event_id, _digest(event))
        if not isinstance(event, APPLICATION_KINDS):
            self.runs.add(event.run_id)
        match event:
            case RunStarted():
                self.started.setdefault(event.run_id or "", event)
            case RunEnded():
                self.ended.setdefault(event.run_id or "", event)
            case ApplicationRegistered() if files_digest(event.source, event.tests) != event.application_id:
                self.misnamed = event.application_id


def checked(file: Path) -> Notes:
    """Read a whole file. ArchiveDamaged unless every byte is as it was written; BadInput unless its facts are those of
    the runs it names, each from its start to its end, and applications have the content that their ids say."""
    notes = Notes(file)
    notes.contents = archive.check(file, notes.take)
    for run_id in notes.contents.runs:
        if run_id not in notes.started or run_id not in notes.ended:
            raise BadInput(f"{file} does not hold run {run_id!r} from its start to its end", EXPORT_AGAIN)
    if strays := notes.runs - set(notes.contents.runs):
        raise BadInput(f"{file} holds facts of run {min(map(str, strays))!r}, which it does not name", EXPORT_AGAIN)
    if notes.misnamed:
        raise BadInput(f"{file} holds an application {notes.misnamed!r} whose content has another id", EXPORT_AGAIN)
    return notes


def take_in(log: Log, notes: Notes, namespace: str, say: Say) -> Arrival:
    """Write what the log does not have yet of a checked file. RunsDiffer where it has other facts of a run. What a run
    descends from stands on the log before it begins."""
    there = _there(log, notes)
    arrival = Arrival(written=len(notes.digests) - len(there), there=len(there), left_out=notes.left_out)
    if not arrival.written:
        return arrival
    for run_id in notes.contents.runs:
        started, ended = notes.started[run_id], notes.ended[run_id]
        if started.event_id not in there:
            _write_bounds(log, started, ended, f"{namespace}.{run_id}.import")
        there |= {started.event_id, ended.event_id}
        there |= _write_rest(log, notes.file, run_id, there, say)
    return arrival


def _write_bounds(log: Log, started: RunStarted, ended: RunEnded, name: str) -> None:
    """The run begins and is over at one moment of the log, and says where the log stood."""
    try:
        with log.writer(name) as writer:
            writer.publish([replace(started, offsets=log.end_offsets()), ended])
    except OutcomeUnknown as unknown:
        raise ServiceUnavailable(f"nobody can say whether the import began: {unknown}", "repeat it") from unknown


def _write_rest(log: Log, file: Path, run_id: str, there: Set[str], say: Say) -> set[str]:
    """Write the run's facts, and those of no run, that are not there yet. Returns their ids."""
    written: set[str] = set()
    for block in archive.blocks(file):
        facts = [record.event for record in block if record.event is not None]
        missing = [fact for fact in facts if fact.run_id in (None, run_id) and fact.event_id not in there]
        log.publish(fact for fact in missing if not isinstance(fact, PLACED))
        written.update(fact.event_id for fact in missing)
        say(f"run {run_id}: {len(written):,} facts written")
    return written


# ---- what is there already -----------------------------------------------------------------------------------------


def _there(log: Log, notes: Notes) -> set[str]:
    """Ids of the file's facts that stand on the log."""
    known = (record.event for record in log.replay(APPLICATION_KINDS))
    there = {fact.event_id for fact in known if fact is not None and fact.event_id in notes.digests}
    found = {run.run_id: run for run in runs_on(log)}
    for run_id in notes.contents.runs:
        if run_id in found:
            there |= _equal(log, found[run_id], notes)
    return there


def _equal(log: Log, run: Run, notes: Notes) -> set[str]:
    """Ids of a run's facts on the log, once they are known to be the file's."""
    if run.ended is None:
        raise RunsDiffer(f"run {run.run_id} is open on this log and has ended in {notes.file}", "let it end here first")
    digests: dict[str, bytes] = {}
    for fact in _facts(log, run):
        digests.setdefault(fact.event_id, _digest(fact))
    if any(notes.digests.get(each) != digest for each, digest in digests.items()):
        in_file = (fact for fact in archive.read(notes.file) if fact.run_id == run.run_id and fact.event_id in digests)
        difference = first_difference(_facts(log, run), in_file)
        if difference is not None:
            raise RunsDiffer(
                f"run {run.run_id} is on this log (left) with other facts than in {notes.file} (right): {difference}",
                "import it under another ICCM_HOME or ICCM_NAMESPACE",
            )
    return set(digests)


def _facts(log: Log, run: Run) -> Iterator[Event]:
    return (fact for fact in facts_of(log, run) if not isinstance(fact, PLACED))


def _digest(event: Event) -> bytes:
    return hashlib.sha256(encode(archive.placeless(event))).digest()[:16]


def _said(facts: Iterable[Record], say: Say) -> Iterator[Record]:
    """The same, with a word about how many it were."""
    count = 0
    for count, record in enumerate(facts, 1):
        if count % SAY_EVERY == 0:
            say(f"{count:,} facts read")
        yield record
    say(f"{count:,} facts read, packing them")
