"""The workers' steps with their doors: what they paid for and what they found is counted as their facts say it."""

from consumers import jobs
from infra import metrics
from infra.lab.models import LabModel
from infra.memory import MemoryLog
from schemas.events import Author, ImplementationWritten, Implementer
from tests.histories import DAWN, application, drafted, drawn

APP = application()


def test_an_answer_paid_for_and_one_found_are_counted_each_as_its_fact_says() -> None:
    model, log = LabModel("impl-0"), MemoryLog()
    orchestra = (Implementer(name=model.name, digest=model.digest),)
    drafts = [drafted(drawn(APP, drafts=3, implementers=orchestra), draft) for draft in range(3)]
    job = jobs.implement_job(
        models={model.name: model},
        application=log.refer(type(APP)),
        answers=log.answers(ImplementationWritten),
        clock=lambda: DAWN,
    )
    before = metrics.answers("implement", metrics.PAID), metrics.answers("implement", metrics.LOG)
    facts = [fact for fact in job.step(drafts) if isinstance(fact, ImplementationWritten)]
    paid, found = before[0] + 1, before[1] + 2
    assert [fact.answered_from for fact in facts] == [None, facts[0].event_id, facts[0].event_id]
    assert metrics.summary("implement") == f"implement: {paid} paid, {found} from the log"


def test_a_control_pays_nobody_and_is_not_counted() -> None:
    log = MemoryLog()
    log.publish([APP])
    control = drafted(drawn(APP, author=Author.POSITIVE))
    job = jobs.implement_job(
        models={},
        application=log.refer(type(APP)),
        answers=log.answers(ImplementationWritten),
        clock=lambda: DAWN,
    )
    before = metrics.summary("implement")
    assert len(list(job.step([control]))) == len(control.implementers)
    assert metrics.summary("implement") == before
