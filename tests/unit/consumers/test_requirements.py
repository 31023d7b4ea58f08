"""CET-D's step: one fact per draft, whatever the batch; a broken engine is the machine's fault."""

from collections.abc import Sequence

import pytest

from consumers.requirements import draft_requirements, fails, owes
from infra.lab.models import LabModel
from infra.models import Answer, EngineUnavailable, Prompt, PromptRefused
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
from tests.histories import DAWN, application, drawn

SOURCES = ("def f(xs):\n    return sum(xs)\n", "def f(xs):\n    xs = sorted(xs)\n    return xs\n")
APPS = {each.application_id: each for each in (application(source) for source in SOURCES)}
DRAWS = [drawn(app, drafts=3, policy_digest="", index=i) for i, app in enumerate(APPS.values())]


class Bare:
    """The real lab policy, asked without an adapter."""

    name = "lab/cet-d"

    def __init__(self) -> None:
        self.model = LabModel("cet-d")
        self.digest = self.model.digest

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:
        return self.model.answer([Prompt(text=p.text, sampling=p.sampling, seed=p.seed) for p in prompts])


class Away:
    """An engine that is down."""

    name = digest = "away"

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:  # noqa: ARG002
        raise EngineUnavailable("connection refused")


@pytest.fixture(scope="module")
def policy() -> Bare:
    return Bare()


def lookup(key: str) -> ApplicationRegistered:
    return APPS[key]


def step(draws: Sequence[ApplicationDrawn], policy: Bare | Away) -> list[Event]:
    return list(draft_requirements(draws, policy=policy, application=lookup, clock=lambda: DAWN))


def test_every_draft_of_every_draw_is_answered_by_the_fact_it_is_owed(policy: Bare) -> None:
    facts = step(DRAWS, policy)
    assert [fact.event_id for fact in facts] == [each for draw in DRAWS for each in owes(draw)]
    assert all(isinstance(fact, RequirementsDrafted) for fact in facts)


def test_how_draws_are_batched_changes_nothing_that_follows(policy: Bare) -> None:
    assert step(DRAWS, policy) == [fact for draw in DRAWS for fact in step([draw], policy)]


def test_a_draft_keeps_what_the_trainer_learns_from(policy: Bare) -> None:
    fact = step(DRAWS[:1], policy)[0]
    assert isinstance(fact, RequirementsDrafted)
    assert len(fact.log_probs) == len(fact.token_ids) > 0
    assert (fact.seed, fact.sampling, fact.adapter_digest) == (DRAWS[0].draft_seeds[0], DRAWS[0].draft_sampling, "")


def test_an_engine_that_is_away_is_the_machines_fault() -> None:
    facts = step(DRAWS[:1], Away())
    assert [fact.fault for fact in facts if isinstance(fact, DraftFailed)] == [Fault.MACHINE] * 3


def test_words_the_policy_does_not_know_are_its_own_fault(policy: Bare) -> None:
    alien = application("import os\n")
    APPS[alien.application_id] = alien
    (fact, *_) = step([drawn(alien, policy_digest="")], policy)
    assert isinstance(fact, DraftFailed)
    assert fact.fault is Fault.MODEL


def test_a_control_asks_no_model() -> None:
    facts = step([drawn(next(iter(APPS.values())), author=Author.POSITIVE)], Away())
    assert [fact.text for fact in facts if isinstance(fact, RequirementsDrafted)] == ["", ""]


def test_a_crash_leaves_one_failure_per_draft_under_the_same_ids() -> None:
    failures = fails(DRAWS[0], "the step raised", clock=lambda: DAWN)
    assert [fact.event_id for fact in failures] == owes(DRAWS[0])
    assert owes(DRAWS[0])[0] == event_id(DRAWS[0].run_id, DRAWS[0].event_id, "requirements", 0)
