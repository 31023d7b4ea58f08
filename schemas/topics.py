"""Where each fact stands on the log: one table from event to topic and key, and how every topic is kept.

Facts with equal keys of one topic stand in one partition, so their order is known. Nothing ever expires.
"""

from dataclasses import dataclass

from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    ApplicationRejected,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
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
    ValidationCompleted,
    Verdict,
)

KINDS: tuple[type[Event], ...] = (
    ApplicationRegistered,
    ApplicationVerified,
    ApplicationRejected,
    RunStarted,
    RoundOpened,
    ApplicationDrawn,
    RequirementsDrafted,
    DraftFailed,
    ImplementationWritten,
    ImplementationFailed,
    SuiteRan,
    RewardScored,
    PolicyUpdated,
    ValidationCompleted,
    RunEnded,
    DeadLettered,
    DeadLetterReplayed,
)

MAX_MESSAGE_BYTES = 8 * 1024 * 1024 + 64 * 1024  # the largest event with its frame, key, headers and batch

CONFIG: dict[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One entity's facts. `key` is the field that chooses the partition."""

    entity: str
    kinds: tuple[type[Event], ...]
    key: str


TOPICS: tuple[Topic, ...] = (
    Topic("applications", (ApplicationRegistered, ApplicationVerified, ApplicationRejected), "application_id"),
    Topic("runs", (RunStarted, RoundOpened, PolicyUpdated, ValidationCompleted, RunEnded), "run_id"),
    Topic("draws", (ApplicationDrawn,), "application_id"),
    Topic("requirements", (RequirementsDrafted, DraftFailed), "application_id"),
    Topic("implementations", (ImplementationWritten, ImplementationFailed), "application_id"),
    Topic("tests", (SuiteRan,), "application_id"),
    Topic("rewards", (RewardScored,), "application_id"),
    Topic("deadletters", (DeadLettered, DeadLetterReplayed), "topic"),
    Topic("conversations", (), "conversation_id"),
)

_TOPIC_OF: dict[type[Event], Topic] = {kind: topic for topic in TOPICS for kind in topic.kinds}


def topic_of(kind: type[Event]) -> str:
    """The entity whose topic carries this kind of fact."""
    return _topic(kind).entity


def key_of(event: Event) -> str:
    """What chooses the event's partition. A fact without its key is refused: it would lose its order."""
    field = _topic(type(event)).key
    key: str | None = getattr(event, field)
    if not key:
        raise ValueError(f"{type(event).__name__} {event.event_id} has no {field}, which is its key: set it")
    return key


def broker_name(namespace: str, entity: str) -> str:
    """The topic's name on the broker. Another layout of partitions would be another version."""
    return f"{namespace}.{entity}.v1"


# Verdicts about the code itself. What a clock, a limit or a broken machine had a part in is tried afresh.
REUSABLE = frozenset({Verdict.PASSED, Verdict.FAILED, Verdict.ERROR})

ID_HEADER = "ce_id"
WORK_HEADER = "iccm_work"  # the keys of the answers a record paid for, separated by spaces
MAX_WORK_KEYS = 500  # in one header: a message must stay within MAX_MESSAGE_BYTES


def work_keys(event: Event) -> tuple[str, ...]:
    """The keys under which this fact answers equal work: of answers that were paid for here and may be used again.

    A unit's results stand among its fact's, so a unit that passed is of use only where the fact has results.
    """
    match event:
        case ImplementationWritten(finish_reason="stop", answered_from=None, work_key=key) if key:
            return (key,)
        case SuiteRan():
            return tuple(
                unit.work_key
                for unit in event.units
                if unit.answered_from is None
                and unit.verdict in REUSABLE
                and (event.results or unit.verdict is Verdict.ERROR)
            )
    return ()


def _topic(kind: type[Event]) -> Topic:
    if kind not in _TOPIC_OF:
        raise ValueError(f"{kind.__name__} has no topic: add it to TOPICS in schemas/topics.py")
    return _TOPIC_OF[kind]


def cloud_event_headers(event: Event, namespace: str) -> list[tuple[str, str]]:
    """CloudEvents attributes of a record, for other people's tools; read back only to name a record, never trusted."""
    return [
        (ID_HEADER, event.event_id),
        ("ce_type", f"iccm.{type(event).__name__}"),
        ("ce_source", f"/{namespace}"),
        ("ce_specversion", "1.0"),
        ("ce_time", event.recorded_at.isoformat()),
        ("content-type", "application/avro"),
    ]


def record_headers(event: Event, namespace: str) -> list[tuple[str, str]]:
    """All headers of a record: its CloudEvents attributes, and the keys of the work it paid for, if any."""
    keys = work_keys(event)
    work = [(WORK_HEADER, " ".join(keys[:MAX_WORK_KEYS]))] if keys else []
    return [*cloud_event_headers(event, namespace), *work]
