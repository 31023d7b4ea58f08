"""CET-D reads applications and writes requirements: one RequirementsDrafted or DraftFailed per draft of a draw."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumers.prompts import VERSION, requirements_prompt
from infra.carried import from_draw
from infra.log import References
from infra.models import Answer, EngineUnavailable, Model, Prompt, PromptRefused
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    Author,
    DraftFailed,
    Event,
    Fault,
    RequirementsDrafted,
)
from schemas.identity import event_id

READS = (ApplicationDrawn,)
WRITES = (RequirementsDrafted, DraftFailed)


@dataclass(frozen=True, slots=True)
class _Asked:
    draw: ApplicationDrawn
    draft: int
    prompt: Prompt


def owes(event: Event) -> list[str]:
    """One fact per draft seed."""
    assert isinstance(event, ApplicationDrawn)
    return [_id(event, draft) for draft in range(len(event.draft_seeds))]


def fails(event: Event, cause: str, *, clock: Callable[[], datetime]) -> list[Event]:
    """Every draft of this draw, failed through the machine's fault."""
    assert isinstance(event, ApplicationDrawn)
    return [_failed(event, draft, Fault.MACHINE, cause, clock()) for draft in range(len(event.draft_seeds))]


def draft_requirements(
    draws: Sequence[Event], *, policy: Model, application: References, clock: Callable[[], datetime]
) -> Iterator[Event]:
    """All drafts of all draws in one call of the policy. A control's draft is empty: no model is asked."""
    drawn = [draw for draw in draws if isinstance(draw, ApplicationDrawn)]
    for draw in drawn:
        if draw.author is not Author.ORCHESTRA:
            yield from (_control(draw, draft, clock()) for draft in range(len(draw.draft_seeds)))
    asked = [each for draw in drawn if draw.author is Author.ORCHESTRA for each in _questions(draw, application)]
    for question, answer in zip(asked, _answers(policy, [each.prompt for each in asked]), strict=True):
        yield _fact(question, answer, clock())


def _questions(draw: ApplicationDrawn, application: References) -> list[_Asked]:
    registered = application(draw.application_id)
    assert isinstance(registered, ApplicationRegistered)
    text = requirements_prompt(registered.source)
    return [
        _Asked(draw, draft, Prompt(text=text, sampling=draw.draft_sampling, seed=seed, adapter=draw.policy_digest))
        for draft, seed in enumerate(draw.draft_seeds)
    ]


def _answers(policy: Model, prompts: Sequence[Prompt]) -> Sequence[Answer | PromptRefused | EngineUnavailable]:
    try:
        return policy.answer(prompts) if prompts else []
    except EngineUnavailable as away:
        return [away] * len(prompts)


def _fact(asked: _Asked, answer: Answer | PromptRefused | EngineUnavailable, now: datetime) -> Event:
    match answer:
        case Answer():
            return _drafted(asked.draw, asked.draft, asked.prompt, answer, now)
        case PromptRefused():
            return _failed(asked.draw, asked.draft, Fault.MODEL, str(answer), now)
        case EngineUnavailable():
            return _failed(asked.draw, asked.draft, Fault.MACHINE, str(answer), now)


def _drafted(draw: ApplicationDrawn, draft: int, prompt: Prompt, answer: Answer, now: datetime) -> RequirementsDrafted:
    return RequirementsDrafted(
        event_id=_id(draw, draft),
        recorded_at=now,
        caused_by=(draw.event_id,),
        **from_draw(draw, draft),
        text=answer.text,
        prompt_version=VERSION,
        prompt_token_ids=answer.prompt_token_ids,
        token_ids=answer.token_ids,
        log_probs=answer.log_probs,
        seed=prompt.seed,
        sampling=prompt.sampling,
        adapter_digest=prompt.adapter,
        finish_reason=answer.finish_reason,
    )


def _control(draw: ApplicationDrawn, draft: int, now: datetime) -> RequirementsDrafted:
    nothing = Answer(text="", prompt_token_ids=(), token_ids=(), log_probs=(), finish_reason="stop")
    prompt = Prompt(text="", sampling=draw.draft_sampling, seed=draw.draft_seeds[draft])
    return _drafted(draw, draft, prompt, nothing, now)


def _failed(draw: ApplicationDrawn, draft: int, fault: Fault, cause: str, now: datetime) -> DraftFailed:
    return DraftFailed(
        event_id=_id(draw, draft),
        recorded_at=now,
        caused_by=(draw.event_id,),
        **from_draw(draw, draft),
        fault=fault,
        cause=cause,
    )


def _id(draw: ApplicationDrawn, draft: int) -> str:
    return event_id(draw.run_id, draw.event_id, "requirements", draft)
