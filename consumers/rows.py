"""What each fact says in the tables: where its id is claimed, which rows must be there before it, and its own rows.

Pure: no database, no clock. What a fact merely carries on from the fact before it (the implementers, the sampling)
stands once, in the row of its draw.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from itertools import zip_longest

from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    ApplicationRejected,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
    DraftEvent,
    DraftFailed,
    Event,
    File,
    ImplementationFailed,
    ImplementationWritten,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
    ValidationCompleted,
)
from schemas.identity import event_id

Cell = str | int | float | datetime | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bytes] | None
Row = Mapping[str, Cell]
Reference = tuple[str, str]  # a table and the id of a row in it


@dataclass(frozen=True, slots=True)
class Fact:
    """One event as tables see it. `id` is claimed in `table` by the first fact that bears it."""

    table: str
    id: str
    parents: tuple[Reference, ...]
    rows: tuple[tuple[str, Row], ...]  # its own first, then those that hang on it


def fact(event: Event) -> Fact:
    """What this event says in the tables."""
    return _FACTS[type(event)](event)


def json_text(value: object) -> str:
    """JSON of nested records, in the order of their fields. What JSON or PostgreSQL cannot say is said in text."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: object) -> object:
    match value:
        case StrEnum():
            return value.value
        case str():
            return value.replace("\x00", "\u2400")
        case float() if not math.isfinite(value):
            return str(value)
        case tuple():
            return [_plain(each) for each in value]
        case _ if is_dataclass(value):
            return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        case _:
            return value


# ---- One function per event, in the order of a run's life -----------------------------------------------------------


def _registered(event: ApplicationRegistered) -> Fact:
    row = {
        "id": event.application_id,
        **_columns(event, "event_id", "recorded_at", "name", "family", "split", "origin", "licence", "suite"),
        "expected_test_ids": list(event.expected_test_ids),
        "source_paths": _paths(event.source),
        "source_contents": _contents(event.source),
        "test_paths": _paths(event.tests),
        "test_contents": _contents(event.tests),
    }
    return Fact("applications", event.application_id, (), (("applications", row),))


def _verified(event: ApplicationVerified) -> Fact:
    row = {**_head(event), **_columns(event, "application_id", "runs", "sandbox", "assurance")}
    return _fact("verifications", row, ("applications", event.application_id))


def _rejected(event: ApplicationRejected) -> Fact:
    row = {**_head(event), **_columns(event, "application_id", "reason")}
    return _fact("verifications", row, ("applications", event.application_id))


def _started(event: RunStarted) -> Fact:
    row = {
        **_head(event),
        "id": event.run_id,
        "event_id": event.event_id,
        **_columns(event, "application_ids", "code_version", "parent_run_id", "parent_step", "label", "scoring"),
        **_documents(event, "specification", "numerics", "offsets"),
    }
    return Fact("runs", _run(event), (), (("runs", row),))


def _ended(event: RunEnded) -> Fact:
    row = {**_head(event), **_columns(event, "run_id", "outcome", "cause", "rounds", "policy_digest")}
    return _fact("run_endings", row, ("runs", _run(event)))


def _opened(event: RoundOpened) -> Fact:
    row = {**_head(event), **_columns(event, "run_id", "purpose", "round", "policy_digest", "application_ids")}
    return _fact("rounds", row, ("runs", _run(event)))


def _drawn(event: ApplicationDrawn) -> Fact:
    round_id = _round_id(event, event.purpose, event.round)
    row = {
        **_head(event),
        "round_id": round_id,
        **_columns(event, "run_id", "application_id", "policy_digest", "draft_seeds", "author"),
        **_documents(event, "draft_sampling", "implementers", "rebuild_sampling", "reward"),
    }
    return _fact("draws", row, ("rounds", round_id), ("applications", event.application_id))


def _drafted(event: RequirementsDrafted) -> Fact:
    row = {
        **_draft_head(event),
        **_columns(event, "text", "prompt_version", "prompt_token_ids", "token_ids", "log_probs", "seed"),
        **_columns(event, "adapter_digest", "finish_reason"),
        **_documents(event, "sampling"),
    }
    return _fact("drafts", row, ("draws", _cause(event)))


def _draft_failed(event: DraftFailed) -> Fact:
    row = {**_draft_head(event), **_columns(event, "fault", "cause")}
    return _fact("drafts", row, ("draws", _cause(event)))


def _draft_head(event: DraftEvent) -> dict[str, Cell]:
    return {**_head(event), "draw_id": _cause(event), **_columns(event, "run_id", "draft", "policy_digest")}


def _written(event: ImplementationWritten) -> Fact:
    row = {
        **_head(event),
        **_columns(event, "run_id", "requirements_id", "model", "model_digest", "prompt_version", "answer", "seed"),
        **_columns(event, "finish_reason", "tokens", "work_key", "answered_from"),
        "file_paths": _paths(event.files),
        "file_contents": _contents(event.files),
    }
    return _fact("implementations", row, ("drafts", event.requirements_id))


def _implementation_failed(event: ImplementationFailed) -> Fact:
    row = {**_head(event), **_columns(event, "run_id", "requirements_id", "model", "fault", "cause")}
    return _fact("implementations", row, ("drafts", event.requirements_id))


def _suite_ran(event: SuiteRan) -> Fact:
    row = {
        **_head(event),
        **_columns(event, "run_id", "implementation_id", "model", "verdict", "cause", "suite_digest", "sandbox"),
        **_columns(event, "assurance", "work_key", "answered_from"),
        **_documents(event, "evidence"),
        "test_ids": [result.test_id for result in event.results],
        "outcomes": [result.outcome.value for result in event.results],
        "seconds": [result.seconds for result in event.results],
        "messages": [result.message for result in event.results],
    }
    return _fact("suites", row, ("implementations", event.implementation_id))


def _scored(event: RewardScored) -> Fact:
    row = {
        **_head(event),
        **_columns(event, "run_id", "requirements_id", "application_id", "purpose", "round", "draft", "policy_digest"),
        **_columns(event, "suite_ids", "value", "cause", "function"),
        **_documents(event, "terms", "rates"),
    }
    parents = ("runs", _run(event)), ("applications", event.application_id), ("drafts", event.requirements_id)
    return _fact("rewards", row, *parents)


def _updated(event: PolicyUpdated) -> Fact:
    round_id = _round_id(event, Purpose.TRAIN, event.round)
    row = {
        **_head(event),
        "round_id": round_id,
        **_columns(event, "run_id", "round", "step", "skipped", "parent_policy_digest", "policy_digest"),
        **_columns(event, "mean_reward", "loss", "gradient_norm", "kl_to_base", "entropy", "sampler_kl"),
        **_columns(event, "learning_rate", "invalid_drafts", "small_groups", "flat_groups"),
        **_columns(event, "checkpoint_digest", "optimizer_digest", "random_digest", "seconds"),
    }
    pairs = zip_longest(event.reward_ids, event.advantages[: len(event.reward_ids)])
    learnt: list[tuple[str, Row]] = [
        ("update_rewards", {"update_id": event.event_id, "place": place, "reward_id": reward, "advantage": advantage})
        for place, (reward, advantage) in enumerate(pairs)
    ]
    rewards = [("rewards", reward_id) for reward_id in event.reward_ids]
    return _fact("updates", row, ("rounds", round_id), *rewards, hanging=learnt)


def _validated(event: ValidationCompleted) -> Fact:
    round_id = _round_id(event, event.purpose, event.round)
    row = {
        **_head(event),
        "round_id": round_id,
        **_columns(event, "run_id", "purpose", "round", "policy_digest", "mean_pass_rate", "spread", "invalid"),
    }
    rates: list[tuple[str, Row]] = [
        (
            "validation_rows",
            {
                "validation_id": event.event_id,
                "place": place,
                "application_id": each.application_id,
                "model_place": model_place,
                "model": rate.model,
                "rate": rate.rate,
                "rewarded": rate.rewarded,
            },
        )
        for place, each in enumerate(event.rows)
        for model_place, rate in enumerate(each.rates)
    ]
    applications = [("applications", each.application_id) for each in event.rows]
    return _fact("validations", row, ("rounds", round_id), *applications, hanging=rates)


def _dead_lettered(event: DeadLettered) -> Fact:
    names = ("run_id", "topic", "partition", "offset", "stage", "exception", "attempts")
    return _fact("dead_letters", {**_head(event), **_columns(event, *names)})


def _replayed(event: DeadLetterReplayed) -> Fact:
    row = {**_head(event), **_columns(event, "dead_letter_id", "written", "exception")}
    return _fact("dead_letter_replays", row, ("dead_letters", event.dead_letter_id))


# ---- Cells ----------------------------------------------------------------------------------------------------------


def _fact(table: str, row: dict[str, Cell], *parents: Reference, hanging: Sequence[tuple[str, Row]] = ()) -> Fact:
    return Fact(table, str(row["id"]), parents, ((table, row), *hanging))


def _head(event: Event) -> dict[str, Cell]:
    return {"id": event.event_id, "recorded_at": event.recorded_at, "caused_by": list(event.caused_by)}


def _columns(event: Event, *names: str) -> dict[str, Cell]:
    return {name: _cell(getattr(event, name)) for name in names}


def _cell(value: Cell | StrEnum) -> Cell:
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _documents(event: Event, *names: str) -> dict[str, Cell]:
    return {name: json_text(getattr(event, name)) for name in names}


def _paths(files: Sequence[File]) -> list[str]:
    return [file.path for file in files]


def _contents(files: Sequence[File]) -> list[bytes]:
    return [file.content for file in files]


def _run(event: Event) -> str:
    return event.run_id or ""


def _cause(event: Event) -> str:
    """The one fact a draft answers."""
    return event.caused_by[0] if event.caused_by else ""


def _round_id(event: Event, purpose: Purpose, number: int) -> str:
    return event_id(event.run_id, f"{purpose}/{number}", "round")


_FACTS: dict[type[Event], Callable[..., Fact]] = {
    ApplicationRegistered: _registered,
    ApplicationVerified: _verified,
    ApplicationRejected: _rejected,
    RunStarted: _started,
    RunEnded: _ended,
    RoundOpened: _opened,
    ApplicationDrawn: _drawn,
    RequirementsDrafted: _drafted,
    DraftFailed: _draft_failed,
    ImplementationWritten: _written,
    ImplementationFailed: _implementation_failed,
    SuiteRan: _suite_ran,
    RewardScored: _scored,
    PolicyUpdated: _updated,
    ValidationCompleted: _validated,
    DeadLettered: _dead_lettered,
    DeadLetterReplayed: _replayed,
}

KINDS = tuple(_FACTS)
