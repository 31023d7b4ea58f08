"""Two runs are equal when what they decided is, whatever the machine, the clock, the ids and the order."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.derived import field_kind, field_types, items, optional
from schemas.equality import Slot, first_difference, first_difference_of, slot_of, slots
from schemas.events import (
    ApplicationRejected,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
    DraftFailed,
    Event,
    Fault,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Offset,
    PassRate,
    Purpose,
    RewardScored,
    RewardTerm,
    RunStarted,
    Specification,
    SuiteRan,
    SuiteUnit,
    ValidationCompleted,
    ValidationRow,
    Verdict,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from tests.histories import (
    ORCHESTRA,
    RUN,
    application,
    at,
    drafted,
    drawn,
    policy_updated,
    round_opened,
    run_ended,
    run_started,
    suite_ran,
)

SLOT_PARTS = {field.name for field in fields(Slot)} - {"family", "copy"}
OTHER_RUN = "00000000-0000-0000-0000-00000000000b"


def a_run() -> list[Event]:
    """A short run in which every kind of fact occurs and no tuple is empty."""
    app = application()
    envelope: dict[str, Any] = {"recorded_at": at(0), "run_id": RUN}
    opened, watched = round_opened(1), round_opened(1, Purpose.VALIDATE)
    draw = drawn(app, drafts=2)
    draft = drafted(draw)
    carried = {field.name: getattr(draft, field.name) for field in fields(DraftFailed) if hasattr(draft, field.name)}
    lost_id = event_id(RUN, draw.event_id, "requirements", 1)
    lost = DraftFailed(**{**carried, "draft": 1, "event_id": lost_id}, fault=Fault.MACHINE, cause="engine away")
    suites = [suite_ran(draft, 0, passed=3), suite_ran(draft, 1)]
    built = {**carried, "caused_by": (draft.event_id,), "requirements_id": draft.event_id}
    written = ImplementationWritten(
        **{**built, "event_id": suites[0].implementation_id},
        model=suites[0].model,
        model_digest="m" * 64,
        prompt_version="lab/1",
        files=(File(path="a.py", content=b"x"),),
        answer="x",
        seed=5,
        finish_reason="stop",
    )
    unwritten = ImplementationFailed(
        **{**built, "event_id": suites[1].implementation_id}, model=suites[1].model, fault=Fault.MODEL, cause="no code"
    )
    rates = (PassRate(model="impl-0", rate=0.75, rewarded=True), PassRate(model="impl-1", rate=None, rewarded=True))
    scored = RewardScored(
        **envelope,
        event_id=event_id(RUN, draft.event_id, "reward"),
        caused_by=tuple(suite.event_id for suite in suites),
        application_id=app.application_id,
        round=1,
        purpose=Purpose.TRAIN,
        draft=0,
        policy_digest=draft.policy_digest,
        requirements_id=draft.event_id,
        suite_ids=tuple(suite.event_id for suite in suites),
        value=0.5,
        cause="",
        terms=(RewardTerm(name="mean", value=0.5),),
        rates=rates,
        function="rates/1",
    )
    validated = ValidationCompleted(
        **envelope,
        event_id=event_id(RUN, watched.event_id, "validation"),
        caused_by=(watched.event_id,),
        round=1,
        purpose=Purpose.VALIDATE,
        policy_digest="p" * 64,
        rows=(ValidationRow(application_id=app.application_id, rates=rates),),
        mean_pass_rate=0.5,
        spread=0.1,
        invalid=0,
    )
    started = replace(
        run_started(Specification(implementers=ORCHESTRA)),
        application_ids=(app.application_id,),
        offsets=(Offset(topic="t", partition=0, offset=1),),
        parent_run_id=OTHER_RUN,
        parent_step=3,
    )
    verified = ApplicationVerified(
        event_id="verified", recorded_at=at(0), application_id=app.application_id, runs=5, sandbox="s", assurance="a"
    )
    rejected = ApplicationRejected(
        event_id="rejected", recorded_at=at(0), application_id="bad", name="bad", reason="fails"
    )
    updated = replace(
        policy_updated(1), reward_ids=(scored.event_id,), advantages=(0.5, None), caused_by=(scored.event_id,)
    )
    opened = replace(opened, application_ids=(app.application_id,), caused_by=(started.event_id,))
    rest = [replace(watched, caused_by=(updated.event_id,)), validated, replace(run_ended(), cause="done")]
    return [
        *(app, verified, rejected, started, opened, draw, draft, lost, written, unwritten, *suites, scored, updated),
        *rest,
    ]


def retold(events: Sequence[Event], run: str) -> list[Event]:
    """The same story in another run: other ids, other clocks, other machine."""
    ids = {event.event_id: str(uuid.uuid5(uuid.NAMESPACE_OID, run + event.event_id)) for event in events}
    return [told(event, ids, run) for event in events]


def told(event: Event, ids: dict[str, str], run: str) -> Event:
    def again(value: Any) -> Any:
        return tuple(map(again, value)) if isinstance(value, tuple) else ids.get(value, value)

    references = {field.name: again(getattr(event, field.name)) for field in kept(event, "reference")}
    return replace(event, **{**references, "run_id": event.run_id and run, "recorded_at": at(1e6)})


def kept(event: Event, kind: str) -> Iterator[Field[Any]]:
    return (field for field in fields(event) if field_kind(field) == kind)


# ---- Changing one field ----------------------------------------------------------------------------------------------


def leaves(record: Any, kind: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each field of this kind, at any depth: its path, and the record with that one field changed."""
    declared = field_types(type(record))
    for field in fields(record):
        value, name = getattr(record, field.name), field.name
        if field_kind(field) == "reference":
            continue
        if field_kind(field) == "measured" or not deep(value):
            if field_kind(field) == kind:
                yield name, changer(record, name, declared[name])
            continue
        members = list(enumerate(value)) if isinstance(value, tuple) else [(None, value)]
        for index, member in members:
            for path, change in leaves(member, kind):
                place = name if index is None else f"{name}[{index}]"
                yield f"{place}.{path}", inside(record, name, index, change)


def deep(value: object) -> bool:
    return is_dataclass(value) or (isinstance(value, tuple) and bool(value) and is_dataclass(value[0]))


def changer(record: Any, name: str, kind: Any) -> Callable[[], Any]:
    return lambda: replace(record, **{name: other(getattr(record, name), kind)})


def inside(record: Any, name: str, index: int | None, change: Callable[[], Any]) -> Callable[[], Any]:
    def changed() -> Any:
        if index is None:
            return replace(record, **{name: change()})
        members = getattr(record, name)
        return replace(record, **{name: (*members[:index], change(), *members[index + 1 :])})

    return changed


def other(value: Any, kind: Any) -> Any:
    """Another value of the same type."""
    if (inner := optional(kind)) is not None:
        return fresh(inner) if value is None else None
    if items(kind) is not None:
        return value[:-1] if value else (fresh(items(kind)),)
    if isinstance(value, StrEnum):
        symbols = list(type(value))
        return symbols[(symbols.index(value) + 1) % len(symbols)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    if is_dataclass(value):
        return next(change() for _, change in leaves(value, "decided"))
    unit: dict[type, Any] = {str: "x", bytes: b"x"}
    return value + unit.get(type(value), 1)


def fresh(kind: Any) -> Any:
    if kind is Offset:
        return Offset(topic="t", partition=0, offset=0)
    if kind is SuiteUnit:
        return SuiteUnit(work_key="w", path="tests/test_a.py", test_ids=("a",), verdict=Verdict.PASSED)
    return kind()


def places(kind: str) -> list[Any]:
    found = [
        pytest.param(index, path, id=f"{type(event).__name__}.{path}")
        for index, event in enumerate(a_run())
        for path, _ in leaves(event, kind)
    ]
    return list({param.id: param for param in found}.values())


def changed(events: list[Event], index: int, path: str, kind: str) -> list[Event]:
    change = dict(leaves(events[index], kind))[path]
    return [*events[:index], change(), *events[index + 1 :]]


@pytest.mark.parametrize(("index", "path"), places("decided"))
def test_any_decided_field_that_differs_is_found_and_named(index: int, path: str) -> None:
    events = a_run()
    others = retold(changed(events, index, path, "decided"), OTHER_RUN)
    difference = first_difference(events, others)
    assert difference is not None
    if path in SLOT_PARTS:  # then the fact stands elsewhere, and is missing here
        assert difference.slot in {slot_of(events[index]), slot_of(others[index])}
        assert {difference.left, difference.right} == {"present", "absent"}
    else:
        assert difference.slot == slot_of(events[index])
        assert difference.field == path
        assert path in str(difference)
        assert difference.left in str(difference) or len(difference.left) > 200


@pytest.mark.parametrize(("index", "path"), places("measured"))
def test_no_measured_field_makes_a_difference(index: int, path: str) -> None:
    assert first_difference(a_run(), changed(a_run(), index, path, "measured")) is None


WITH_A_SLOT = [kind for kind in KINDS if kind not in (DeadLettered, DeadLetterReplayed)]


@pytest.mark.parametrize("kind", WITH_A_SLOT, ids=lambda kind: kind.__name__)
def test_a_reference_to_another_fact_is_a_difference(kind: type[Event]) -> None:
    events = a_run()
    index = next(index for index, event in enumerate(events) if type(event) is kind)
    elsewhere = run_ended().event_id
    for name in [field.name for field in kept(events[index], "reference")]:
        value = getattr(events[index], name)
        if name not in ("event_id", "run_id", "parent_run_id") and value:
            new: Any = elsewhere if isinstance(value, str) else (*value[:-1], elsewhere)
            difference = first_difference(
                events, retold([*events[:index], replace(events[index], **{name: new}), *events[index + 1 :]], "r")
            )
            assert difference is not None
            assert difference.slot == slot_of(events[index])
            assert difference.field.startswith(name)
            assert "RunEnded" in difference.right


# ---- What says nothing -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_order_repetition_ids_and_clocks_say_nothing(data: st.DataObject) -> None:
    events = a_run()
    told_twice = [*events, *data.draw(st.lists(st.sampled_from(events)))]
    left = data.draw(st.permutations(told_twice))
    right = retold(data.draw(st.permutations(told_twice)), OTHER_RUN)
    assert first_difference(left, right) is None
    assert slots(left) == slots(right) == slots(events)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_change_is_found_whatever_the_order_and_the_same_one_is_named(data: st.DataObject) -> None:
    events = a_run()
    index = data.draw(st.integers(0, len(events) - 1))
    path = data.draw(st.sampled_from([path for path, _ in leaves(events[index], "decided")]))
    right = changed(events, index, path, "decided")
    shuffled = first_difference(data.draw(st.permutations(events)), data.draw(st.permutations(right)))
    assert shuffled is not None
    assert shuffled == first_difference(events, right)


def test_a_fact_that_only_one_run_has_is_a_difference() -> None:
    events = a_run()
    for index in range(len(events)):
        fewer = [*events[:index], *events[index + 1 :]]
        difference = first_difference(fewer, events)
        assert difference is not None
        if difference.field == "":
            assert (difference.left, difference.right) == ("absent", "present")


def test_a_fact_that_came_too_late_for_its_slot_changes_nothing() -> None:
    events = a_run()
    late = [replace(event, recorded_at=at(9), cause="late") for event in events if isinstance(event, SuiteRan)]
    assert first_difference(events, [*events, *late]) is None
    assert first_difference(events, [*late, *events]) is not None


def test_a_failure_in_place_of_an_answer_is_named_by_the_two_kinds() -> None:
    events = a_run()
    answer = next(event for event in events if isinstance(event, ImplementationWritten))
    names = {field.name for field in fields(ImplementationFailed)} - {"fault", "cause"}
    shared = {name: getattr(answer, name) for name in names}
    failed = ImplementationFailed(**shared, fault=Fault.MODEL, cause="nothing")
    difference = first_difference(events, [failed if event is answer else event for event in events])
    assert difference is not None
    said = (difference.field, difference.left, difference.right)
    assert said == ("event", "ImplementationWritten", "ImplementationFailed")


def test_one_thing_done_twice_under_two_ids_is_a_difference() -> None:
    events = a_run()
    twice = [*events, *(replace(event, event_id="again") for event in events if isinstance(event, RewardScored))]
    difference = first_difference(events, twice)
    assert difference is not None
    assert (difference.slot.copy, difference.left, difference.right) == (1, "absent", "present")


def test_the_first_difference_is_the_earliest_in_the_life_of_a_run() -> None:
    events = a_run()
    spoilt = [
        replace(event, cause="x") if isinstance(event, SuiteRan | RewardScored | DraftFailed) else event
        for event in reversed(events)
    ]
    difference = first_difference(events, spoilt)
    assert difference is not None
    assert difference.slot.family == "RequirementsDrafted"


def test_floats_are_compared_bit_by_bit() -> None:
    def run_with(loss: float) -> list[Event]:
        return [replace(policy_updated(1), loss=loss)]

    assert first_difference(run_with(nan), run_with(nan)) is None
    difference = first_difference(run_with(0.0), run_with(-0.0))
    assert difference is not None
    assert (difference.field, difference.left, difference.right) == ("loss", "0.0", "-0.0")


def test_dead_letters_say_nothing_and_facts_of_two_runs_are_refused() -> None:
    place: dict[str, Any] = {"topic": "t", "partition": 0, "offset": 3, "stage": "s"}
    dead = DeadLettered(event_id="d", recorded_at=at(0), run_id=RUN, **place, exception="x", attempts=1)
    assert first_difference(a_run(), [dead, *a_run()]) is None
    with pytest.raises(ValueError, match=f"facts of 2 runs \\({RUN}, {OTHER_RUN}\\)"):
        slots([*a_run(), *retold(a_run(), OTHER_RUN)])


def test_what_a_fork_shares_counts_as_its_own() -> None:
    """The second half of the story is told by a fork: its facts have other ids, and name those of its parent."""
    events = a_run()
    half = len(events) // 2
    own = [each for each in events if isinstance(each, RunStarted) or each in events[half:]]
    ids = {each.event_id: f"forked {each.event_id}" for each in own}
    history = [*events[:half], *(told(each, ids, OTHER_RUN) for each in own)]
    lineage = (RUN, OTHER_RUN)
    assert first_difference_of(slots(events), slots(history, lineage)) is None
    with pytest.raises(ValueError, match="facts of 2 runs"):
        slots(history)
    with pytest.raises(ValueError, match="facts of 2 runs"):
        slots(history, ("somebody", OTHER_RUN))


def test_of_a_fork_and_its_parent_the_forks_specification_counts() -> None:
    events = a_run()
    started = next(each for each in events if isinstance(each, RunStarted))
    changed_spec = replace(started.specification, seed=7)
    fork = replace(started, event_id="fork", run_id=OTHER_RUN, specification=changed_spec)
    difference = first_difference_of(slots(events), slots([*events, fork], (RUN, OTHER_RUN)))
    assert difference is not None
    assert (difference.field, difference.left, difference.right) == ("specification.seed", "1", "7")


def test_every_kind_of_fact_took_part() -> None:
    assert {type(event) for event in a_run()} == set(WITH_A_SLOT)
