"""Paid once, on real Kafka: what a run paid for answers the next, whatever about the reward has changed since."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.answered import Answered
from consumers.implement import implement
from infra.kafka import KafkaLog
from infra.kafka.answers import LEAP_BYTES
from infra.lab.models import LabModel
from infra.log import Log
from infra.models import Model
from schemas.avro import encode
from schemas.events import Event, ImplementationWritten, Implementer
from schemas.topics import broker_name, record_headers
from tests.commands import SMALL, Iccm, survivors
from tests.histories import DAWN, application, drafted, drawn
from tests.laws.test_log_laws import rebuilt, seen_by, work_key

TOPIC = "implementations"


@pytest.fixture
def namespace() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def log(kafka: str, namespace: str, tmp_path: Path) -> Iterator[KafkaLog]:
    opened = KafkaLog(kafka, namespace, 3, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def another(kafka: str, namespace: str, log: KafkaLog, tmp_path: Path) -> Iterator[KafkaLog]:  # noqa: ARG001
    """The same log as another process opens it."""
    opened = KafkaLog(kafka, namespace, 3, tmp_path)
    yield opened
    opened.close()


# ---- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def iccm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iccm]:
    """A home whose services stay up, and a small finished run in it."""
    iccm = Iccm(tmp_path_factory.mktemp("paid"))
    iccm.run("up")
    try:
        iccm.run("run", "start", *SMALL, "--set", "rounds=1")
        yield iccm
    finally:
        iccm.run("down")
    assert survivors(iccm.home) == []


def shown(iccm: Iccm) -> dict[str, Any]:
    return dict(json.loads(iccm.run("run", "show", "latest", "--json").stdout))


@pytest.mark.timeout(600)
def test_a_finished_run_started_again_asks_no_implementer_and_runs_no_test(iccm: Iccm) -> None:
    first = shown(iccm)
    assert first["answers"]["implement"]["paid"] > 0
    assert first["answers"]["run_tests"]["paid"] > 0
    iccm.run("run", "start", *SMALL, "--set", "rounds=1")
    again = shown(iccm)
    assert (again["answers"]["implement"]["paid"], again["answers"]["run_tests"]["paid"]) == (0, 0)
    assert iccm.run("diff", first["run_id"], again["run_id"]).stdout.startswith("equal: ")
    for role in ("implement", "run_tests"):
        assert f"{role}: 0 paid, {again['answers'][role]['from_the_log']} from the log" in said(iccm, role)


@pytest.mark.timeout(600)
def test_a_baseline_with_another_reward_asks_no_implementer_and_runs_no_test(iccm: Iccm) -> None:
    """It is the first run's validation before any round, which the same drafts were written for."""
    iccm.run("run", "start", *SMALL, "--set", "rounds=0", "--set", "reward.variance=0.5")
    answers = shown(iccm)["answers"]
    assert (answers["implement"]["paid"], answers["run_tests"]["paid"]) == (0, 0)
    assert answers["run_tests"]["from_the_log"] > 0


def said(iccm: Iccm, role: str) -> str:
    return (iccm.home / "logs" / f"{role}.log").read_text()


# ---- two workers -----------------------------------------------------------------------------------------------------


def rebuild(log: Log, draft: Event, models: dict[str, Model]) -> ImplementationWritten:
    answered = Answered(log.answers(ImplementationWritten))
    registered = {application().application_id: application()}.__getitem__
    (fact,) = implement([draft], models=models, application=registered, answered=answered, clock=lambda: DAWN)
    assert isinstance(fact, ImplementationWritten)
    return fact


def test_what_one_worker_paid_for_answers_another(log: KafkaLog, another: KafkaLog) -> None:
    model = LabModel("impl-0")
    orchestra = (Implementer(name=model.name, digest=model.digest),)
    draw = drawn(application(), drafts=2, implementers=orchestra)
    another.answers(ImplementationWritten)  # opened before anything was paid for
    paid = rebuild(log, drafted(draw, 0), {model.name: model})
    log.publish([paid])
    assert seen_by(another.answers(ImplementationWritten), paid.work_key, paid.event_id) == paid
    found = rebuild(another, drafted(draw, 1), {})
    assert (found.answered_from, found.files, found.work_key) == (paid.event_id, paid.files, paid.work_key)


# ---- what only a broker does -----------------------------------------------------------------------------------------


def test_answers_far_apart_are_fetched_together(log: KafkaLog, another: KafkaLog) -> None:
    facts = [rebuilt(work_key(f"{i}"), number=i % 40, answer="x" * (LEAP_BYTES // 30)) for i in range(400)]
    log.publish(facts)
    asked = [fact.work_key for i, fact in enumerate(facts) if i % 200 < 9 or i % 61 == 0]
    found = another.answers(ImplementationWritten)(asked)
    assert {key: fact.work_key for key, fact in found.items()} == {key: key for key in asked}


def test_an_open_transaction_keeps_nobody_waiting(log: KafkaLog, another: KafkaLog, kafka: str, namespace: str) -> None:
    seen, unseen = rebuilt(work_key("seen"), "b"), rebuilt(work_key("unseen"), "a")
    log.publish([seen])
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": namespace})
    producer.init_transactions()
    producer.begin_transaction()
    headers = [*record_headers(unseen, namespace)]
    producer.produce(broker_name(namespace, TOPIC), encode(unseen), unseen.application_id, headers=headers)
    producer.flush()
    answers = another.answers(ImplementationWritten)
    assert answers([seen.work_key, unseen.work_key]) == {seen.work_key: seen}
    producer.commit_transaction()
    assert seen_by(answers, unseen.work_key, unseen.event_id) == unseen


def test_answers_that_were_deleted_are_unknown_and_the_others_stay(
    log: KafkaLog, another: KafkaLog, kafka: str, namespace: str
) -> None:
    old, new = ([rebuilt(work_key(f"{n}"), number=n) for n in range(first, first + 9)] for first in (0, 9))
    log.publish(old)
    answers = log.answers(ImplementationWritten)
    answers([old[0].work_key])
    cut = [each for each in log.end_offsets() if each.topic == TOPIC]
    log.publish(new)
    seen_by(answers, new[-1].work_key, new[-1].event_id)
    gone = [TopicPartition(broker_name(namespace, TOPIC), each.partition, each.offset) for each in cut]
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.delete_records(gone).values():
        future.result()
    keys = [fact.work_key for fact in (*old[1:], *new)]
    assert another.answers(ImplementationWritten)(keys) == {fact.work_key: fact for fact in new}
    assert answers(keys).keys() <= {fact.work_key for fact in new}
    assert answers([fact.work_key for fact in old[1:]]) == {}
