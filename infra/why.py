"""`iccm why ID`: finds a fact on the log and prints where it came from and what came of it."""

import argparse
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

from infra import process, settings
from infra.lineage import (
    SHORT_ID,
    Past,
    Telling,
    as_plain,
    came_from,
    headline,
    led_to,
    lines,
    printable,
    said,
    test_line,
)
from infra.log import Log
from infra.opening import running_log
from infra.problems import BadInput
from infra.runs import LATEST, Run, history_of, lineage, named, runs_on
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    ApplicationRejected,
    ApplicationVerified,
    Event,
    ImplementationFailed,
    ImplementationWritten,
    PolicyUpdated,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
    ValidationCompleted,
)
from schemas.topics import KINDS

APPLICATIONS = (ApplicationRegistered, ApplicationVerified, ApplicationRejected)
OF_A_RUN = tuple(kind for kind in KINDS if kind not in APPLICATIONS)
SKELETON = (RunStarted, RunEnded, RoundOpened, ApplicationDrawn, PolicyUpdated, ValidationCompleted)
BEGINNING = re.compile(r"[0-9a-f-]{4,36}")

DESCRIPTION = """Where a fact came from and what came of it.

    iccm why 12                   the update of train round 12
    iccm why 3fa9c0d1             any fact, by its id or the beginning of it
    iccm why 3fa9c0d1::t3         one test: 3fa9c0d1 is its suite, or the code that it judged

Ids stand in brackets at the end of each line."""


def main(arguments: Sequence[str]) -> int:
    """Explain one fact."""
    parser = argparse.ArgumentParser(
        prog="iccm why", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("id", help="a train round's number, an event id or its beginning, or ID::TEST")
    parser.add_argument("--run", default="", metavar="RUN", help="look in this run alone; by default latest, then all")
    parser.add_argument("--all", action="store_true", help="show long lists whole")
    parser.add_argument("--text", action="store_true", help="show requirements, code and source in full")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    options = parser.parse_args(arguments)
    with running_log(settings.read()) as log:
        fact, past = explained(log, options.id, options.run)
    telling = Telling(every=options.all, text=options.text)
    test = options.id.partition("::")[2]
    if options.json:
        print(json.dumps(_plain(fact, past, telling, test), indent=1))
    else:
        for line in _told(fact, past, telling, test):
            print(line)
    return 0


def _told(fact: Event, past: Past, telling: Telling, test: str) -> Iterator[str]:
    above, below = came_from(past, fact, telling), led_to(past, fact, telling)
    if test:
        yield printable(_test(fact, test, telling))
    yield headline(above)
    yield from (f"    {printable(detail)}" for detail in above.details if not test)
    run = f"run {fact.run_id}, " if fact.run_id else ""
    yield f"    {run}at {fact.recorded_at.isoformat(timespec='seconds')}, {fact.event_id}"
    for title, node in (("came from", above), ("led to", below)):
        if node.branches:
            yield title
            yield from lines(node)


def _plain(fact: Event, past: Past, telling: Telling, test: str) -> dict[str, object]:
    plain: dict[str, object] = {
        "event_id": fact.event_id,
        "kind": type(fact).__name__,
        "run_id": fact.run_id,
        "recorded_at": fact.recorded_at.isoformat(),
        "said": said(fact, past, telling),
    }
    plain |= {"test": _test(fact, test, telling)} if test else {}
    above, below = as_plain(came_from(past, fact, telling)), as_plain(led_to(past, fact, telling))
    return plain | {"came_from": above.get("branches", []), "led_to": below.get("branches", [])}


def _test(fact: Event, test: str, telling: Telling) -> str:
    assert isinstance(fact, SuiteRan)
    return next(test_line(result, telling) for result in fact.results if result.test_id == test)


# ---- finding it ----------------------------------------------------------------------------------------------------


def explained(log: Log, name: str, run_name: str = "") -> tuple[Event, Past]:
    """The fact that `name` means, and the facts around it: of its run and those it comes from, as far as its round."""
    begin, _, test = name.partition("::")
    found = runs_on(log)
    run = named(found, run_name or LATEST)
    fact = _update(log, found, run, begin) or _beginning(log, found, run, begin, everywhere=not run_name)
    if test:
        fact = _suite(log, fact, test)
    owner = next((each for each in found if each.run_id == fact.run_id), run)
    return fact, _around(log, found, owner, fact)


def _update(log: Log, found: Sequence[Run], run: Run, number: str) -> Event | None:
    """The update of a train round. Digits that name no round may begin an id."""
    if not number.isdigit():
        return None
    for fact in _past_of(log, found, run, (PolicyUpdated,)):
        if isinstance(fact, PolicyUpdated) and fact.round == int(number):
            return fact
    if BEGINNING.fullmatch(number):
        return None
    raise BadInput(
        f"run {run.run_id} has no update of train round {number}: {run.rounds} rounds are closed",
        "name one of them, another --run, or at least 4 characters of an id",
    )


def _beginning(log: Log, found: Sequence[Run], run: Run, begin: str, *, everywhere: bool) -> Event:
    """The fact whose id begins so: in this run and those it comes from, else on the whole log."""
    if not BEGINNING.fullmatch(begin):
        raise BadInput(f"{begin!r} is neither a train round nor an id", "at least 4 characters of 0-9 and a-f")
    facts = _matching(chain(_past_of(log, found, run, OF_A_RUN), _events(log, APPLICATIONS)), begin)
    if not facts and everywhere:
        process.say(f"not in run {run.run_id}; looking on the whole log")
        facts = _matching(_events(log, KINDS), begin)
    if len(facts) > 1:
        ids = sorted(facts)
        raise BadInput(f"{len(ids)} facts begin with {begin}: {', '.join(ids[:5])}", "give more of it")
    if not facts:
        raise BadInput(f"no fact on this log begins with {begin}", "`iccm run list` names the runs; see --run")
    return next(iter(facts.values()))


def _matching(facts: Iterable[Event], begin: str) -> dict[str, Event]:
    found: dict[str, Event] = {}
    for fact in facts:
        if fact.event_id.startswith(begin):
            found.setdefault(fact.event_id, fact)
    return found


def _suite(log: Log, fact: Event, test: str) -> SuiteRan:
    """The suite that ran this test: the fact itself, or what judged this code."""
    if isinstance(fact, ImplementationWritten | ImplementationFailed):
        suites = (each for each in _events(log, (SuiteRan,)) if isinstance(each, SuiteRan))
        fact = next((each for each in suites if each.implementation_id == fact.event_id), fact)
    if not isinstance(fact, SuiteRan):
        raise BadInput(f"{type(fact).__name__} {fact.event_id[:SHORT_ID]} ran no test", "give a suite's id, or code's")
    if test not in {result.test_id for result in fact.results}:
        some = ", ".join(result.test_id for result in fact.results[:5]) or "none at all"
        raise BadInput(f"suite {fact.event_id[:SHORT_ID]} ran no test {test!r}", f"it ran {some} ...")
    return fact


# ---- what is around it ---------------------------------------------------------------------------------------------


def _around(log: Log, found: Sequence[Run], run: Run, fact: Event) -> Past:
    """What stands in the fact's round, and the skeleton of its run. What is named beyond that gets one line."""
    elsewhere: dict[str, str] = {}
    kept: list[Event] = [fact]
    for each in _past_of(log, found, run, OF_A_RUN):
        if isinstance(each, SKELETON) or _is_beside(each, fact):
            kept.append(each)
        elif isinstance(each, ImplementationWritten | SuiteRan):
            elsewhere[each.event_id] = _in_a_line(each, run.run_id)
    wanted = {getattr(each, "application_id", None) for each in kept}
    kept += (each for each in _events(log, APPLICATIONS) if getattr(each, "application_id", None) in wanted)
    past = Past(kept, elsewhere)
    if missing := past.wanting():
        elsewhere |= {
            each.event_id: _in_a_line(each, run.run_id)
            for each in _events(log, (ImplementationWritten, SuiteRan, PolicyUpdated))
            if each.event_id in missing
        }
    return past


def _is_beside(other: Event, fact: Event) -> bool:
    """Whether it stands in the fact's round; beside an application, in any of its own."""
    if (place := _round(fact)) is not None:
        return place == _round(other)
    return isinstance(fact, APPLICATIONS) and fact.application_id == getattr(other, "application_id", None)


def _round(fact: Event) -> tuple[object, object] | None:
    """The round that a fact belongs to. An update's is the train round that it closed."""
    number = getattr(fact, "round", None)
    return None if number is None else (number, str(getattr(fact, "purpose", "train")))


def _in_a_line(fact: Event, run_id: str | None) -> str:
    of = "" if fact.run_id == run_id else f" of run {fact.run_id}"
    match fact:
        case ImplementationWritten() | SuiteRan():
            what = "code by" if isinstance(fact, ImplementationWritten) else "tests of"
            return f"answered from {what} {fact.model} in {fact.purpose} round {fact.round}{of}, draft {fact.draft}"
    return f"{type(fact).__name__}{of}"


def _past_of(log: Log, found: Sequence[Run], run: Run, kinds: Collection[type[Event]]) -> Iterator[Event]:
    """The facts of a run and what it shares with those it comes from; of a re-scoring, also those it scores again."""
    yield from history_of(log, lineage(found, run), kinds)
    if run.rescores:
        parent = next((each for each in found if each.run_id == run.started.parent_run_id), None)
        if parent is not None:
            yield from _past_of(log, found, parent, kinds)


def _events(log: Log, kinds: Collection[type[Event]]) -> Iterator[Event]:
    return (record.event for record in log.replay(kinds) if record.event is not None)
