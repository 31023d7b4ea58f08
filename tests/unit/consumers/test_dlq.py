"""Dead letters: what became of each, which ones a person means, and what working on one again writes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from consumers.dlq import again, words
from consumers.dlq.again import Case, Outcome
from consumers.dlq.letters import FAILED_AGAIN, OPEN, REPLAYED, Letter, chosen, letters, named
from infra.log import Job
from infra.memory import MemoryLog
from infra.problems import BadInput, ServiceUnavailable
from schemas.events import (
    ApplicationDrawn,
    DeadLetterReplayed,
    Event,
    RequirementsDrafted,
    RewardScored,
)
from tests import histories as past
from tests.laws.drafting import draft, drafting_job, draws, fails, owed
from tests.whole_run import dead_lettered, replayed

LETTER = dead_lettered()
DRAWS = draws(2)


def refusing(_: Sequence[Event]) -> list[Event]:
    raise ValueError("no such suite")


def log_with(*facts: Event) -> MemoryLog:
    log = MemoryLog(partitions=1)
    log.publish([past.run_started(), *facts])
    return log


def letter_of(log: MemoryLog, event: Event, stage: str = "requirements", **changes: object) -> Letter:
    """As the stage would have written it."""
    [record] = [each for each in log.replay((type(event),)) if each.event == event]
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return Letter(replace(LETTER, **place, stage=stage, run_id=event.run_id, caused_by=(event.event_id,), **changes))


def case_of(log: MemoryLog, letter: Letter) -> Case:
    [case] = again.cases(log, [letter])
    return case


def worked_again(log: MemoryLog, letter: Letter, job: Job) -> Outcome:
    """One replay, written to the log."""
    facts, outcome = again.again(case_of(log, letter), again.stepped(job), lambda: past.DAWN)
    with log.writer("dlq") as writer:
        writer.publish(facts)
    return outcome


def ids(log: MemoryLog, kind: type[Event]) -> list[str]:
    return sorted(record.event.event_id for record in log.replay((kind,)) if record.event is not None)


# ---- which there are ------------------------------------------------------------------------------------------------


def test_what_became_of_a_letter_does_not_depend_on_the_order_of_the_facts() -> None:
    failed = replace(replayed(LETTER, 0), exception="ValueError: again")
    facts = [LETTER, LETTER, failed, replayed(LETTER, 1)]
    for order in permutations(facts):
        [letter] = letters(order)
        assert (letter.state, len(letter.replays)) == (REPLAYED, 2)
    assert [each.state for each in letters([failed, LETTER])] == [FAILED_AGAIN]
    assert [each.is_open for each in letters([LETTER])] == [True]


def test_letters_are_told_oldest_first() -> None:
    younger = replace(LETTER, event_id="younger", recorded_at=past.at(5))
    assert [each.dead for each in letters([younger, LETTER])] == [LETTER, younger]


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ([], True),
        (["stage=run_tests"], True),
        (["stage=rewards"], False),
        (["topic=tests", "open"], True),
        (["run=00000000"], True),
        (["run=ffff"], False),
        (["exception~no such"], True),
        (["exception~none such"], False),
        (["stage=run_tests", "exception~none such"], False),
    ],
)
def test_a_letter_is_chosen_when_every_filter_holds(filters: list[str], passes: bool) -> None:
    letter = Letter(replace(LETTER, run_id=past.RUN))
    assert chosen(filters)(letter) is passes
    assert chosen([*filters, OPEN])(Letter(letter.dead, (replayed(LETTER),))) is False


@pytest.mark.parametrize("text", ["", "colour=red", "stage", "stage=", "exception=ValueError", "exception~", "closed"])
def test_a_filter_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput, match="is no filter of dead letters"):
        chosen([text])


def test_a_letter_is_named_by_the_beginning_of_its_id() -> None:
    found = letters([replace(LETTER, event_id=each) for each in ("abc", "abd")])
    assert named(found, "abd").dead.event_id == "abd"
    for name in ("ab", "x", ""):
        with pytest.raises(BadInput):
            named(found, name)


# ---- working on one again -------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_written_and_repeating_it_changes_nothing() -> None:
    first, *rest = draft([DRAWS[0]])
    log = log_with(*DRAWS, first)
    letter = letter_of(log, DRAWS[0])
    assert worked_again(log, letter, drafting_job()) == Outcome(
        letter_id=LETTER.event_id, stage="requirements", place=letter.place, written=len(rest), stood=1
    )
    assert ids(log, RequirementsDrafted) == owed(DRAWS[:1])
    [now] = letters([letter.dead, *(each.event for each in log.replay((DeadLetterReplayed,)) if each.event)])
    assert case_of(log, now).is_settled
    assert worked_again(log, letter, drafting_job(step=refusing)).written == 0
    assert ids(log, RequirementsDrafted) == owed(DRAWS[:1])


def test_where_everything_owed_stands_the_step_is_not_even_asked() -> None:
    log = log_with(*DRAWS, *fails(DRAWS[0], "no such suite"))
    outcome = worked_again(log, letter_of(log, DRAWS[0]), drafting_job(step=refusing))
    assert (outcome.written, outcome.stood, outcome.exception) == (0, 2, "")
    assert "2 facts stood there already and stay" in outcome.as_text()


def test_a_replay_that_fails_again_is_recorded_with_its_cause_and_may_be_repeated() -> None:
    log = log_with(*DRAWS)
    letter = letter_of(log, DRAWS[0])
    outcome = worked_again(log, letter, drafting_job(step=refusing))
    assert outcome.exception == "ValueError: no such suite"
    [failed] = [record.event for record in log.replay((DeadLetterReplayed,)) if record.event]
    assert isinstance(failed, DeadLetterReplayed)
    assert (failed.exception, failed.written, failed.dead_letter_id) == (outcome.exception, 0, LETTER.event_id)
    assert worked_again(log, Letter(letter.dead, (failed,)), drafting_job()).written == 2
    assert len(set(ids(log, DeadLetterReplayed))) == 2


def test_a_step_that_leaves_out_what_it_owes_has_failed_again() -> None:
    log = log_with(*DRAWS)
    outcome = worked_again(log, letter_of(log, DRAWS[0]), drafting_job(step=lambda events: list(draft(events))[1:]))
    assert "left out 1 owed facts" in outcome.exception


def test_a_service_that_is_away_ends_the_command_and_is_no_failure_of_the_record() -> None:
    def away(_: Sequence[Event]) -> list[Event]:
        raise ServiceUnavailable("Kafka is away")

    log = log_with(*DRAWS)
    with pytest.raises(ServiceUnavailable):
        worked_again(log, letter_of(log, DRAWS[0]), drafting_job(step=away))


def test_what_still_cannot_be_read_says_so() -> None:
    log = log_with()
    log.publish_bytes("draws", "key", b"\x00\x7f\xff\xff\xff")
    letter = Letter(replace(LETTER, topic="draws", partition=0, offset=0, stage="requirements"))
    assert "still cannot be read: schema id" in worked_again(log, letter, drafting_job()).exception
    assert "00 7f ff ff ff" in "\n".join(words.shown(case_of(log, letter)))
    assert "would fail" in words.plan(case_of(log, letter))


def test_a_place_where_nothing_stands_any_more_says_so() -> None:
    log = log_with(*DRAWS)
    letter = Letter(replace(LETTER, topic="draws", partition=0, offset=99, stage="requirements"))
    assert worked_again(log, letter, drafting_job()).exception == "nothing stands at draws/0@99 any more"


def test_a_fact_the_stage_does_not_work_on_says_so() -> None:
    log = log_with(*DRAWS)
    letter = letter_of(log, DRAWS[0], stage="run_tests")
    assert "run_tests does not work on ApplicationDrawn" in case_of(log, letter).unreadable


def test_a_run_that_has_ended_is_refused_except_by_the_tables() -> None:
    log = log_with(*DRAWS, past.run_ended())
    assert case_of(log, letter_of(log, DRAWS[0])).is_refused
    assert not case_of(log, letter_of(log, DRAWS[0], stage="project")).is_refused


def test_a_letter_of_an_unknown_stage_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="'dreams', which is not known"):
        again.cases(log_with(), [Letter(replace(LETTER, stage="dreams"))])


def test_one_record_is_read_wherever_it_stands() -> None:
    log = MemoryLog(partitions=3, seed=5)
    log.publish([past.run_started(), *draws(12)])
    for record in log.replay((ApplicationDrawn,)):
        assert again.record_at(log, record.topic, record.partition, record.offset) == record
    assert again.record_at(log, "draws", 7, 0) is None


def test_the_facts_beside_a_record_are_those_of_its_partition() -> None:
    log = MemoryLog(partitions=3, seed=5)
    log.publish([past.run_started(), *draws(12)])
    everything = list(log.replay((ApplicationDrawn,)))
    beside = {each.event_id for each in again.facts_beside(log, everything[0])}
    same = {each.event.event_id for each in everything if each.event and each.partition == everything[0].partition}
    assert beside == same


# ---- in words -------------------------------------------------------------------------------------------------------


def test_a_person_sees_what_is_owed_and_where_it_stands() -> None:
    first, *_ = draft([DRAWS[0]])
    log = log_with(*DRAWS, first)
    case = case_of(log, letter_of(log, DRAWS[0]))
    said = "\n".join(words.shown(case))
    assert "RequirementsDrafted at requirements/0@0" in said
    assert "missing" in said
    assert sorted(map(bool, words.described_case(case)["owed"].values())) == [False, True]  # type: ignore[attr-defined]


def test_long_texts_and_long_sequences_are_cut_for_a_person_and_whole_for_a_machine() -> None:
    app = past.application("x = 1\n" * 1000)
    log = log_with(app)
    case = case_of(log, letter_of(log, app, stage="project"))
    assert "(6000 characters)" in "\n".join(words.shown(case))
    assert "x = 1\n" * 1000 in str(words.described_case(case)["record"]).replace("\\n", "\n")


def test_no_letters_are_said_to_be_none() -> None:
    assert words.listed([]) == ["no dead letters"]
    assert "ValueError: no such suite" in words.listed([Letter(LETTER)])[0]


def test_a_reward_is_owed_for_a_verdict() -> None:
    suite = past.suite_ran(past.drafted(past.drawn(past.application())))
    log = log_with(suite)
    case = case_of(log, letter_of(log, suite, stage="rewards"))
    assert len(case.owed) == len(case.missing) == 1
    assert again.STAGES["rewards"].writes == (RewardScored,)
