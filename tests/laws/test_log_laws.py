"""One suite for both logs: what infra/log.py promises holds in lists and on Kafka alike."""

import hashlib
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.kafka import KafkaLog
from infra.ledger import framed
from infra.log import Answers, Log, ReferenceMissing
from infra.memory import MemoryLog
from infra.problems import BadInput, Fenced
from schemas.avro import encode
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    DeadLettered,
    DraftFailed,
    Event,
    File,
    ImplementationWritten,
    RequirementsDrafted,
    RunEnded,
    RunStarted,
    SuiteRan,
    SuiteUnit,
    Verdict,
)
from schemas.topics import ID_HEADER, WORK_HEADER, broker_name, key_of, record_headers, topic_of
from tests.histories import RUN, application, drafted, policy_updated, run_ended, run_started, suite_ran
from tests.laws.drafting import (
    WRITES,
    Working,
    draft,
    drafting_job,
    draws,
    ids_on_the_log,
    on_the_log,
    owed,
    work_until,
)


@dataclass(frozen=True)
class World:
    """One log, and how its handles are opened: a second handle is what a restarted process has."""

    open: Callable[[], Log]
    spoil: Callable[..., None]  # topic, key, bytes and perhaps headers, as any program could write them
    abort: Callable[[Sequence[Event]], None]  # a transaction that wrote these and was aborted


def memory_world() -> World:
    log = MemoryLog(partitions=3, reference_seconds=1.5)

    def abort(events: Sequence[Event]) -> None:
        with log._changed:
            log._transact([framed(each) for each in events], commit=False)

    return World(lambda: log, log.publish_bytes, abort)


def kafka_world(bootstrap: str, home: Path, opened: list[KafkaLog]) -> World:
    namespace = f"laws-{uuid.uuid4().hex[:8]}"

    def open_log() -> Log:
        opened.append(KafkaLog(bootstrap, namespace, 3, home, reference_seconds=1.5))
        return opened[-1]

    def spoil(topic: str, key: str, content: bytes, headers: Any = ()) -> None:
        producer = Producer({"bootstrap.servers": bootstrap})
        producer.produce(broker_name(namespace, topic), content, key, headers=list(headers))
        producer.flush()

    def abort(events: Sequence[Event]) -> None:
        producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{namespace}.aborting"})
        producer.init_transactions()
        producer.begin_transaction()
        for event in events:
            topic = broker_name(namespace, topic_of(type(event)))
            producer.produce(topic, encode(event), key_of(event), headers=[*record_headers(event, namespace)])
        producer.flush()
        producer.abort_transaction()

    return World(open_log, spoil, abort)


@pytest.fixture(params=["memory", "kafka"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield memory_world()
        return
    opened: list[KafkaLog] = []
    yield kafka_world(request.getfixturevalue("kafka"), tmp_path, opened)
    for log in opened:
        log.close()


@pytest.fixture
def log(world: World) -> Log:
    return world.open()


class Killed(BaseException):
    """Nothing in a worker may catch this: it stands for kill -9."""


def by_partition(log: Log, *kinds: type[Event]) -> dict[int, list[str]]:
    lines: dict[int, list[str]] = defaultdict(list)
    for record in log.replay(kinds):
        assert record.event is not None
        lines[record.partition].append(record.event.event_id)
    return lines


def test_what_was_published_is_read_once_and_each_keys_facts_in_their_order(log: Log) -> None:
    published = [fact for draw in draws(20) for fact in (drafted(draw, 0), drafted(draw, 1))]
    log.publish(published)
    assert sorted(map(repr, on_the_log(log, RequirementsDrafted))) == sorted(map(repr, published))
    for line in by_partition(log, RequirementsDrafted).values():
        assert line == [each.event_id for each in published if each.event_id in line]


def test_offsets_grow_within_a_partition(log: Log) -> None:
    log.publish(draws(30))
    last: dict[int, int] = {}
    for record in log.replay((ApplicationDrawn,)):
        assert record.offset > last.get(record.partition, -1)
        last[record.partition] = record.offset


def test_a_replay_leaves_out_other_kinds_of_the_same_topic(log: Log) -> None:
    log.publish([run_started(), policy_updated(1), run_ended()])
    assert ids_on_the_log(log, RunEnded) == [run_ended().event_id]


def test_a_replay_of_empty_topics_ends(log: Log) -> None:
    assert on_the_log(log, ApplicationDrawn, RequirementsDrafted, RunStarted) == []
    assert list(log.replay(())) == []


def test_a_replay_ends_at_what_stood_there_when_it_was_asked_for(log: Log) -> None:
    log.publish(draws(5))
    replay = log.replay((ApplicationDrawn,))
    log.publish(draws(5, first=5))
    assert len(list(replay)) == 5


def test_a_replay_stops_at_the_cut_and_another_goes_on_from_it(log: Log) -> None:
    early, late = draws(7), draws(9, first=7)
    log.publish(early)
    cut = log.end_offsets()
    log.publish(late)
    before = [record.event for record in log.replay((ApplicationDrawn,), until=cut)]
    after = [record.event for record in log.replay((ApplicationDrawn,), start=cut)]
    assert sorted(map(repr, before)) == sorted(map(repr, early))
    assert sorted(map(repr, after)) == sorted(map(repr, late))


def test_an_event_over_eight_mib_is_refused_by_name_before_any_is_written(log: Log) -> None:
    huge = replace(application(), source=(File(path="a.bin", content=bytes(9 * 2**20)),))
    with pytest.raises(BadInput, match=rf"ApplicationRegistered {huge.event_id} is 9\.0 MiB"):
        log.publish([application("small\n"), huge])
    assert on_the_log(log, ApplicationRegistered) == []


def test_an_event_of_almost_eight_mib_is_carried(log: Log) -> None:
    big = replace(application(), source=(File(path="a.bin", content=bytes(8 * 2**20 - 4096)),))
    log.publish([big])
    assert on_the_log(log, ApplicationRegistered) == [big]


def test_a_follower_sees_what_is_published_after_it_began(log: Log) -> None:
    log.publish(draws(2))
    seen: list[str] = []
    published = 2
    for records in log.follow((ApplicationDrawn,), stop=lambda: len(seen) >= 6):
        seen.extend(record.event.event_id for record in records if record.event)
        if len(seen) == published and published < 6:
            log.publish(draws(2, first=published))
            published += 2
    assert sorted(seen) == sorted(each.event_id for each in draws(6))


def test_a_silent_log_gives_its_follower_empty_batches_so_that_it_can_stop(log: Log) -> None:
    batches = log.follow((ApplicationDrawn,), stop=lambda: False)
    assert list(next(batches)) == []


def test_a_transaction_is_read_whole(log: Log) -> None:
    with log.writer("writer") as writer:
        writer.publish([policy_updated(1), *draws(10)])
        writer.publish([policy_updated(2)])
    assert ids_on_the_log(log, ApplicationDrawn) == sorted(each.event_id for each in draws(10))
    assert len(on_the_log(log, type(policy_updated(1)))) == 2


def test_a_writer_is_fenced_by_the_next_of_its_name_and_leaves_nothing(log: Log) -> None:
    with log.writer("writer") as first, log.writer("writer") as second:
        with pytest.raises(Fenced):
            first.publish(draws(3))
        second.publish(draws(2, first=10))
    assert ids_on_the_log(log, ApplicationDrawn) == sorted(each.event_id for each in draws(2, first=10))


def test_a_reference_is_found_and_the_first_fact_with_a_key_wins(log: Log) -> None:
    first, second = application("one\n"), replace(application("one\n"), event_id="later")
    log.publish([first, second])
    assert log.refer(ApplicationRegistered)(first.application_id) == first


def test_a_reference_not_yet_seen_is_awaited(log: Log) -> None:
    app = application("late\n")
    look_up = log.refer(ApplicationRegistered)
    log.publish([application("early\n")])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(look_up, app.application_id)
        log.publish([app])
        assert answer.result() == app


def test_a_reference_that_never_comes_is_missing_by_name(log: Log) -> None:
    with pytest.raises(ReferenceMissing, match="no ApplicationRegistered of nobody"):
        log.refer(ApplicationRegistered)("nobody")


# ---- answers ---------------------------------------------------------------------------------------------------------


def rebuilt(key: str, event_id: str = "", number: int = 0, **changes: Any) -> ImplementationWritten:
    """A rebuild that was paid for under this work key."""
    draft = drafted(draws(1, first=number)[0])
    shared = {name: getattr(draft, name) for name in DraftFailed.__dataclass_fields__ if hasattr(draft, name)}
    fact = ImplementationWritten(
        **shared | {"event_id": event_id or f"rebuild {number} {key[:8]}"},
        requirements_id=draft.event_id,
        model="impl-0",
        model_digest="0" * 64,
        prompt_version="lab/1",
        files=(File(path="app.py", content=f"x = {number}\n".encode()),),
        answer=f"x = {number}\n",
        seed=0,
        finish_reason="stop",
        work_key=key,
    )
    return replace(fact, **changes)


def work_key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


KEY, OTHER = work_key("one"), work_key("other")


def seen_by(answers: Answers, key: str, event_id: str | None) -> Event | None:
    """The answer to a key once it is the one with this id: what others write becomes visible a little later."""
    deadline = time.monotonic() + 20
    while True:
        found = answers([key]).get(key)
        if (found.event_id if found else None) == event_id or time.monotonic() > deadline:
            return found


def test_an_answer_that_was_paid_for_is_found_by_its_key_even_after_a_restart(world: World) -> None:
    facts = [rebuilt(work_key(f"question {i}"), number=i) for i in range(40)]
    world.open().publish(facts)
    found = world.open().answers(ImplementationWritten)([fact.work_key for fact in facts])
    assert found == {fact.work_key: fact for fact in facts}


def test_a_question_nobody_paid_for_has_no_answer(log: Log) -> None:
    log.publish([rebuilt(KEY)])
    answers = log.answers(ImplementationWritten)
    assert answers([OTHER, "no key at all", ""]) == {}
    assert answers([]) == {}


def test_what_is_published_after_the_opening_becomes_visible(log: Log) -> None:
    answers = log.answers(ImplementationWritten)
    assert answers([KEY]) == {}
    fact = rebuilt(KEY)
    log.publish([fact])
    assert seen_by(answers, KEY, fact.event_id) == fact


def test_of_several_answers_to_one_key_the_smallest_event_id_is_given_for_ever_after(world: World) -> None:
    log = world.open()
    answers = log.answers(ImplementationWritten)
    for event_id, expected in (("m", "m"), ("x", "m"), ("b", "b"), ("n", "b")):
        log.publish([rebuilt(KEY, event_id, number=ord(event_id))])
        log.publish([rebuilt(work_key(event_id), number=7)])  # stands behind it for every reader
        seen_by(answers, work_key(event_id), rebuilt(work_key(event_id), number=7).event_id)
        assert (found := seen_by(answers, KEY, expected)) is not None
        assert found.event_id == expected
    assert world.open().answers(ImplementationWritten)([KEY])[KEY].event_id == "b"


def test_an_answer_that_repeats_another_or_was_cut_off_is_no_answer(world: World) -> None:
    world.open().publish(
        [rebuilt(KEY, "repeated", answered_from="another"), rebuilt(OTHER, "cut off", finish_reason="length")]
    )
    assert world.open().answers(ImplementationWritten)([KEY, OTHER]) == {}


def test_an_aborted_transaction_never_answers(world: World) -> None:
    log = world.open()
    world.abort([rebuilt(KEY)])
    assert world.open().answers(ImplementationWritten)([KEY]) == {}
    fact = rebuilt(KEY, "z", number=1)
    log.publish([fact])
    assert world.open().answers(ImplementationWritten)([KEY]) == {KEY: fact}


def test_of_a_verdict_only_the_reusable_units_that_were_paid_for_answer(world: World) -> None:
    def unit(name: str, verdict: Verdict, answered_from: str | None = None) -> SuiteUnit:
        return SuiteUnit(
            work_key=work_key(name), path=name, test_ids=(name,), verdict=verdict, answered_from=answered_from
        )

    judged = [unit("good", Verdict.PASSED), unit("bad", Verdict.FAILED), unit("again", Verdict.PASSED, "another")]
    broken = [unit("lost", Verdict.PASSED), unit("raised", Verdict.ERROR), unit("late", Verdict.TIMEOUT)]
    whole = replace(suite_ran(drafted(draws(1)[0])), units=tuple(judged))
    part = replace(suite_ran(drafted(draws(1)[0], 1)), results=(), verdict=Verdict.TIMEOUT, units=tuple(broken))
    world.open().publish([whole, part])
    names = ("good", "bad", "again", "lost", "raised", "late")
    found = world.open().answers(SuiteRan)([work_key(name) for name in names])
    assert found == {work_key("good"): whole, work_key("bad"): whole, work_key("raised"): part}


@pytest.mark.parametrize("content", [b"", b"no event", encode(rebuilt(KEY))[:-9], encode(run_started())])
def test_a_value_that_cannot_be_read_is_no_answer_and_the_next_good_one_is(world: World, content: bytes) -> None:
    log = world.open()
    world.spoil("implementations", "key", content, record_headers(rebuilt(KEY, "a"), "x"))
    answers = world.open().answers(ImplementationWritten)
    assert answers([KEY]) == {}
    fact = rebuilt(KEY, "z")
    log.publish([fact])
    assert seen_by(answers, KEY, "z") == fact


HOSTILE: list[list[tuple[str, Any]]] = [
    [(ID_HEADER, "a"), (WORK_HEADER, KEY)],  # the fact names another key
    [(ID_HEADER, "b"), (WORK_HEADER, OTHER)],  # the fact has another id
    [(WORK_HEADER, OTHER)],
    [(ID_HEADER, "a" * 70), (WORK_HEADER, OTHER)],
    [(ID_HEADER, "a"), (WORK_HEADER, "x" * 64)],
    [(ID_HEADER, b"\xff"), (WORK_HEADER, b"\xff" * 64 + b" " + b"0" * 63)],
    [(ID_HEADER, "a"), (WORK_HEADER, None)],
    [],  # as facts were written before there were keys
]


def test_a_header_is_not_believed(world: World) -> None:
    log = world.open()
    for headers in HOSTILE:
        world.spoil("implementations", "key", encode(rebuilt(OTHER, "a")), headers)
        assert world.open().answers(ImplementationWritten)([KEY, OTHER, "x" * 64]) == {}
    fact = rebuilt(KEY, "z")
    log.publish([fact])
    answers = world.open().answers(ImplementationWritten)
    answers([KEY])  # finds out what claims to be smaller
    log.publish([fact])
    assert seen_by(answers, KEY, "z") == fact


# ---- work ------------------------------------------------------------------------------------------------------------


def test_every_input_is_answered_exactly_once(log: Log) -> None:
    inputs = draws(25)
    log.publish([run_started(), *inputs])
    work_until(log, drafting_job(), 50)
    assert ids_on_the_log(log, *WRITES) == owed(inputs)


def test_inputs_that_come_while_a_worker_runs_are_answered(log: Log) -> None:
    log.publish([run_started()])
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(log.work, drafting_job(), stop=done.is_set)
        working = Working(log, worker.done)
        for turn in range(3):
            log.publish(draws(3, first=3 * turn))
            working.until(6 * (turn + 1))
        done.set()
        worker.result()
    assert ids_on_the_log(log, *WRITES) == owed(draws(9))


def test_a_restarted_worker_goes_on_where_its_place_was_committed(world: World) -> None:
    log = world.open()
    log.publish([run_started(), *draws(10)])
    work_until(log, drafting_job(), 20)
    asked: list[Event] = []

    def watched(events: Sequence[Event]) -> Iterable[Event]:
        asked.extend(events)
        return draft(events)

    log.publish(draws(2, first=10))
    work_until(world.open(), drafting_job(step=watched), 24)
    assert sorted(event.event_id for event in asked) == sorted(event.event_id for event in draws(2, first=10))
    assert ids_on_the_log(log, *WRITES) == owed(draws(12))


def test_a_worker_that_dies_with_its_answers_unwritten_leaves_nothing_and_the_next_answers_all(world: World) -> None:
    log = world.open()
    log.publish([run_started(), *draws(20)])
    calls: list[int] = []

    def dying(events: Sequence[Event]) -> Iterator[Event]:
        calls.append(len(events))
        yield from draft(events)
        if len(calls) == 3:
            raise Killed

    with pytest.raises(Killed):
        work_until(log, drafting_job(step=dying), 40)
    assert len(ids_on_the_log(log, *WRITES)) == 16  # two slices of four draws were committed
    work_until(world.open(), drafting_job(), 40)
    assert ids_on_the_log(log, *WRITES) == owed(draws(20))


def test_an_input_whose_facts_are_all_on_the_log_costs_nothing(log: Log) -> None:
    answered, partly, fresh = draws(3)
    log.publish([run_started(), *draft([answered]), drafted(partly, 0), answered, partly, fresh])
    asked: list[Event] = []

    def watched(events: Sequence[Event]) -> Iterable[Event]:
        asked.extend(events)
        return draft(events)

    work_until(log, drafting_job(step=watched), 6)
    assert {event.event_id for event in asked} == {partly.event_id, fresh.event_id}
    assert ids_on_the_log(log, *WRITES) == owed([answered, partly, fresh])


def test_an_input_on_the_log_twice_is_answered_once(log: Log) -> None:
    log.publish([run_started(), *draws(3), *draws(3), *draws(1, first=3)])
    work_until(log, drafting_job(), 8)
    assert ids_on_the_log(log, *WRITES) == owed(draws(4))


def test_a_record_that_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(world: World) -> None:
    log = world.open()
    log.publish([run_started(), *draws(3)])
    world.spoil("draws", "poison", b"\x00\x00\x00\xff\xffno event")
    log.publish(draws(3, first=3))
    work_until(log, drafting_job(), 13, (*WRITES, DeadLettered))
    [spoilt] = [record for record in log.replay((ApplicationDrawn,)) if record.event is None]
    [letter] = on_the_log(log, DeadLettered)
    assert isinstance(letter, DeadLettered)
    assert (letter.topic, letter.partition, letter.offset) == ("draws", spoilt.partition, spoilt.offset)
    assert letter.stage == "requirements"
    assert letter.exception == spoilt.error != ""
    assert ids_on_the_log(log, *WRITES) == owed(draws(6))


def test_an_input_on_which_the_step_raises_gets_its_failures_and_a_dead_letter_and_the_rest_is_answered(
    log: Log,
) -> None:
    inputs = draws(9)
    bad = inputs[4]

    def picky(events: Sequence[Event]) -> Iterator[Event]:
        if bad in events:
            raise ZeroDivisionError("no such draft")
        yield from draft(events)

    log.publish([run_started(), *inputs])
    work_until(log, drafting_job(step=picky), 19, (*WRITES, DeadLettered))
    assert ids_on_the_log(log, *WRITES) == owed(inputs)
    failures = [fact for fact in on_the_log(log, DraftFailed) if isinstance(fact, DraftFailed)]
    assert sorted(failure.event_id for failure in failures) == owed([bad])
    assert {failure.cause for failure in failures} == {"ZeroDivisionError: no such draft"}
    [letter] = on_the_log(log, DeadLettered)
    assert isinstance(letter, DeadLettered)
    assert letter.exception == "ZeroDivisionError: no such draft"
    assert letter.caused_by == (bad.event_id,)
    assert letter.attempts in (1, 2)  # with its slice, if it shared one, then alone


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda events: list(draft(events))[:-1], "left out 1 owed fact"),
        (lambda events: [*draft(events), drafted(draws(1, first=99)[0])], "wrote 1 fact"),
        (lambda events: [replace(fact, caused_by=("x" * 9 * 2**20,)) for fact in draft(events)], "9.0 MiB"),
    ],
)
def test_a_step_that_does_not_write_exactly_what_its_inputs_owe_has_failed(log: Log, step: Any, words: str) -> None:
    log.publish([run_started(), *draws(1)])
    work_until(log, drafting_job(step=step), 3, (*WRITES, DeadLettered))
    [letter] = on_the_log(log, DeadLettered)
    assert isinstance(letter, DeadLettered)
    assert words in letter.exception
    assert ids_on_the_log(log, DraftFailed) == owed(draws(1))


def test_a_missing_reference_fails_its_input_alone(log: Log) -> None:
    known, unknown = application("x = 0\n"), application("x = 1\n")
    look_up = log.refer(ApplicationRegistered)

    def referring(events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            look_up(key_of(event))
        yield from draft(events)

    log.publish([known, run_started(), *draws(2)])
    work_until(log, drafting_job(step=referring), 5, (*WRITES, DeadLettered))
    assert ids_on_the_log(log, RequirementsDrafted) == owed(draws(1))
    [letter] = on_the_log(log, DeadLettered)
    assert isinstance(letter, DeadLettered)
    assert unknown.application_id in letter.exception


def test_facts_of_ended_runs_are_skipped_and_their_place_is_passed(world: World) -> None:
    log = world.open()
    other = str(uuid.UUID(int=11))
    living = [replace(draw, run_id=other) for draw in draws(3, first=10)]
    log.publish([run_started(), run_started(run_id=other), *draws(4), run_ended(), *living])
    work_until(log, drafting_job(), 6)
    assert {fact.run_id for fact in on_the_log(log, *WRITES)} == {other}


def test_a_run_that_ends_while_a_worker_runs_is_dropped(log: Log) -> None:
    log.publish([run_started(), *draws(12)])
    asked: list[Event] = []

    def ending(events: Sequence[Event]) -> Iterator[Event]:
        if not asked:
            log.publish([run_ended()])
        asked.extend(events)
        yield from draft(events)
        if len(asked) == 12:
            raise Killed  # every slice was worked on: the end went unseen

    other = str(uuid.UUID(int=11))
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(log.work, drafting_job(step=ending, slice=1), stop=done.is_set)
        working = Working(log, worker.done)
        working.until(1, (RunEnded,))
        log.publish([replace(each, run_id=other) for each in draws(1, first=20)])
        for records in log.follow(WRITES, stop=lambda: worker.done() or any(each.run_id == other for each in asked)):
            assert all(record.event and record.event.run_id in (RUN, other) for record in records)
        done.set()
        worker.result()
    assert len(asked) < 12


def test_two_workers_of_one_role_share_the_work_and_nothing_is_answered_twice(world: World) -> None:
    log, inputs = world.open(), draws(60)
    log.publish([run_started(), *inputs])
    done = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(world.open().work, drafting_job(batch=8), stop=done.is_set) for _ in range(2)]
        Working(log, lambda: any(worker.done() for worker in workers)).until(120)
        done.set()
        for worker in workers:
            worker.result()
    assert ids_on_the_log(log, *WRITES) == owed(inputs)
