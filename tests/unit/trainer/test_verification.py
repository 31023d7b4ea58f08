"""A replay gives every fact of a run again; whatever was altered, left out or put in is named, the first first."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.problems import BadInput, RunsDiffer
from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    Author,
    Event,
    Outcome,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RewardWeights,
    RoundOpened,
    RunEnded,
    RunOutcome,
    RunStarted,
    SuiteRan,
    ValidationCompleted,
)
from tests.histories import run_ended
from tests.played import SPECIFICATION, Again, Played, played, replayed
from tests.unit.trainer.workshop import Kind
from trainer.policy import numerics
from trainer.verify.verification import ReplayDiffers

WHOLE = {
    "RoundOpened": 9,
    "ApplicationDrawn": 20,
    "RequirementsDrafted": 44,
    "RewardScored": 44,
    "ValidationCompleted": 5,
    "PolicyUpdated": 4,
    "RunEnded": 1,
}
Change = Callable[[Iterable[Event]], Iterable[Event]]


@pytest.fixture(scope="module")
def run(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A finished run."""
    return played(small_base, tmp_path_factory.mktemp("run"))


def difference(base: Path, run: Played, how: Again) -> str:
    """What a replay says of a run that does not come out again."""
    with pytest.raises(ReplayDiffers) as differs:
        replayed(base, run, how)
    return str(differs.value.difference)


def altered(kind: type[Kind], where: Callable[[Kind], bool], **changes: Any) -> Change:
    """The first fact of a kind, in the order of the log, with other values."""

    def alter(facts: Iterable[Event]) -> Iterator[Event]:
        done = False
        for fact in facts:
            if not done and isinstance(fact, kind) and where(fact):
                done = True
                yield replace(fact, **{name: each(fact) for name, each in changes.items()})
            else:
                yield fact
        assert done

    return alter


def without(kind: type[Kind], where: Callable[[Kind], bool]) -> Change:
    """The log had these facts never been written."""

    def leave_out(facts: Iterable[Event]) -> list[Event]:
        rest = [fact for fact in facts if not (isinstance(fact, kind) and where(fact))]
        assert len(rest) < len(list(facts))
        return rest

    return leave_out


def in_round(number: int, purpose: Purpose = Purpose.TRAIN) -> Callable[[Any], bool]:
    return lambda fact: fact.round == number and getattr(fact, "purpose", Purpose.TRAIN) is purpose


def first_draft_of(number: int) -> Callable[[Any], bool]:
    return lambda fact: in_round(number)(fact) and fact.draft == 0


def a_draft_that_counts_in(number: int) -> Callable[[Any], bool]:
    """In the runs played here, the last draft of a train round was judged by machines that worked."""
    return lambda fact: in_round(number)(fact) and fact.draft == 3


# ---- what comes out again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_of_any_seed_comes_out_again(small_base: Path, tmp_path: Path, seed: int) -> None:
    again = replayed(small_base, played(small_base, tmp_path, replace(SPECIFICATION, seed=seed)))
    assert (again.equal, again.owed) == (WHOLE, {})


@pytest.mark.parametrize("arrival", [1, 2, 3, 4, 5])
def test_in_whatever_order_its_facts_arrive(small_base: Path, run: Played, arrival: int) -> None:
    assert replayed(small_base, run, Again(arrival=arrival)).equal == WHOLE


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_from_any_checkpoint_in_a_policy_of_any_seed(small_base: Path, run: Played, number: int) -> None:
    assert replayed(small_base, run, Again(resume=number, policy_seed=number, arrival=number)).equal == WHOLE


def test_facts_that_were_written_twice_count_once(small_base: Path, run: Played) -> None:
    again = replayed(small_base, run, Again(facts=lambda facts: [*facts, *facts]))
    assert again.equal == WHOLE


def test_a_checkpoint_that_was_lost_is_put_back(small_base: Path, tmp_path: Path) -> None:
    run = played(small_base, tmp_path)
    whole = run.blobs.digests()
    newest = max((fact for fact in run.facts if isinstance(fact, PolicyUpdated)), key=lambda each: each.round)
    for digest in (newest.policy_digest, newest.checkpoint_digest):
        next(tmp_path.rglob(digest)).unlink()
    with pytest.raises(BadInput, match="leave --from-checkpoint out"):
        replayed(small_base, run, Again(resume=newest.round))
    replayed(small_base, run)
    assert run.blobs.digests() == whole


def test_a_fork_begins_with_its_parents_policy_and_comes_out_again(small_base: Path, run: Played) -> None:
    spec = replace(SPECIFICATION, seed=6, reward=RewardWeights(variance=0.5))
    fork = played(small_base, run.folder, spec, run_id="fork", fork_of=run, step=2)
    again = replayed(small_base, fork)
    assert again.equal["PolicyUpdated"] == 2
    assert replayed(small_base, fork, Again(resume=3, policy_seed=1)).equal == again.equal
    told = difference(small_base, fork, Again(facts=altered(PolicyUpdated, of_run("fork"), entropy=lambda _: 0.5)))
    assert told.startswith("PolicyUpdated round 3: entropy is 0.5 on the left")


def of_run(run_id: str) -> Callable[[Any], bool]:
    return lambda fact: fact.run_id == run_id


def test_a_control_that_trains_nothing_comes_out_again(small_base: Path, tmp_path: Path) -> None:
    control = replace(SPECIFICATION, rounds=0, author=Author.POSITIVE)
    assert replayed(small_base, played(small_base, tmp_path, control)).equal["ValidationCompleted"] == 2


# ---- what does not -------------------------------------------------------------------------------------------------

ALTERED: dict[str, tuple[Change, str]] = {
    "a reward": (
        altered(RewardScored, in_round(2), value=lambda _: 0.125),
        r"RewardScored purpose train round 2 application \w+ draft 0: value is 0.125 on the left",
    ),
    "the last bit of a loss": (
        altered(PolicyUpdated, in_round(2), loss=lambda fact: fact.loss * (1 + 2**-52)),
        r"PolicyUpdated round 2: loss is ",
    ),
    "a policy's digest": (
        altered(PolicyUpdated, in_round(3), policy_digest=lambda _: "0" * 64),
        r"PolicyUpdated round 3: policy_digest is '0{64}' on the left",
    ),
    "an advantage": (
        altered(PolicyUpdated, in_round(4), advantages=lambda fact: (0.5, *fact.advantages[1:])),
        r"PolicyUpdated round 4: advantages\[0\] is 0.5 on the left",
    ),
    "one test's outcome": (
        altered(
            SuiteRan,
            lambda fact: in_round(1)(fact) and fact.verdict == "failed",
            results=lambda fact: tuple(replace(each, outcome=Outcome.PASSED) for each in fact.results),
        ),
        r"RewardScored purpose train round 1 .*: (terms\[0\].)?value is ",
    ),
    "a verdict's reward weights": (
        altered(SuiteRan, in_round(2), reward=lambda _: RewardWeights(variance=1.0)),
        r"SuiteRan purpose train round 2 .* model impl-0: reward is RewardWeights\(mean=1.0, variance=1.0\) on the",
    ),
    "a sampled token": (
        altered(RequirementsDrafted, a_draft_that_counts_in(3), token_ids=lambda fact: (1, *fact.token_ids[1:])),
        r"PolicyUpdated round 3: (loss|gradient_norm|entropy|kl_to_base) is ",
    ),
    "a sampler's log-probability": (
        altered(RequirementsDrafted, a_draft_that_counts_in(2), log_probs=lambda fact: (-3.25, *fact.log_probs[1:])),
        r"PolicyUpdated round 2: sampler_kl is ",
    ),
    "the policy that wrote a draft": (
        altered(RequirementsDrafted, a_draft_that_counts_in(2), adapter_digest=lambda _: "f" * 64),
        r"PolicyUpdated round 2: advantages\[\d\] is ",
    ),
    "a draft's seed": (
        altered(RequirementsDrafted, first_draft_of(2), seed=lambda _: 17),
        r"RequirementsDrafted purpose train round 2 .* draft 0: seed is 17 on the left",
    ),
    "the seeds of a draw": (
        altered(ApplicationDrawn, in_round(2), draft_seeds=lambda fact: fact.draft_seeds[::-1]),
        r"ApplicationDrawn purpose train round 2 application \w+: draft_seeds\[0\] is ",
    ),
    "the applications of a round": (
        altered(RoundOpened, in_round(2), application_ids=lambda fact: fact.application_ids[::-1]),
        r"RoundOpened purpose train round 2: application_ids\[0\] is ",
    ),
    "a validation's mean": (
        altered(ValidationCompleted, in_round(2, Purpose.VALIDATE), mean_pass_rate=lambda _: 0.99),
        r"ValidationCompleted purpose validate round 2: mean_pass_rate is 0.99 on the left",
    ),
    "how the run ended": (altered(RunEnded, lambda _: True, rounds=lambda _: 3), r"RunEnded: rounds is 3 on the left"),
    "the run's seed": (
        altered(RunStarted, lambda _: True, specification=lambda fact: replace(fact.specification, seed=6)),
        r"RoundOpened purpose validate round 0: policy_digest is ",
    ),
    "which applications are held out": (
        altered(ApplicationRegistered, lambda fact: fact.split == "validate", split=lambda _: "train"),
        r"RoundOpened purpose validate round 0: application_ids is ",
    ),
    "the id of a reward": (
        altered(RewardScored, in_round(1), event_id=lambda _: "another"),
        r"RewardScored purpose train round 1 .*: event_id is 'another' on the left",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_whatever_is_altered_is_named(small_base: Path, run: Played, name: str) -> None:
    change, told = ALTERED[name]
    assert re.match(told, difference(small_base, run, Again(facts=change, arrival=1)))


KINDS = (RoundOpened, ApplicationDrawn, RequirementsDrafted, RewardScored, PolicyUpdated)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fact_that_is_missing_is_named(small_base: Path, run: Played, kind: type[Event]) -> None:
    told = difference(small_base, run, Again(facts=without(kind, in_round(3))))
    assert told.startswith(f"{kind.__name__} ")
    assert "round 3" in told
    assert "is absent on the left" in told


def test_a_verdict_that_is_missing_leaves_a_reward_that_nothing_gives(small_base: Path, run: Played) -> None:
    gone = without(SuiteRan, lambda fact: first_draft_of(3)(fact) and fact.model == "impl-1")
    told = difference(small_base, run, Again(facts=gone))
    assert told.startswith("RewardScored purpose train round 3")
    assert told.endswith("is present on the left, absent on the right")


def test_of_two_differences_the_first_in_the_runs_life_is_named(small_base: Path, run: Played) -> None:
    later, earlier = ALTERED["a policy's digest"][0], ALTERED["a reward"][0]
    assert "round 2" in difference(small_base, run, Again(facts=lambda facts: earlier(list(later(facts)))))
    assert "round 2" in difference(small_base, run, Again(facts=lambda facts: later(list(earlier(facts)))))


def test_a_round_that_the_plan_does_not_know_is_named(small_base: Path, run: Played) -> None:
    opened = next(fact for fact in run.facts if isinstance(fact, RoundOpened) and fact.round == 4)
    stray = replace(opened, event_id="stray", round=9)
    told = difference(small_base, run, Again(facts=lambda facts: [*facts, stray]))
    assert told == f"RoundOpened purpose {opened.purpose} round 9 is present on the left, absent on the right"


def test_a_draft_that_no_draw_asked_for_is_named(small_base: Path, run: Played) -> None:
    draft = next(fact for fact in run.facts if isinstance(fact, RequirementsDrafted) and in_round(2)(fact))
    stray = replace(draft, event_id="stray", draft=7)
    told = difference(small_base, run, Again(facts=lambda facts: [*facts, stray]))
    assert told.startswith("RequirementsDrafted purpose train round 2 ")
    assert told.endswith("draft 7 is present on the left, absent on the right")


# ---- how far a replay goes -----------------------------------------------------------------------------------------


def test_an_open_run_is_verified_as_far_as_it_goes(small_base: Path, run: Played) -> None:
    def so_far(facts: Iterable[Event]) -> list[Event]:
        """Round 3 has been opened, and half of its drafts have been scored."""
        early = [fact for fact in facts if not isinstance(fact, RunEnded) and getattr(fact, "round", 0) <= 3]
        unsaid = (RewardScored, SuiteRan)
        return [
            fact
            for fact in early
            if not (isinstance(fact, PolicyUpdated) and fact.round == 3)
            and not (isinstance(fact, unsaid) and in_round(3)(fact) and fact.draft > 1)
        ]

    again = replayed(small_base, run, Again(facts=so_far))
    assert again.equal["PolicyUpdated"] == 2
    assert again.owed == {"RewardScored": 4, "PolicyUpdated": 1}
    ended = run_ended(outcome=RunOutcome.ABANDONED)
    assert replayed(small_base, run, Again(facts=lambda facts: [*so_far(facts), ended])).equal == again.equal


def test_in_an_open_run_a_round_that_was_learnt_from_lacks_nothing(small_base: Path, run: Played) -> None:
    def open_and_broken(facts: Iterable[Event]) -> list[Event]:
        left = without(RunEnded, lambda _: True)(list(facts))
        return list(without(RewardScored, first_draft_of(2))(list(left)))

    told = difference(small_base, run, Again(facts=open_and_broken))
    assert told.endswith("draft 0 is absent on the left, present on the right")


def test_nothing_after_the_last_round_asked_for_is_looked_at(small_base: Path, run: Played) -> None:
    change, _ = ALTERED["a policy's digest"]
    again = replayed(small_base, run, Again(facts=change, until=2))
    assert again.equal["PolicyUpdated"] == 2
    assert "round 3" in difference(small_base, run, Again(facts=change, until=3))


@pytest.mark.parametrize(
    ("name", "is_seen"), [("a reward", True), ("an advantage", True), ("a policy's digest", False)]
)
def test_without_learning_rewards_and_what_follows_from_them_are_compared(
    small_base: Path, run: Played, name: str, is_seen: bool
) -> None:
    how = Again(facts=ALTERED[name][0], rewards_only=True)
    if is_seen:
        difference(small_base, run, how)
    else:
        with pytest.raises(ReplayDiffers, match="RoundOpened"):  # the next round names the digest that nobody checked
            replayed(small_base, run, how)


@pytest.mark.parametrize(("tolerance", "is_near"), [(1e-3, True), (1e-9, False)])
def test_a_tolerance_lets_numbers_differ_that_far_and_says_how_far_they_did(
    small_base: Path, run: Played, tolerance: float, is_near: bool
) -> None:
    change = altered(PolicyUpdated, in_round(2), loss=lambda fact: fact.loss + 1e-5)
    widest: dict[str, float] = {}
    how = Again(facts=change, tolerance=tolerance, widest=widest)
    if is_near:
        assert replayed(small_base, run, how).equal == WHOLE
        assert widest == {**widest, "loss": pytest.approx(1e-5), "gradient_norm": 0.0}
    else:
        assert difference(small_base, run, how).startswith("PolicyUpdated round 2: loss")


def test_other_numerics_are_refused_by_name(small_base: Path, run: Played) -> None:
    elsewhere = altered(RunStarted, lambda _: True, numerics=lambda _: replace(numerics(), capability="AVX9000"))
    with pytest.raises(RunsDiffer, match="capability AVX9000"):
        replayed(small_base, run, Again(facts=elsewhere))
    assert replayed(small_base, run, Again(facts=elsewhere, rewards_only=True)).equal == WHOLE


# ---- the seal ------------------------------------------------------------------------------------------------------

DOORS = ["infra.sandbox.open", "infra.sandbox", "infra.lab.models", "infra.models", "consumers.implement", "producers"]


def sealed(after: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"{before}\nfrom trainer.verify.seal import seal\nseal()\n{after}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_where_a_run_is_replayed_no_model_and_no_sandbox_can_be_imported() -> None:
    tries = "\n".join(
        f"try:\n    import {door}\n    print('came in')\nexcept ImportError as refused:\n    print(refused)"
        for door in DOORS
    )
    said = sealed(tries).stdout.splitlines()
    assert len(said) == len(DOORS)
    assert all("cannot be imported here" in line for line in said)


def test_a_process_that_has_a_model_already_is_not_sealed() -> None:
    done = sealed("", before="import infra.models")
    assert done.returncode == 1
    assert "infra.models was imported before the seal" in done.stderr


def test_the_replay_imports_nothing_that_the_seal_refuses() -> None:
    done = sealed("import trainer.verify.__main__\nprint('whole')")
    assert done.stdout == "whole\n", done.stderr
