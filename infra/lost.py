"""Facts that stand in for records nobody can read, so that no round waits for them.

The header of such a record names the fact it was to be. Where that is an open slot of an open run, the slot gets its
failure fact, the machine's fault: a broken record is not a bad grade, and whatever waits for the slot goes on. Draws,
drafts, rebuilds and verdicts are covered, since the ids of all of them derive from the round. A whole frame of a
schema this code does not know is left alone: a newer version wrote it, can read it, and can have it worked on again.

What stands in a slot stays there: replaying the dead letter later changes nothing about it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from infra.carried import from_draw, from_fact
from infra.log import Log, Record
from schemas.avro import HEAD_BYTES, MAGIC, Undecodable, kind_of
from schemas.events import (
    ApplicationDrawn,
    DraftFailed,
    Event,
    Fault,
    ImplementationFailed,
    Purpose,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
    Verdict,
)
from schemas.identity import event_id
from schemas.topics import ID_HEADER, topic_of

SHOWN_BYTES = 64
LONGEST_ID = 64

Clock = Callable[[], datetime]
Headers = Iterable[tuple[str, str | bytes | None]]


def unreadable(topic: str, partition: int, offset: int, error: str, headers: Headers, content: bytes) -> Record:
    """A record without an event: why, which fact its header says it was to be, and how it begins."""
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        event=None,
        error=error,
        said_id=_said_id(headers),
        head=content[:SHOWN_BYTES],
    )


def _said_id(headers: Headers) -> str:
    said = dict(headers).get(ID_HEADER) or ""
    said = said.decode(errors="replace") if isinstance(said, bytes) else said
    return said if len(said) <= LONGEST_ID and said.isprintable() else ""


def stand_ins(log: Log, clock: Clock, record: Record) -> Sequence[Event]:
    """The failure facts for the slots that an unreadable record of an open run leaves empty; none where it names no
    slot."""
    if not record.said_id or _is_of_a_newer_version(record.head):
        return ()
    cause = f"{record.topic}/{record.partition}@{record.offset} cannot be read: {record.error}"
    lost = (_facts(draw, record, cause, clock()) for draw in _draws(log, record))
    return next((facts for facts in lost if facts), ())


def _is_of_a_newer_version(head: bytes) -> bool:
    if len(head) < HEAD_BYTES or head[: len(MAGIC)] != MAGIC:
        return False
    try:
        kind_of(head)
    except Undecodable:
        return True
    return False


def _draws(log: Log, record: Record) -> Iterator[ApplicationDrawn]:
    """Every draw of the open runs: as it stands on the log, or as its round implies where it is what is lost."""
    started: dict[str | None, RunStarted] = {}
    opened: list[RoundOpened] = []
    for each in log.replay((RunStarted, RoundOpened, RunEnded)):
        match each.event:
            case RunStarted():
                started.setdefault(each.event.run_id, each.event)
            case RoundOpened():
                opened.append(each.event)
            case RunEnded():
                started.pop(each.event.run_id, None)
    rounds = [each for each in opened if each.run_id in started]
    if record.topic == topic_of(ApplicationDrawn):
        return (draw for each in rounds for draw in _implied(started[each.run_id], each))
    drawn = (each.event for each in log.replay((ApplicationDrawn,)))
    return (draw for draw in drawn if isinstance(draw, ApplicationDrawn) and draw.run_id in started)


def _implied(started: RunStarted, opened: RoundOpened) -> Iterator[ApplicationDrawn]:
    """The draws of a round but for their seeds, which no failure needs."""
    spec, training = started.specification, opened.purpose is Purpose.TRAIN
    for ordinal, application_id in enumerate(opened.application_ids):
        yield ApplicationDrawn(
            event_id=event_id(opened.run_id, opened.event_id, "draw", ordinal),
            recorded_at=opened.recorded_at,
            run_id=opened.run_id,
            application_id=application_id,
            round=opened.round,
            purpose=opened.purpose,
            policy_digest=opened.policy_digest,
            draft_seeds=(0,) * (spec.drafts_per_application if training else 1),
            draft_sampling=spec.draft_sampling,
            implementers=tuple(each for each in spec.implementers if each.rewarded or not training),
            rebuild_sampling=spec.rebuild_sampling,
            author=spec.author,
            reward=spec.reward,
        )


def _facts(draw: ApplicationDrawn, record: Record, cause: str, now: datetime) -> Sequence[Event]:
    """What stands in for the record where it was this draw, or anything that follows from it on the record's topic."""
    drafts = [_draft(draw, number, cause, now) for number in range(len(draw.draft_seeds))]
    match record.topic:
        case "draws":
            return drafts if record.said_id == draw.event_id else []
        case "requirements":
            return [draft for draft in drafts if draft.event_id == record.said_id]
        case "implementations":
            return [each for each in _rebuilds(drafts) if each.event_id == record.said_id]
        case "tests":
            return [each for each in map(_suite, _rebuilds(drafts)) if each.event_id == record.said_id]
    return []


def _draft(draw: ApplicationDrawn, number: int, cause: str, now: datetime) -> DraftFailed:
    return DraftFailed(
        event_id=event_id(draw.run_id, draw.event_id, "requirements", number),
        recorded_at=now,
        caused_by=(draw.event_id,),
        **from_draw(draw, number),
        fault=Fault.MACHINE,
        cause=cause,
    )


def _rebuilds(drafts: Sequence[DraftFailed]) -> Iterator[ImplementationFailed]:
    for draft in drafts:
        for ordinal, implementer in enumerate(draft.implementers):
            yield ImplementationFailed(
                event_id=event_id(draft.run_id, draft.event_id, "implement", ordinal),
                recorded_at=draft.recorded_at,
                caused_by=(draft.event_id,),
                **from_fact(draft),
                requirements_id=draft.event_id,
                model=implementer.name,
                fault=Fault.MACHINE,
                cause=draft.cause,
            )


def _suite(rebuild: ImplementationFailed) -> SuiteRan:
    return SuiteRan(
        event_id=event_id(rebuild.run_id, rebuild.event_id, "run_tests"),
        recorded_at=rebuild.recorded_at,
        caused_by=(rebuild.event_id,),
        **from_fact(rebuild),
        requirements_id=rebuild.requirements_id,
        implementation_id=rebuild.event_id,
        model=rebuild.model,
        verdict=Verdict.INVALID_INFRA,
        results=(),
        cause=rebuild.cause,
        suite_digest="",
    )
