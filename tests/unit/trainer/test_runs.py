"""The newest open run with an equal specification goes on; every other open one is abandoned."""

from dataclasses import replace

import pytest

from infra.problems import BadInput
from infra.runs import named, runs
from schemas.events import RunOutcome, RunStarted, Specification
from tests.histories import at, policy_updated, run_ended, run_started
from trainer.runs import abandoned, choose

MINE = Specification(seed=1)
OTHER = Specification(seed=2)


def test_an_open_run_with_an_equal_specification_is_resumed() -> None:
    choice = choose(runs([run_started(MINE, "a"), policy_updated(3, run_id="a")]), MINE)
    assert choice.resume is not None
    assert (choice.resume.started.run_id, choice.resume.rounds, choice.abandon) == ("a", 3, [])


def test_the_newest_of_several_is_resumed_and_the_rest_abandoned() -> None:
    found = runs([run_started(MINE, "b", 2.0), run_started(MINE, "a", 1.0), run_started(OTHER, "c", 3.0)])
    choice = choose(found, MINE)
    assert choice.resume is not None
    assert choice.resume.started.run_id == "b"
    assert [run.started.run_id for run in choice.abandon] == ["a", "c"]


def a_child(run_id: str, step: int | None) -> RunStarted:
    return replace(run_started(MINE, run_id, 9.0), parent_run_id="a", parent_step=step)


def test_no_fork_is_resumed_by_its_specification_alone() -> None:
    found = runs([run_started(MINE, "a"), a_child("fork", 3)])
    choice = choose(found, MINE)
    assert choice.resume is not None
    assert choice.resume.run_id == "a"
    assert [run.run_id for run in choice.abandon] == ["fork"]
    assert choose(runs([run_started(MINE, "a"), run_ended("a"), a_child("fork", 3)]), MINE).resume is None


def test_a_rescoring_that_was_interrupted_is_left_to_be_repeated() -> None:
    choice = choose(runs([a_child("rescoring", None)]), MINE)
    assert (choice.resume, choice.abandon) == (None, [])


def test_an_ended_run_is_neither_resumed_nor_ended_again() -> None:
    choice = choose(runs([run_started(MINE, "a"), run_ended("a")]), MINE)
    assert (choice.resume, choice.abandon) == (None, [])


def test_the_first_end_of_a_run_stays() -> None:
    found = runs([run_started(MINE, "a"), run_ended("a"), run_ended("a", RunOutcome.ABANDONED)])
    assert found[0].ended is not None
    assert found[0].ended.outcome is RunOutcome.FINISHED


def test_abandoning_ends_the_run_under_the_id_any_end_would_have() -> None:
    (run,) = runs([run_started(MINE, "a")])
    fact = abandoned(run, at(1.0))
    assert (fact.event_id, fact.outcome) == (run_ended("a").event_id, RunOutcome.ABANDONED)


def test_a_run_is_named_by_its_label_before_the_beginning_of_an_id() -> None:
    found = runs([run_started(MINE, "abc"), replace(run_started(OTHER, "xyz", 1.0), label="abc")])
    assert named(found, "abc").run_id == "xyz"


def test_a_run_is_named_by_the_beginning_of_its_id() -> None:
    found = runs([run_started(MINE, "abc", 1.0), run_started(OTHER, "abd", 2.0)])
    assert named(found, "abc").started.run_id == "abc"
    assert named(found, "latest").started.run_id == "abd"
    with pytest.raises(BadInput, match="2 runs on this log begin with 'ab'"):
        named(found, "ab")
    with pytest.raises(BadInput, match="no run on this log begin"):
        named(found, "x")
    with pytest.raises(BadInput, match="there is no run"):
        named([], "latest")
