"""The orchestra rebuilds from requirements alone: each draft -> one ImplementationWritten or Failed per model.

The same requirements put to the same model are paid for once; a later fact names the event whose answer it repeats.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from consumers.carried import from_fact
from consumers.prompts import VERSION, implementation_prompt, rebuilt_files
from infra.log import References
from infra.models import Answer, EngineUnavailable, Model, Prompt, PromptRefused
from schemas.events import (
    ApplicationRegistered,
    Author,
    DraftEvent,
    DraftFailed,
    Event,
    Fault,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Implementer,
    RequirementsDrafted,
    Sampling,
)
from schemas.identity import event_id, seed

READS = (RequirementsDrafted, DraftFailed)
WRITES = (ImplementationWritten, ImplementationFailed)

CUT_OFF = "the answer was cut off at {tokens} tokens"

Outcome = Answer | PromptRefused | EngineUnavailable


@dataclass(slots=True)
class Answered:
    """Answers already on the log, by work key: what was answered, and the event that says so."""

    by_key: dict[str, tuple[str, Answer]] = field(default_factory=dict)

    def remember(self, fact: ImplementationWritten) -> None:
        """The first answer with a key stays."""
        answer = Answer(
            text=fact.answer, prompt_token_ids=(), token_ids=(), log_probs=(), finish_reason=fact.finish_reason
        )
        self.by_key.setdefault(fact.work_key, (fact.answered_from or fact.event_id, answer))


@dataclass(frozen=True, slots=True)
class _Task:
    """One rebuild to be made: by which model, from which draft."""

    draft: RequirementsDrafted
    ordinal: int
    implementer: Implementer
    prompt: Prompt

    @property
    def key(self) -> str:
        return work_key(self.prompt, self.implementer.digest)


def work_key(prompt: Prompt, model_digest: str) -> str:
    """Equal keys mean equal work: the text, the model, the prompt's version, the sampling, the seed if it matters."""
    drawn = prompt.seed if prompt.sampling.temperature > 0 else None
    return hashlib.sha256(repr((prompt.text, model_digest, VERSION, prompt.sampling, drawn)).encode()).hexdigest()


def owes(event: Event) -> list[str]:
    """One fact per implementer."""
    assert isinstance(event, DraftEvent)
    return [_id(event, ordinal) for ordinal in range(len(event.implementers))]


def fails(event: Event, cause: str, *, clock: Callable[[], datetime]) -> list[Event]:
    """Every rebuild of this draft, failed through the machine's fault."""
    assert isinstance(event, DraftEvent)
    return [_failed(event, ordinal, Fault.MACHINE, cause, clock()) for ordinal in range(len(event.implementers))]


def implement(
    drafts: Sequence[Event],
    *,
    models: Mapping[str, Model],
    application: References,
    answered: Answered,
    clock: Callable[[], datetime],
) -> Iterator[Event]:
    """All rebuilds of all drafts, each model asked once for each text it has not yet answered."""
    for draft in drafts:
        match draft:
            case DraftFailed():
                yield from (_failed(draft, i, draft.fault, draft.cause, clock()) for i in _ordinals(draft))
            case RequirementsDrafted() if draft.author is not Author.ORCHESTRA:
                files = _control_files(draft, application)
                yield from (_control(draft, ordinal, files, clock()) for ordinal in _ordinals(draft))
    tasks = [task for draft in drafts for task in _tasks(draft)]
    paid = {key: outcome for name in models for key, outcome in _pay(name, tasks, models[name], answered)}
    for task in tasks:
        yield _fact(task, paid, answered, clock())


def _tasks(draft: Event) -> Iterator[_Task]:
    if isinstance(draft, RequirementsDrafted) and draft.author is Author.ORCHESTRA:
        for ordinal, implementer in enumerate(draft.implementers):
            yield _Task(draft, ordinal, implementer, rebuild_prompt(draft, implementer, draft.rebuild_sampling))


def rebuild_prompt(draft: RequirementsDrafted, implementer: Implementer, sampling: Sampling) -> Prompt:
    """The same question, seed and all, for the same text: drafts of one application share their random numbers."""
    text = implementation_prompt(draft.text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Prompt(text=text, sampling=sampling, seed=seed(draft.application_id, implementer.name, digest))


def _pay(name: str, tasks: Iterable[_Task], model: Model, answered: Answered) -> list[tuple[str, Outcome]]:
    """Ask one model for what is not yet answered."""
    fresh = {t.key: t.prompt for t in tasks if t.implementer.name == name and t.key not in answered.by_key}
    try:
        return list(zip(fresh, model.answer(list(fresh.values())) if fresh else [], strict=True))
    except EngineUnavailable as away:
        return [(key, away) for key in fresh]


def _fact(task: _Task, paid: Mapping[str, Outcome], answered: Answered, now: datetime) -> Event:
    known = answered.by_key.get(task.key)
    outcome = known[1] if known else paid.get(task.key)
    match outcome:
        case Answer(finish_reason="stop"):
            fact = _written(task, outcome, known[0] if known else None, now)
            answered.remember(fact)
            return fact
        case Answer():
            cause = CUT_OFF.format(tokens=task.prompt.sampling.max_tokens)
            return _failed(task.draft, task.ordinal, Fault.MODEL, cause, now)
        case PromptRefused():
            return _failed(task.draft, task.ordinal, Fault.MODEL, str(outcome), now)
        case EngineUnavailable():
            return _failed(task.draft, task.ordinal, Fault.MACHINE, str(outcome), now)
        case None:
            cause = f"no engine serves {task.implementer.name!r}"
            return _failed(task.draft, task.ordinal, Fault.MACHINE, cause, now)


def _written(task: _Task, answer: Answer, answered_from: str | None, now: datetime) -> ImplementationWritten:
    return ImplementationWritten(
        event_id=_id(task.draft, task.ordinal),
        recorded_at=now,
        caused_by=(task.draft.event_id,),
        **from_fact(task.draft),
        requirements_id=task.draft.event_id,
        model=task.implementer.name,
        model_digest=task.implementer.digest,
        prompt_version=VERSION,
        files=rebuilt_files(answer.text),
        answer=answer.text,
        seed=task.prompt.seed,
        finish_reason=answer.finish_reason,
        tokens=len(answer.token_ids),
        work_key=task.key,
        answered_from=answered_from,
    )


def _control_files(draft: RequirementsDrafted, application: References) -> tuple[File, ...]:
    registered = application(draft.application_id)
    assert isinstance(registered, ApplicationRegistered)
    return registered.source if draft.author is Author.POSITIVE else ()


def _control(draft: RequirementsDrafted, ordinal: int, files: tuple[File, ...], now: datetime) -> ImplementationWritten:
    implementer = draft.implementers[ordinal]
    return ImplementationWritten(
        event_id=_id(draft, ordinal),
        recorded_at=now,
        caused_by=(draft.event_id,),
        **from_fact(draft),
        requirements_id=draft.event_id,
        model=implementer.name,
        model_digest=implementer.digest,
        prompt_version=VERSION,
        files=files,
        answer="",
        seed=0,
        finish_reason="stop",
    )


def _failed(draft: DraftEvent, ordinal: int, fault: Fault, cause: str, now: datetime) -> ImplementationFailed:
    return ImplementationFailed(
        event_id=_id(draft, ordinal),
        recorded_at=now,
        caused_by=(draft.event_id,),
        **from_fact(draft),
        requirements_id=draft.event_id,
        model=draft.implementers[ordinal].name,
        fault=fault,
        cause=cause,
    )


def _ordinals(draft: DraftEvent) -> range:
    return range(len(draft.implementers))


def _id(draft: DraftEvent, ordinal: int) -> str:
    return event_id(draft.run_id, draft.event_id, "implement", ordinal)
