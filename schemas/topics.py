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


def _topic(kind: type[Event]) -> Topic:
    if kind not in _TOPIC_OF:
        raise ValueError(f"{kind.__name__} has no topic: add it to TOPICS in schemas/topics.py")
    return _TOPIC_OF[kind]


def cloud_event_headers(event: Event, namespace: str) -> list[tuple[str, str]]:
    """CloudEvents attributes of a record, for other people's tools; never read back."""
    return [
        ("ce_id", event.event_id),
        ("ce_type", f"iccm.{type(event).__name__}"),
        ("ce_source", f"/{namespace}"),
        ("ce_specversion", "1.0"),
        ("ce_time", event.recorded_at.isoformat()),
        ("content-type", "application/avro"),
    ]
