"""What is told of a run is what its facts say."""

from dataclasses import replace

import pytest

from schemas.events import (
    Event,
    PassRate,
    Purpose,
    RewardScored,
    SuiteUnit,
    ValidationCompleted,
    ValidationRow,
    Verdict,
)
from tests.histories import RUN, application, at, drafted, drawn, policy_updated, round_opened, run_started, suite_ran
from tests.whole_run import written
from trainer import reports
from trainer.reports import Story

APP = application()
MODELS = (("impl-0", True), ("impl-1", True), ("impl-3", False))


def validated(number: int, rates: tuple[float | None, ...], seconds: float = 0.0) -> ValidationCompleted:
    row = tuple(PassRate(model=name, rate=r, rewarded=w) for (name, w), r in zip(MODELS, rates, strict=True))
    known = [each.rate for each in row if each.rewarded and each.rate is not None]
    return ValidationCompleted(
        event_id=f"validation {number}",
        recorded_at=at(seconds),
        run_id=RUN,
        round=number,
        purpose=Purpose.VALIDATE,
        policy_digest=f"{number}" * 64,
        rows=(ValidationRow(application_id="a", rates=row), ValidationRow(application_id="b", rates=row)),
        mean_pass_rate=sum(known) / len(known),
        spread=0.25,
        invalid=0,
    )


def scored(number: int, value: float, app: str = "") -> RewardScored:
    draft = drafted(drawn(APP, number=number, purpose=Purpose.VALIDATE))
    return RewardScored(
        event_id=f"reward {number} {app}",
        recorded_at=at(0),
        run_id=RUN,
        application_id=app or APP.application_id,
        round=number,
        purpose=Purpose.VALIDATE,
        draft=0,
        policy_digest=draft.policy_digest,
        requirements_id=draft.event_id,
        suite_ids=(),
        value=value,
        cause="",
        terms=(),
        rates=(PassRate(model="impl-0", rate=value, rewarded=True), PassRate(model="impl-3", rate=0.0, rewarded=False)),
        function="test/1",
    )


def test_the_curve_has_a_point_per_validation_in_the_order_of_rounds() -> None:
    facts = [run_started(), validated(20, (0.5, 1.0, 0.25), 90.0), validated(0, (0.0, 0.5, None), 4.0)]
    first, second = reports.curve(facts)
    assert (first.round, first.held_out_pass_rate, first.unseen_model, first.seconds) == (0, 0.25, None, 4.0)
    assert second.per_model == {"impl-0": 0.5, "impl-1": 1.0, "impl-3": 0.25}
    assert (second.unseen_model, second.policy_digest) == (0.25, "20" * 64)


def test_a_repeated_validation_changes_nothing() -> None:
    facts: list[Event] = [run_started(), validated(0, (0.0, 0.5, 0.5))]
    assert reports.curve(facts) == reports.curve([*facts, validated(0, (1.0, 1.0, 1.0))])


def test_the_curve_of_a_fork_counts_seconds_from_the_start_of_the_run_that_validated() -> None:
    fork = replace(run_started(run_id="fork", seconds=1000.0), parent_run_id=RUN, parent_step=20)
    later = replace(validated(40, (1.0, 1.0, 1.0), 1003.0), run_id="fork")
    points = reports.curve([run_started(), fork, validated(0, (0.0, 0.5, 0.5), 4.0), later])
    assert [(point.round, point.seconds) for point in points] == [(0, 4.0), (40, 3.0)]


def unit(path: str, answered_from: str | None = None) -> SuiteUnit:
    return SuiteUnit(work_key="k", path=path, test_ids=("t",), verdict=Verdict.PASSED, answered_from=answered_from)


def test_answers_are_counted_by_role_and_test_file_and_told_once() -> None:
    draft = drafted(drawn(APP))
    rebuilt = replace(written(draft, 0), work_key="")  # nobody worked for it
    suite = suite_ran(draft)
    facts: list[Event] = [
        *(draft, draft, rebuilt),
        replace(rebuilt, event_id="paid", work_key="k"),
        replace(rebuilt, event_id="known", work_key="k", answered_from="paid"),
        replace(suite, event_id="never ran"),
        replace(suite, event_id="whole", work_key="k"),
        replace(suite, event_id="whole again", work_key="k", answered_from="whole"),
        replace(suite, event_id="by file", work_key="k", units=(unit("a"), unit("b", "whole"), unit("c", "whole"))),
    ]
    told = reports.answers([*facts, *facts])
    assert {role: (each.paid, each.from_the_log) for role, each in told.items()} == {
        "requirements": (1, 0),
        "implement": (1, 1),
        "run_tests": (2, 3),
    }
    assert reports.answer_table(told).splitlines()[2].split() == ["run_tests", "2", "paid", "3", "from", "the", "log"]


def test_the_stages_of_a_round_add_up_to_it() -> None:
    story = Story()
    draw = drawn(APP)
    draft = replace(drafted(draw), recorded_at=at(1.0))
    for fact in (
        round_opened(1, seconds=0.5),
        draft,
        replace(suite_ran(draft), recorded_at=at(2.5)),
        policy_updated(1, seconds=4.0),
    ):
        story.add(fact)
    spent = story.stages.seconds()[1]
    assert spent == {"draft": 0.5, "implement": 0.0, "tests": 1.5, "rewards": 0.0, "train": 1.5}
    assert sum(spent.values()) == pytest.approx(3.5)
    assert "a round" in reports.stage_table(story.stages.seconds())


def test_an_open_round_is_not_timed() -> None:
    story = Story()
    story.add(round_opened(1))
    assert story.stages.seconds() == {}
    assert reports.stage_table({}) == "no round is closed yet"


def test_a_fact_told_twice_is_counted_once() -> None:
    story = Story()
    assert [story.add(run_started()), story.add(run_started())] == [True, False]
    assert story.counts == {"RunStarted": 1}


def test_the_example_is_the_application_that_gained_most() -> None:
    before = replace(drafted(drawn(APP, number=0, purpose=Purpose.VALIDATE), text="vague"), round=0)
    after = replace(drafted(drawn(APP, number=20, purpose=Purpose.VALIDATE), text="clear"), event_id="after")
    found = reports.example([before, after, scored(0, 0.25), scored(20, 1.0)])
    assert found is not None
    assert (found.before, found.after, found.before_rate, found.after_rate) == ("vague", "clear", 0.25, 1.0)


def test_there_is_no_example_before_a_second_validation() -> None:
    assert reports.example([scored(0, 0.5)]) is None


def test_the_chart_puts_good_rates_above_bad_ones() -> None:
    points = reports.curve([run_started(), validated(0, (0.1, 0.1, 0.1)), validated(10, (0.9, 0.9, 0.5))])
    lines = reports.chart(points, ceiling=0.98).splitlines()
    high = next(i for i, line in enumerate(lines) if line.rstrip().endswith("●"))
    low = next(i for i, line in enumerate(lines) if "┤●" in line)
    assert high < low
    assert reports.chart([]) == "no validation is complete yet"
