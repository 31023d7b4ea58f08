import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import project
from consumers.rows import fact, json_text
from infra.log import Record
from schemas.events import Evidence, PolicyUpdated, RewardTerm, SuiteRan, ValidationCompleted
from schemas.topics import KINDS
from tests import histories as past
from tests.whole_run import draft_failed, whole_run

EVENTS = list(whole_run())
ONE_OF_EACH = {type(event): event for event in EVENTS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fact_says_something_in_the_tables(kind: type) -> None:
    said = fact(ONE_OF_EACH[kind])
    assert said.table in project.TABLES
    assert said.rows[0][0] == said.table
    assert said.rows[0][1]["id"] == said.id


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_comes_after_those_it_refers_to(kind: type) -> None:
    said = fact(ONE_OF_EACH[kind])
    for table, _ in said.parents:
        assert project.TABLES.index(table) < project.TABLES.index(said.table)


def test_whatever_a_fact_refers_to_is_the_id_of_an_earlier_fact() -> None:
    known: set[tuple[str, str]] = set()
    for event in EVENTS:
        said = fact(event)
        assert set(said.parents) <= known
        known.add((said.table, said.id))


def test_a_draft_and_its_failure_claim_one_id() -> None:
    draw = past.drawn(past.application())
    drafted, failed = fact(past.drafted(draw, 1)), fact(draft_failed(draw, 1))
    assert (drafted.table, drafted.id, drafted.parents) == (failed.table, failed.id, failed.parents)


def test_no_two_facts_of_a_run_claim_one_id() -> None:
    facts = [fact(event) for event in EVENTS]
    assert len({(each.table, each.id) for each in facts}) == len(facts)


def test_an_update_names_its_rewards_in_their_order_with_their_advantages() -> None:
    update = ONE_OF_EACH[PolicyUpdated]
    assert isinstance(update, PolicyUpdated)
    learnt = [row for table, row in fact(update).rows if table == "update_rewards"]
    assert [row["reward_id"] for row in learnt] == list(update.reward_ids)
    assert [row["advantage"] for row in learnt] == list(update.advantages)
    assert all(left["place"] < right["place"] for left, right in pairwise(learnt))  # type: ignore[operator]


def test_a_validation_has_a_row_for_each_application_and_model() -> None:
    validation = ONE_OF_EACH[ValidationCompleted]
    assert isinstance(validation, ValidationCompleted)
    rows = [row for table, row in fact(validation).rows if table == "validation_rows"]
    assert len(rows) == sum(len(each.rates) for each in validation.rows)


def test_the_results_of_a_suite_are_columns_of_equal_length() -> None:
    for suite in (event for event in EVENTS if isinstance(event, SuiteRan)):
        [(_, row)] = fact(suite).rows
        columns = [row[name] for name in ("test_ids", "outcomes", "seconds", "messages")]
        assert [len(column) for column in columns if isinstance(column, list)] == [len(suite.results)] * 4


def test_documents_say_what_json_or_postgresql_cannot() -> None:
    assert json.loads(json_text(RewardTerm(name="a\x00b", value=float("nan")))) == {"name": "a␀b", "value": "nan"}


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_documents_keep_everything_else(tail: str, seconds: float) -> None:
    evidence = Evidence(cpu_seconds=seconds, output_tail=tail.replace("\x00", ""))
    assert json.loads(json_text(evidence))["output_tail"] == evidence.output_tail
    assert json.loads(json_text(evidence))["cpu_seconds"] == seconds


@given(st.lists(st.lists(st.integers(0, 9), max_size=600), max_size=12), st.data())
def test_gathering_keeps_every_record_in_order(sizes: list[list[int]], data: st.DataObject) -> None:
    batches = [[_record(n) for n in batch] for batch in sizes]
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += data.draw(st.sampled_from((0.0, 0.1, 1.0)))
        return now

    gathered = list(project._gathered(batches, clock))
    assert [record for batch in gathered for record in batch] == [record for batch in batches for record in batch]
    assert all(gathered)


def test_silence_ends_the_gathering() -> None:
    batches = iter([[_record(1)], [_record(2)], [], [_record(3)]])
    gathered = project._gathered(batches, lambda: 0.0)
    assert next(iter(gathered)) == [_record(1), _record(2)]


def _record(offset: int) -> Record:
    return Record(topic="tests", partition=0, offset=offset, event=None)
