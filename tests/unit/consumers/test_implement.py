"""The orchestra's step: one fact per draft and model, each question paid once, faults told apart."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from consumers.answered import REMEMBERED, Answered
from consumers.implement import fails, implement, owes, work_key
from consumers.prompts import implementation_prompt
from infra.lab.models import LabModel
from infra.memory import MemoryLog
from infra.models import Answer, EngineUnavailable, Model, Prompt, PromptRefused
from schemas.equality import canonical
from schemas.events import (
    Author,
    DraftFailed,
    Event,
    Fault,
    ImplementationFailed,
    ImplementationWritten,
    Implementer,
    RequirementsDrafted,
    Sampling,
)
from tests.histories import DAWN, RUN, application, drafted, drawn

APP = application()
NAMES = ("lab/impl-0", "lab/impl-1")
PAIR = tuple(Implementer(name=name, digest=name) for name in NAMES)
DRAW = drawn(APP, drafts=3, implementers=PAIR)
TEXTS = ("- return the list", "- sort ascending\n- return the list", "- return the list")
DRAFTS = [drafted(DRAW, i, text) for i, text in enumerate(TEXTS)]


class Counted:
    """A real lab model, and how many prompts it was asked."""

    def __init__(self, folder: str) -> None:
        self.model, self.asked = LabModel(folder), 0
        self.name, self.digest = self.model.name, self.model.digest

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:
        self.asked += len(prompts)
        return self.model.answer(prompts)


class Away(Counted):
    def answer(self, prompts: Sequence[Prompt]) -> list[Answer | PromptRefused]:  # noqa: ARG002
        raise EngineUnavailable("out of memory")


@pytest.fixture(scope="module")
def models() -> dict[str, Counted]:
    return {name: Counted(name.removeprefix("lab/")) for name in NAMES}


def step(drafts: Sequence[Event], models: dict[str, Counted], answered: Answered | None = None) -> list[Event]:
    served: dict[str, Model] = dict(models)
    return list(
        implement(
            drafts,
            models=served,
            application={APP.application_id: APP}.__getitem__,
            answered=answered or Answered(MemoryLog().answers(ImplementationWritten)),
            clock=lambda: DAWN,
        )
    )


def on_a_log(facts: Sequence[Event]) -> Answered:
    """What a worker knows that starts where these facts stand."""
    log = MemoryLog()
    log.publish(facts)
    return Answered(log.answers(ImplementationWritten))


def decided(facts: Sequence[Event]) -> list[bytes]:
    """What equality sees of them."""
    return [canonical(fact, {}) for fact in facts]


def test_every_model_answers_every_draft_under_the_id_it_is_owed(models: dict[str, Counted]) -> None:
    facts = step(DRAFTS, models)
    assert {fact.event_id for fact in facts} == {each for draft in DRAFTS for each in owes(draft)}
    assert len(facts) == len(DRAFTS) * len(PAIR)


def test_how_drafts_are_batched_changes_nothing_that_is_decided(models: dict[str, Counted]) -> None:
    assert decided(step(DRAFTS, models)) == decided([fact for draft in DRAFTS for fact in step([draft], models)])


def test_the_same_words_to_the_same_model_are_paid_once(models: dict[str, Counted]) -> None:
    before = models[NAMES[0]].asked
    answered = Answered(MemoryLog().answers(ImplementationWritten))
    facts = [fact for fact in step(DRAFTS, models, answered) if isinstance(fact, ImplementationWritten)]
    again = step([replace(DRAFTS[0], event_id="another draft")], models, answered)
    assert models[NAMES[0]].asked - before == 2
    assert facts[4].answered_from == facts[0].event_id
    assert isinstance(again[0], ImplementationWritten)
    assert (again[0].answered_from, again[0].files) == (facts[0].event_id, facts[0].files)


def test_answers_on_the_log_serve_another_worker_and_nothing_decided_changes(models: dict[str, Counted]) -> None:
    paid = step(DRAFTS, models)
    before = models[NAMES[0]].asked
    found = step(DRAFTS, models, on_a_log(paid))
    assert models[NAMES[0]].asked == before
    assert decided(found) == decided(paid)
    originals = {fact.event_id for fact in paid if isinstance(fact, ImplementationWritten) and not fact.answered_from}
    assert {fact.answered_from for fact in found if isinstance(fact, ImplementationWritten)} == originals


def test_answers_on_the_log_serve_where_no_engine_does(models: dict[str, Counted]) -> None:
    assert decided(step(DRAFTS, {}, on_a_log(step(DRAFTS, models)))) == decided(step(DRAFTS, models))


def test_what_was_just_paid_for_is_remembered_and_the_memory_is_bounded(models: dict[str, Counted]) -> None:
    answered = Answered(MemoryLog().answers(ImplementationWritten))
    (fact,) = (
        each for each in step(DRAFTS[:1], {NAMES[0]: models[NAMES[0]]}) if isinstance(each, ImplementationWritten)
    )
    for number in range(REMEMBERED + 1):
        answered.remember(replace(fact, work_key=f"{number}"))
    assert answered(["0", "1"]).keys() == {"1"}


def test_a_lost_draft_is_a_lost_rebuild_with_the_same_fault(models: dict[str, Counted]) -> None:
    common = {name: getattr(DRAFTS[0], name) for name in DraftFailed.__dataclass_fields__ if hasattr(DRAFTS[0], name)}
    lost = DraftFailed(**common, fault=Fault.MACHINE, cause="engine away")
    facts = step([lost], models)
    assert [(f.model, f.fault, f.cause) for f in facts if isinstance(f, ImplementationFailed)] == [
        (name, Fault.MACHINE, "engine away") for name in NAMES
    ]


def test_an_engine_that_is_away_is_the_machines_fault_and_is_not_remembered(models: dict[str, Counted]) -> None:
    answered = Answered(MemoryLog().answers(ImplementationWritten))
    facts = step(DRAFTS[:1], {**models, NAMES[1]: Away("impl-1")}, answered)
    assert [f.fault for f in facts if isinstance(f, ImplementationFailed)] == [Fault.MACHINE]
    assert all(isinstance(fact, ImplementationWritten) for fact in step(DRAFTS[:1], models, answered))


def test_a_model_nobody_serves_is_the_machines_fault(models: dict[str, Counted]) -> None:
    facts = step(DRAFTS[:1], {NAMES[0]: models[NAMES[0]]})
    assert [f.cause for f in facts if isinstance(f, ImplementationFailed)] == ["no engine serves 'lab/impl-1'"]


def test_an_answer_that_was_cut_off_is_the_models_fault(models: dict[str, Counted]) -> None:
    short = replace(DRAFTS[0], rebuild_sampling=Sampling(temperature=0.0, max_tokens=2))
    facts = step([short], models)
    assert [f.fault for f in facts if isinstance(f, ImplementationFailed)] == [Fault.MODEL] * 2


@pytest.mark.parametrize(("author", "files"), [(Author.POSITIVE, APP.source), (Author.NEGATIVE, ())])
def test_a_control_rebuilds_without_a_model(author: Author, files: object) -> None:
    control = drafted(drawn(APP, author=author, implementers=PAIR[:1]))
    (fact,) = step([control], {})
    assert isinstance(fact, ImplementationWritten)
    assert fact.files == files


def test_the_implementer_sees_the_requirements_and_nothing_else() -> None:
    assert implementation_prompt("keep it small") == "keep it small"


def test_seeds_are_part_of_the_work_only_where_they_matter() -> None:
    greedy = Prompt(text="a", sampling=Sampling(temperature=0.0), seed=1)
    drawn_at_random = replace(greedy, sampling=Sampling(temperature=1.0))
    assert work_key(greedy, "m") == work_key(replace(greedy, seed=2), "m")
    assert work_key(drawn_at_random, "m") != work_key(replace(drawn_at_random, seed=2), "m")


def test_a_crash_leaves_one_failure_per_model_under_the_same_ids() -> None:
    failures = fails(DRAFTS[0], "the step raised", clock=lambda: DAWN)
    assert [fact.event_id for fact in failures] == owes(DRAFTS[0])
    assert all(fact.run_id == RUN for fact in failures)
    assert isinstance(DRAFTS[0], RequirementsDrafted)
