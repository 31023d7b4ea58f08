"""Laws of the language of list programs."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lab import programs
from infra.lab.programs import DIALECTS, IMPLEMENTERS, WORDINGS, Operation, Program, Tokenizer
from schemas.events import Split

TOKENIZER = Tokenizer(programs.vocabulary())


def _operation(name: str) -> st.SearchStrategy[Operation]:
    return st.sampled_from(programs.OPERATIONS[name].numbers).map(lambda k: Operation(name, k))


any_program = st.builds(
    Program,
    st.lists(st.sampled_from(list(programs.OPERATIONS)).flatmap(_operation), min_size=1, max_size=3).map(tuple),
    st.sampled_from(list(programs.ENDINGS)),
)
any_phrasing = st.fixed_dictionaries({name: st.integers(0, 3) for name in WORDINGS})


@given(any_program)
def test_source_survives_the_tokenizer(program: Program) -> None:
    source = programs.source(program)
    assert TOKENIZER.decode(TOKENIZER.encode(source)) == source


@given(any_program, any_phrasing)
def test_requirements_survive_the_tokenizer(program: Program, phrasing: dict[str, int]) -> None:
    text = programs.requirements(program, phrasing.__getitem__)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(any_program)
def test_decoded_source_still_runs_and_behaves_the_same(program: Program) -> None:
    namespace: dict[str, object] = {}
    exec(TOKENIZER.decode(TOKENIZER.encode(programs.source(program))), namespace)
    function = namespace["f"]
    assert callable(function)
    inputs = programs.arguments(program)
    assert [function(list(xs)) for xs in inputs] == programs.behaviour(program, inputs)


def test_equality_is_one_token() -> None:
    assert " ==" in programs.pieces("x == 0")


@pytest.mark.parametrize("text", ["sort the banana", "sort\tascending", "sort  ascending", "sort ascending\r"])
def test_text_outside_the_language_is_refused_by_name(text: str) -> None:
    with pytest.raises(programs.UnknownWords):
        TOKENIZER.encode(text)


def test_special_tokens_say_nothing_and_cannot_be_written_as_text() -> None:
    assert TOKENIZER.decode([programs.PAD, programs.END, programs.SEPARATOR]) == ""
    with pytest.raises(programs.UnknownWords):
        TOKENIZER.encode("<end>")


@given(any_program, any_phrasing)
def test_a_faithful_text_tells_every_step_in_order(program: Program, phrasing: dict[str, int]) -> None:
    text = programs.requirements(program, phrasing.__getitem__)
    assert programs.faithful(program, text)
    assert not programs.faithful(program, text.partition("\n")[2])
    assert not programs.faithful(program, text + "\n- sort ascending")


def test_no_two_steps_share_a_phrasing() -> None:
    told = Counter(phrasing for wording in WORDINGS.values() for phrasing in wording.phrasings)
    assert max(told.values()) == 1


def test_every_implementer_knows_the_common_phrasing_and_one_more() -> None:
    for name in IMPLEMENTERS:
        for step in WORDINGS:
            common, other = DIALECTS[name][step]
            assert common == programs.common(step) != other


def test_the_rewarded_implementers_share_nothing_else() -> None:
    for step in WORDINGS:
        assert {DIALECTS[name][step][1] for name in IMPLEMENTERS[:3]} | {programs.common(step)} == {0, 1, 2, 3}


def test_splits_are_disjoint_by_sequence_of_operations() -> None:
    rng = random.Random(5)
    seen: dict[tuple[str, ...], Split] = {}
    for wanted in [Split.TRAIN, Split.VALIDATE, Split.TEST] * 500:
        program = programs.sample(rng, wanted)
        names = tuple(step.name for step in program.operations)
        key = names if len(names) > 1 else (*names, program.ending)
        assert seen.setdefault(key, programs.split(program)) is programs.split(program)


def test_a_pool_is_informative_distinct_and_begins_with_the_smaller_pool() -> None:
    pool = programs.pool(Split.VALIDATE, 60)
    assert all(programs.informative(program) and programs.split(program) is Split.VALIDATE for program in pool)
    assert len(set(pool)) == 60
    assert programs.pool(Split.VALIDATE, 20) == pool[:20]


def test_a_program_with_a_step_that_changes_nothing_is_not_informative() -> None:
    assert not programs.informative(Program((Operation("sort"), Operation("add", 3)), "sum"))
