"""A fork goes on from an update of its parent: with nothing changed it repeats it, with a change it parts after it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from infra.blobs import Blobs
from infra.log import Job
from infra.memory import MemoryLog
from infra.problems import BadInput
from infra.runs import Run, history_of, lineage, named, runs, runs_on
from schemas.equality import Slot, first_difference_of, slots
from schemas.events import (
    ApplicationDrawn,
    Event,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RewardWeights,
    RoundOpened,
    RunOutcome,
    RunStarted,
    Specification,
)
from schemas.identity import event_id
from tests.histories import RUN, policy_updated, run_ended, run_started
from tests.unit.trainer.workshop import (
    JOB,
    SPECIFICATION,
    Killed,
    MortalLog,
    of_kind,
    play,
    reward_of,
    started,
    ticking,
)
from trainer.forks import Origin, begun, changes, choose_fork, origin, require_forkable
from trainer.policy import Policy
from trainer.replay import rebuild, starting_policy

STEPS = SPECIFICATION.rounds


numbers = count()


def a_fork(log: MemoryLog, step: int, spec: Specification = SPECIFICATION, *, of: str = RUN) -> RunStarted:
    """The start of a fork that no other test has begun."""
    run_id = f"fork-{next(numbers)}"
    return replace(
        started(spec),
        event_id=event_id(run_id, "run", "start"),
        run_id=run_id,
        offsets=log.end_offsets(),
        parent_run_id=of,
        parent_step=step,
        label=f"label of {run_id}",
    )


def name(run: RunStarted) -> str:
    assert run.run_id is not None
    return run.run_id


def canonical(log: MemoryLog, run_id: str = RUN) -> dict[Slot, bytes]:
    found = runs_on(log)
    line = lineage(found, next(run for run in found if run.run_id == run_id))
    return slots(history_of(log, line), [run.run_id for run in line])


def repeats_its_parent(log: MemoryLog, fork: RunStarted) -> bool:
    return first_difference_of(canonical(log), canonical(log, name(fork))) is None


def own(log: MemoryLog, run_id: str) -> list[tuple[str, int]]:
    return sorted((str(each.purpose), each.round) for each in of_kind(log, RoundOpened) if each.run_id == run_id)


def fresh(base: Path) -> Policy:
    return Policy(base, learning=SPECIFICATION.learning, seed=99)


@pytest.fixture(scope="module")
def parent(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MortalLog, Blobs]:
    """A log with one finished run, and where its checkpoints lie. The forks of all tests come to stand beside it."""
    log, blobs = MortalLog(), Blobs(str(tmp_path_factory.mktemp("blobs")))
    play(log, blobs, small_base)
    return log, blobs


# ---- nothing changed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_a_fork_with_nothing_changed_repeats_its_parent(
    small_base: Path, parent: tuple[MortalLog, Blobs], step: int
) -> None:
    log, blobs = parent
    before, fork = canonical(log), a_fork(log, step)
    ended = play(log, blobs, small_base, fork)
    assert ended is not None
    assert ended.outcome is RunOutcome.FINISHED
    assert repeats_its_parent(log, fork)
    assert canonical(log) == before


def test_a_fork_plays_what_its_parent_opened_after_the_cut_and_nothing_else(
    small_base: Path, parent: tuple[MortalLog, Blobs]
) -> None:
    log, blobs = parent
    beginning, middle, end = a_fork(log, 0), a_fork(log, 2), a_fork(log, STEPS)
    for fork in (beginning, middle, end):
        play(log, blobs, small_base, fork)
    assert own(log, name(beginning)) == own(log, RUN)
    assert own(log, name(middle)) == [("test", 4), ("train", 3), ("train", 4), ("validate", 2), ("validate", 4)]
    assert own(log, name(end)) == [("test", 4), ("validate", 4)]


@pytest.mark.parametrize("second", [1, 2, 3])
def test_a_fork_of_a_fork_repeats_it_wherever_it_begins(
    small_base: Path, parent: tuple[MortalLog, Blobs], second: int
) -> None:
    log, blobs = parent
    first = a_fork(log, 2)
    play(log, blobs, small_base, first)
    fork = a_fork(log, second, of=name(first))
    play(log, blobs, small_base, fork)
    assert repeats_its_parent(log, fork)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("transaction", range(1, 6))
def test_a_fork_killed_at_any_transaction_ends_equal(
    small_base: Path, parent: tuple[MortalLog, Blobs], transaction: int, moment: str
) -> None:
    log, blobs = parent
    log.dies_at = log.transactions + transaction, moment
    fork = a_fork(log, 3)
    with pytest.raises(Killed):
        play(log, blobs, small_base, fork)
    play(log, blobs, small_base, fork)
    assert repeats_its_parent(log, fork)


def test_where_every_checkpoint_is_lost_each_run_of_the_line_is_learnt_again(
    small_base: Path, tmp_path: Path, parent: tuple[MortalLog, Blobs]
) -> None:
    (log, blobs), heard = parent, list[str]()
    first = a_fork(log, 2)
    play(log, blobs, small_base, first)
    fork = a_fork(log, 3, of=name(first))
    play(log, Blobs(str(tmp_path)), small_base, fork, heard=heard)
    lost = "the checkpoint of round {} is lost: learning rounds {} to {} of run {} again"
    assert heard == [lost.format(2, 1, 2, RUN[:8]), lost.format(3, 3, 3, name(first))]
    assert repeats_its_parent(log, fork)


def test_a_forks_own_newest_policy_is_learnt_again_from_where_it_began(
    small_base: Path, tmp_path: Path, parent: tuple[MortalLog, Blobs]
) -> None:
    log, blobs = parent
    fork = a_fork(log, 3)
    play(log, blobs, small_base, fork)
    policy, restored = fresh(small_base), Blobs(str(tmp_path))
    rebuild(policy, log, fork, restored, ticking())
    (newest,) = [each for each in of_kind(log, PolicyUpdated) if each.run_id == fork.run_id]
    assert (policy.digest, policy.step) == (newest.policy_digest, 4)
    assert set(restored.digests()) <= set(blobs.digests())


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_fork_begins_with_the_policy_of_its_parent_at_the_step_whatever_its_own_seed(
    small_base: Path, parent: tuple[MortalLog, Blobs], step: int
) -> None:
    log, blobs = parent
    policy = fresh(small_base)
    starting_policy(policy, log, a_fork(log, step, replace(SPECIFICATION, seed=6)), blobs, ticking())
    updates = [each for each in of_kind(log, PolicyUpdated) if each.run_id == RUN]
    digests = {each.step: each.policy_digest for each in updates}
    digests[0] = next(each.parent_policy_digest for each in updates if each.round == 1)
    assert (policy.digest, policy.step) == (digests[step], step)


def flat_in_round(number: int) -> Job:
    """A workshop in which every draft of one round is worth the same."""

    def flat(events: Sequence[Event]) -> list[Event]:
        made = list(JOB.step(events))
        drafts = {each.event_id: each for each in made if isinstance(each, RequirementsDrafted)}
        return [
            reward_of(drafts[each.requirements_id], 0.5)
            if isinstance(each, RewardScored) and each.round == number
            else each
            for each in made
        ]

    return replace(JOB, step=flat, role="flat")


def test_a_cut_stays_where_it_is_while_the_parent_goes_on(small_base: Path, tmp_path: Path) -> None:
    """Round 2 teaches nothing, so step 1 holds for two rounds. A fork is begun before the parent has played the second,
    another when it is over."""
    log, blobs, job = MortalLog(), Blobs(str(tmp_path)), flat_in_round(2)
    log.dies_at = 5, "before"
    with pytest.raises(Killed):
        play(log, blobs, small_base, job=job)
    assert [each.round for each in of_kind(log, PolicyUpdated)] == [1]
    early = a_fork(log, 1)
    play(log, blobs, small_base, early, job=job)
    play(log, blobs, small_base, job=job)
    late = a_fork(log, 1)
    play(log, blobs, small_base, late, job=job)
    skipped = {each.run_id: each.step for each in of_kind(log, PolicyUpdated) if each.skipped}
    assert skipped == {RUN: 1, early.run_id: 1, late.run_id: 1}
    assert repeats_its_parent(log, early)
    assert repeats_its_parent(log, late)


# ---- something changed ---------------------------------------------------------------------------------------------


def weighed(events: Sequence[Event]) -> list[Event]:
    """The workshop, with the specification's weight on what a draft is worth."""
    made = list(JOB.step(events))
    drafts = {each.event_id: each for each in made if isinstance(each, RequirementsDrafted)}
    return [
        replace(each, value=each.value * drafts[each.requirements_id].reward.mean)
        if isinstance(each, RewardScored) and each.value is not None
        else each
        for each in made
    ]


def test_a_changed_reward_changes_the_course_after_the_cut_and_nothing_before_it(
    small_base: Path, tmp_path: Path
) -> None:
    log, blobs, job = MemoryLog(), Blobs(str(tmp_path)), replace(JOB, step=weighed, role="weighed")
    play(log, blobs, small_base, job=job)
    spec = replace(SPECIFICATION, reward=RewardWeights(mean=0.5))
    fork = a_fork(log, 2, spec)
    play(log, blobs, small_base, fork, job=job)
    before, after = canonical(log), canonical(log, name(fork))
    assert before.keys() == after.keys()
    differing = {slot for slot in before if before[slot] != after[slot]}
    assert {slot.family for slot in differing if slot.round is None} == {"RunStarted", "RunEnded"}
    assert {slot.round for slot in differing if slot.round is not None} == {2, 3, 4}
    assert {slot.purpose for slot in differing if slot.round == 2} == {Purpose.VALIDATE}
    updates = {(each.run_id, each.round): each for each in of_kind(log, PolicyUpdated)}
    assert updates[fork.run_id, 3].parent_policy_digest == updates[RUN, 2].policy_digest
    assert updates[fork.run_id, 3].policy_digest != updates[RUN, 3].policy_digest


def test_a_fork_draws_by_its_own_specification(small_base: Path, parent: tuple[MortalLog, Blobs]) -> None:
    log, blobs = parent
    sampling = replace(SPECIFICATION.draft_sampling, temperature=0.5)
    spec = replace(SPECIFICATION, seed=6, drafts_per_application=2, draft_sampling=sampling)
    fork = a_fork(log, 3, spec)
    play(log, blobs, small_base, fork)
    draws = {
        each.run_id: each for each in of_kind(log, ApplicationDrawn) if each.round == 4 and each.purpose == "train"
    }
    assert (len(draws[fork.run_id].draft_seeds), draws[fork.run_id].draft_sampling.temperature) == (2, 0.5)
    assert not set(draws[fork.run_id].draft_seeds) & set(draws[RUN].draft_seeds)


def test_a_fork_may_have_another_horizon(small_base: Path, parent: tuple[MortalLog, Blobs]) -> None:
    log, blobs = parent
    fork = a_fork(log, 4, replace(SPECIFICATION, rounds=6))
    ended = play(log, blobs, small_base, fork)
    assert ended is not None
    assert ended.rounds == 6
    assert [number for purpose, number in own(log, name(fork)) if purpose == "train"] == [5, 6]
    updates = {(each.run_id, each.round): each for each in of_kind(log, PolicyUpdated)}
    assert [updates[fork.run_id, number].step for number in (5, 6)] == [5, 6]
    assert updates[fork.run_id, 5].learning_rate > updates[fork.run_id, 6].learning_rate


def test_a_run_whose_parent_is_not_here_cannot_begin(small_base: Path, tmp_path: Path) -> None:
    log = MemoryLog()
    with pytest.raises(BadInput, match=f"comes from run {RUN}, which is not on this log"):
        play(log, Blobs(str(tmp_path)), small_base, a_fork(log, 1))


# ---- what a command decides ----------------------------------------------------------------------------------------


def a_line(*facts: Event) -> list[Run]:
    return [named(runs([run_started(), *facts]), "latest")]


HERE = Origin(run_id=RUN, step=1, label="mine")


def test_a_fork_begins_at_an_update_or_at_the_beginning() -> None:
    line = a_line(policy_updated(1), policy_updated(2))
    assert [origin(line, step, "mine") for step in (0, 1, 2)] == [replace(HERE, step=step) for step in (0, 1, 2)]
    for step in (-1, 3):
        with pytest.raises(
            BadInput, match=rf"--at {step}: run {RUN} has made 2 updates.*\n.*from 0, its beginning, to 2"
        ):
            origin(line, step, "mine")


@pytest.mark.parametrize("name", ["latest", "", "a b", "-x", "home:run", "x" * 101])
def test_a_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot name a run"):
        origin(a_line(), 0, name)


def test_a_rescoring_has_no_policy_to_go_on_from() -> None:
    (run,) = a_line()
    rescoring = replace(run, started=replace(run.started, run_id="rescoring", parent_run_id=RUN))
    with pytest.raises(BadInput, match=rf"only re-scores and has no policy\n.*fork run {RUN}"):
        origin([rescoring], 0, "mine")


LEARNING = SPECIFICATION.learning


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (replace(SPECIFICATION, policy="other"), "policy .from lab/cet-d to other"),
        (replace(SPECIFICATION, policy_digest="f" * 64), "policy_digest"),
        (replace(SPECIFICATION, learning=replace(LEARNING, lora_rank=8)), "learning.lora_rank .from 4 to 8"),
        (replace(SPECIFICATION, learning=replace(LEARNING, lora_alpha=9)), "learning.lora_alpha .from 8 to 9"),
        (replace(SPECIFICATION, rounds=2), "rounds is 2, but the fork begins after round 3"),
    ],
)
def test_what_the_restored_policy_could_not_go_on_under_is_refused_by_name(spec: Specification, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        require_forkable(SPECIFICATION, spec, 3)


def test_everything_else_may_change() -> None:
    learning = replace(LEARNING, learning_rate=0.1, kl_weight=0.0, warmup_rounds=9)
    require_forkable(SPECIFICATION, replace(SPECIFICATION, rounds=3, seed=9, learning=learning), 3)


def test_changes_are_named_as_they_are_set() -> None:
    spec = replace(SPECIFICATION, seed=6, reward=RewardWeights(variance=0.5))
    assert list(changes(SPECIFICATION, spec)) == [("seed", 5, 6), ("reward.variance", 1.0, 0.5)]


def forked(label: str = "mine", parent: str = RUN, step: int = 1) -> RunStarted:
    run = run_started(SPECIFICATION, "fork", 1.0)
    return replace(run, label=label, parent_run_id=parent, parent_step=step)


def test_the_open_fork_of_the_same_command_goes_on() -> None:
    found = runs([run_started(), forked()])
    assert choose_fork(found, HERE, SPECIFICATION) == found[1]
    assert choose_fork(found, replace(HERE, label="free"), SPECIFICATION) is None


@pytest.mark.parametrize(
    "holder",
    [
        [forked(), run_ended("fork")],
        [forked(step=2)],
        [forked(parent="other")],
        [replace(forked(), specification=Specification())],
    ],
    ids=["it ended", "another step", "another parent", "another specification"],
)
def test_a_name_that_another_run_has_is_refused(holder: list[Event]) -> None:
    with pytest.raises(BadInput, match=r"run fork is called mine already\n.*another name"):
        choose_fork(runs([run_started(), *holder]), HERE, SPECIFICATION)


def test_a_fork_draws_from_its_parents_applications_unless_it_was_given_others() -> None:
    mother = replace(run_started(SPECIFICATION), application_ids=("a", "b"))
    fresh = replace(run_started(SPECIFICATION, "fork"), application_ids=("a", "b", "registered since"))
    begins = begun(fresh, HERE, mother)
    assert begins.application_ids == ("a", "b")
    assert (begins.parent_run_id, begins.parent_step, begins.label) == (RUN, 1, "mine")
    others = replace(fresh, specification=replace(SPECIFICATION, applications=("other",)))
    assert begun(others, HERE, mother).application_ids == fresh.application_ids
