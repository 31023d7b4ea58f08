"""What nobody can read is stood in for where its header names an open slot, and nowhere else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from infra.log import Record
from infra.lost import stand_ins, unreadable
from infra.memory import MemoryLog
from schemas.avro import encode
from schemas.events import (
    DeadLettered,
    DraftFailed,
    Event,
    Fault,
    ImplementationFailed,
    RoundOpened,
    Specification,
    SuiteRan,
    Verdict,
)
from schemas.identity import event_id
from schemas.topics import ID_HEADER
from tests import histories as past
from tests.laws.drafting import drafting_job, draws, on_the_log
from tests.whole_run import one_draft, rebuild_failed

APP = past.application()
DRAW = past.drawn(APP, drafts=3)
DRAFT = past.drafted(DRAW, 1)
REBUILD = rebuild_failed(DRAFT, 2)
SUITE = past.suite_ran(DRAFT, 2)
SPECIFICATION = Specification(implementers=past.ORCHESTRA, drafts_per_application=3)
OPENED: RoundOpened = replace(past.round_opened(), application_ids=("another", APP.application_id))


def log_of(*facts: Event) -> MemoryLog:
    log = MemoryLog()
    log.publish([past.run_started(SPECIFICATION), OPENED, *facts])
    return log


def lost(topic: str, said_id: str, content: bytes = b"broken") -> Record:
    return unreadable(topic, 1, 17, "no frame", [("ce_type", None), (ID_HEADER, said_id.encode())], content)


def standing_in(log: MemoryLog, record: Record) -> Sequence[Event]:
    return stand_ins(log, lambda: past.DAWN, record)


def test_a_lost_draft_failed_through_the_machines_fault() -> None:
    [fact] = standing_in(log_of(DRAW), lost("requirements", DRAFT.event_id))
    assert isinstance(fact, DraftFailed)
    assert (fact.event_id, fact.draft, fact.fault) == (DRAFT.event_id, 1, Fault.MACHINE)
    assert fact.cause == "requirements/1@17 cannot be read: no frame"
    assert fact.caused_by == (DRAW.event_id,)


def test_a_lost_rebuild_failed_through_the_machines_fault() -> None:
    [fact] = standing_in(log_of(DRAW), lost("implementations", REBUILD.event_id))
    assert isinstance(fact, ImplementationFailed)
    assert (fact.event_id, fact.model, fact.fault) == (REBUILD.event_id, REBUILD.model, Fault.MACHINE)
    assert fact.requirements_id == DRAFT.event_id


def test_a_lost_verdict_says_nothing_about_the_code() -> None:
    [fact] = standing_in(log_of(DRAW), lost("tests", SUITE.event_id))
    assert isinstance(fact, SuiteRan)
    assert (fact.event_id, fact.model, fact.verdict) == (SUITE.event_id, SUITE.model, Verdict.INVALID_INFRA)
    assert (fact.requirements_id, fact.implementation_id) == (DRAFT.event_id, SUITE.implementation_id)


def test_a_lost_draw_fails_all_its_drafts_as_its_round_implies_them() -> None:
    draw = replace(DRAW, event_id=event_id(past.RUN, OPENED.event_id, "draw", 1))
    facts = standing_in(log_of(), lost("draws", draw.event_id))
    assert [fact.event_id for fact in facts] == [past.drafted(draw, number).event_id for number in range(3)]
    rewarded = tuple(each for each in past.ORCHESTRA if each.rewarded)
    assert all(isinstance(fact, DraftFailed) and fact.implementers == rewarded for fact in facts)
    assert {fact.application_id for fact in facts if isinstance(fact, DraftFailed)} == {APP.application_id}


@pytest.mark.parametrize(
    ("topic", "said_id"),
    [("tests", ""), ("tests", "no slot of ours"), ("tests", DRAFT.event_id), ("rewards", DRAFT.event_id)],
)
def test_what_names_no_slot_of_its_topic_is_stood_in_for_by_nothing(topic: str, said_id: str) -> None:
    assert standing_in(log_of(DRAW), lost(topic, said_id)) == ()


def test_what_a_newer_version_wrote_is_left_for_it_to_read() -> None:
    frame = b"\x00\x7f\xff\xff\xff and a body"
    assert standing_in(log_of(DRAW), lost("tests", SUITE.event_id, frame)) == ()
    assert standing_in(log_of(DRAW), lost("tests", SUITE.event_id, encode(SUITE)[:7])) != ()


def test_a_run_that_has_ended_needs_nothing() -> None:
    assert standing_in(log_of(DRAW, past.run_ended()), lost("tests", SUITE.event_id)) == ()


@pytest.mark.parametrize("said_id", ["x" * 65, "line\nbreak", "\x00"])
def test_a_header_that_cannot_be_an_id_names_nothing(said_id: str) -> None:
    assert lost("tests", said_id).said_id == ""
    assert unreadable("tests", 0, 0, "", [(ID_HEADER, b"\xff\xfe")], b"").said_id == "\ufffd\ufffd"


def test_every_fact_of_a_draft_is_stood_in_for_under_its_own_id() -> None:
    topics = {"RequirementsDrafted": "requirements", "ImplementationWritten": "implementations", "SuiteRan": "tests"}
    log = log_of(DRAW)
    for fact in one_draft(replace(DRAW, implementers=past.ORCHESTRA), 0):
        if (topic := topics.get(type(fact).__name__)) is not None:
            [stand_in] = standing_in(log, lost(topic, fact.event_id))
            assert stand_in.event_id == fact.event_id
            assert stand_in.caused_by == fact.caused_by


@pytest.mark.parametrize("seed", range(5))
def test_a_worker_buries_what_is_lost_and_fills_its_slots_once_whatever_goes_wrong(seed: int) -> None:
    draw_id = event_id(past.RUN, OPENED.event_id, "draw", 1)
    log = MemoryLog(seed=seed, mishaps=0.4)
    log.publish([past.run_started(SPECIFICATION), OPENED])
    log.publish_bytes("draws", "key", b"broken", [(ID_HEADER, draw_id)])
    log.publish(draws(3, first=5))
    log.settle([drafting_job()])
    log.settle([drafting_job()])
    failed = [each for each in on_the_log(log, DraftFailed) if each.caused_by == (draw_id,)]
    assert len(failed) == len({each.event_id for each in failed}) == 3
    assert [each.caused_by for each in on_the_log(log, DeadLettered)] == [(draw_id,)]
