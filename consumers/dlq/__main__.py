"""Records that could not be worked on: list them, look at one, have them worked on again after a fix.

    iccm dlq list [--filter F]              every dead letter, and whether it was replayed
    iccm dlq show ID                        one of them: its record, what it owed, what stands on the log
    iccm dlq replay ID... | --filter F      have the stage work on the record again

A filter is stage=STAGE, topic=TOPIC, run=RUN, exception~TEXT or open; several are joined by and. A replay writes what
is owed and not yet on the log: nothing that stands there changes, and repeating it is harmless. It exits with 9 when a
record failed again; the others are done all the same. A record of a run that has ended is refused.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial

from consumers import project
from consumers.__main__ import JOBS
from consumers.dlq import again, words
from consumers.dlq.again import Case, Outcome, Work
from consumers.dlq.letters import FILTERS, Letter, chosen, letters, named
from infra import process, services, settings
from infra.kafka import KafkaLog
from infra.log import Log, OutcomeUnknown, Writer
from infra.opening import running_log
from infra.postgres import Database
from infra.problems import BadInput, ServiceUnavailable, StillDead
from schemas.events import DeadLettered, DeadLetterReplayed, Event, SuiteRan
from streams.gathering import Gathering, StrayFact, gather


def main(arguments: list[str] | None = None) -> int:
    """One command, to its exit code."""
    options = _parser().parse_args(arguments)
    return process.run(lambda: _command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iccm dlq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show | replay")
    listed = commands.add_parser("list", help="every dead letter, and whether it was replayed")
    shown = commands.add_parser("show", help="one dead letter, its record, and what stands on the log")
    shown.add_argument("id", help="a dead letter's id, or the beginning of it")
    replayed = commands.add_parser("replay", help="have records worked on again")
    replayed.add_argument("id", nargs="*", help="dead letters by id, or the beginning of it")
    replayed.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    for each in (listed, replayed):
        each.add_argument("--filter", action="append", default=[], metavar="F", help=FILTERS)
    for each in (listed, shown, replayed):
        each.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def _command(options: argparse.Namespace) -> int:
    picked = chosen(getattr(options, "filter", []))
    if options.command == "replay" and not options.id and not options.filter:
        raise BadInput("replay needs to know which", "name dead letters, or `--filter open` for all that are open")
    known = settings.read()
    with running_log(known) as log:
        found = letters_on(log)
        match options.command:
            case "list":
                listed = [each for each in found if picked(each)]
                _say([words.described(each) for each in listed], words.listed(listed), as_json=options.json)
            case "show":
                case = again.cases(log, [named(found, options.id)])[0]
                _say(words.described_case(case), words.shown(case), as_json=options.json)
            case _:
                wanted = [named(found, each) for each in dict.fromkeys(options.id)] or found
                asked = again.cases(log, [each for each in wanted if picked(each)])
                return _replay(log, known, _due(asked, named=bool(options.id)), options)
    return 0


def letters_on(log: Log) -> list[Letter]:
    """Every dead letter on the log, the oldest first."""
    records = log.replay((DeadLettered, DeadLetterReplayed))
    return letters(record.event for record in records if record.event is not None)


# ---- replay --------------------------------------------------------------------------------------------------------


def _due(asked: Sequence[Case], *, named: bool) -> list[Case]:
    """The cases there is something to do for; one that was named and is refused is an error."""
    for case in asked:
        if case.is_refused:
            said = f"the run of dead letter {case.letter.dead.event_id} has ended"
            if named:
                raise BadInput(said, "nobody waits for what it owes; leave it out")
            process.say(f"left out: {said}")
        elif case.is_settled:
            process.say(f"left out: {case.letter.dead.event_id[:8]} was replayed, and all it owes stands on the log")
    return [case for case in asked if not case.is_refused and not case.is_settled]


def _replay(log: KafkaLog, known: settings.Settings, due: Sequence[Case], options: argparse.Namespace) -> int:
    if options.dry_run:
        _say([words.described_case(case) for case in due], [words.plan(case) for case in due], as_json=options.json)
        return 0
    outcomes: list[Outcome] = []
    stop = process.stop_on_signals()
    for outcome in _outcomes(log, known, due):
        outcomes.append(outcome)
        (process.say if options.json else print)(outcome.as_text())
        if stop():
            break
    if options.json:
        _say([asdict(outcome) for outcome in outcomes], [], as_json=True)
    failed = sum(bool(outcome.exception) for outcome in outcomes)
    if failed:
        raise StillDead(f"{failed} of {len(outcomes)} records failed again", "`iccm dlq show ID` says why")
    return process.INTERRUPTED if len(outcomes) < len(due) else 0


def _outcomes(log: KafkaLog, known: settings.Settings, due: Sequence[Case]) -> Iterator[Outcome]:
    """Each replayed record, in one transaction with what followed. A stage's models load when they are first needed."""
    with ExitStack() as doors, log.writer(f"{known.namespace}.dlq") as writer:
        works: dict[str, Work] = {}
        for case in due:
            stage = case.letter.dead.stage
            if stage not in works and case.needs_work:
                works[stage] = doors.enter_context(_work(stage, log, known))
            facts, outcome = again.again(case, works.get(stage, again.nothing), process.clock)
            _write(writer, facts, outcome)
            yield outcome


def _write(writer: Writer, facts: Sequence[Event], outcome: Outcome) -> None:
    try:
        writer.publish(facts)
    except OutcomeUnknown as unknown:
        raise ServiceUnavailable(
            f"nobody can say whether {outcome.place} was written: {unknown}", "run it again: ids make it harmless"
        ) from unknown


@contextmanager
def _work(stage: str, log: KafkaLog, known: settings.Settings) -> Iterator[Work]:
    match stage:
        case again.PROJECT:
            database = Database(services.endpoints(known).postgres, schema=known.namespace)
            yield partial(_applied, database)
        case again.REWARDS:
            yield partial(_scored, log)
        case _:
            with JOBS[stage](log, known) as job:
                yield again.stepped(job)


def _applied(database: Database, case: Case) -> list[Event]:
    assert case.record is not None
    project.admit(database, case.record)
    return []


def _scored(log: Log, case: Case) -> list[Event]:
    """The draft's reward once all its verdicts can be read, and a verdict that nobody could read once more."""
    assert case.record is not None
    assert isinstance(case.record.event, SuiteRan)
    state, suite, rewards = Gathering(), case.record.event, list[Event]()
    for each in again.facts_beside(log, case.record):
        try:
            rewards += gather(state, each, clock=process.clock)[1]
        except StrayFact:
            if each.event_id == suite.event_id:
                raise
    if case.was_unreadable:
        return [suite, *rewards]
    if not rewards:
        raise Waits(f"{len(state.open.get(suite.requirements_id, ()))} of {len(suite.implementers)} verdicts are there")
    return rewards


class Waits(Exception):
    """A draft whose verdicts are not all on the log cannot be scored yet."""


def _say(described: object, lines: Sequence[str], *, as_json: bool) -> None:
    """The result: for a machine, or line by line."""
    text = json.dumps(described, indent=1, ensure_ascii=False) if as_json else "\n".join(lines)
    if text:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
