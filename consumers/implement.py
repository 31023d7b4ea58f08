"""The orchestra rebuilds from requirements alone: each draft -> one ImplementationWritten or Failed per model.

The same requirements put to the same model are paid for once, in whichever run: a later fact names the event whose
answer it repeats. Only answers the model completed are used again.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumers.answered import Answered
from consumers.prompts import VERSION, implementation_prompt, rebuilt_files
from infra.carried import from_fact
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
from schemas.topics import work_keys

READS = (RequirementsDrafted, DraftFailed)
WRITES = (ImplementationWritten, ImplementationFailed)

CUT_OFF = "the answer was cut off at {tokens} tokens"

Outcome = Answer | PromptRefused | EngineUnavailable


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
    known = answered([task.key for task in tasks])
    fresh = [task for task in tasks if task.key not in known]
    paid = {key: outcome for name, model in models.items() for key, outcome in _pay(name, fresh, model)}
    for task in tasks:
        fact = _fact(task, known.get(task.key), paid, clock())
        answered.remember(fact)
        known |= dict.fromkeys(work_keys(fact), fact)
        yield fact


def _tasks(draft: Event) -> Iterator[_Task]:
    if isinstance(draft, RequirementsDrafted) and draft.author is Author.ORCHESTRA:
        for ordinal, implementer in enumerate(draft.implementers):
            yield _Task(draft, ordinal, implementer, rebuild_prompt(draft, implementer, draft.rebuild_sampling))


def rebuild_prompt(draft: RequirementsDrafted, implementer: Implementer, sampling: Sampling) -> Prompt:
    """The same question, seed and all, for the same text: drafts of one application share their random numbers."""
    text = implementation_prompt(draft.text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Prompt(text=text, sampling=sampling, seed=seed(draft.application_id, implementer.name, digest))


def _pay(name: str, tasks: Iterable[_Task], model: Model) -> list[tuple[str, Outcome]]:
    """Ask one model what it is to answer, each question once."""
    asked = {task.key: task.prompt for task in tasks if task.implementer.name == name}
    try:
        return list(zip(asked, model.answer(list(asked.values())) if asked else [], strict=True))
    except EngineUnavailable as away:
        return [(key, away) for key in asked]


def _fact(task: _Task, known: Event | None, paid: Mapping[str, Outcome], now: datetime) -> Event:
    if isinstance(known, ImplementationWritten):
        return _written(task, known.answer, answered_from=known.event_id, now=now)
    outcome = paid.get(task.key)
    match outcome:
        case Answer(finish_reason="stop"):
            return _written(task, outcome.text, tokens=len(outcome.token_ids), now=now)
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


def _written(
    task: _Task, answer: str, *, tokens: int = 0, answered_from: str | None = None, now: datetime
) -> ImplementationWritten:
    """A completed answer; it cost no tokens where it is another's."""
    return ImplementationWritten(
        event_id=_id(task.draft, task.ordinal),
        recorded_at=now,
        caused_by=(task.draft.event_id,),
        **from_fact(task.draft),
        requirements_id=task.draft.event_id,
        model=task.implementer.name,
        model_digest=task.implementer.digest,
        prompt_version=VERSION,
        files=rebuilt_files(answer),
        answer=answer,
        seed=task.prompt.seed,
        finish_reason="stop",
        tokens=tokens,
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
