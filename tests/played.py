"""Small runs with verdicts: a real trainer and policy, the rewards' own fold, and suites that follow from seeds alone.

What real runs have and a test must not miss: rates that do not add up evenly, verdicts of every kind, a broken machine,
a reward that is clipped, and a gradient that is.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from infra.blobs import Blobs
from infra.log import Job
from infra.memory import MemoryLog
from infra.runs import facts_of, named, runs_on
from schemas.events import (
    ApplicationDrawn,
    Event,
    Implementer,
    Learning,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RewardWeights,
    RunStarted,
    Specification,
    SuiteRan,
    Verdict,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from streams.gathering import Gathering, gather
from tests.histories import DAWN, suite_ran
from tests.unit.trainer.workshop import applications, draft_of, fails, play, started
from trainer.policy import Policy, numerics
from trainer.replay import require_numerics
from trainer.verify import recorded as records
from trainer.verify.recorded import Recorded, plan_of, recorded, score_again
from trainer.verify.relearning import from_checkpoint, from_the_start
from trainer.verify.verification import Learn, Verification, first_policy, on_trust, within

ORCHESTRA = tuple(Implementer(name=f"impl-{i}", digest=f"{i}" * 64, rewarded=i < 3) for i in range(4))
SPECIFICATION = Specification(
    seed=5,
    rounds=4,
    applications_per_round=2,
    drafts_per_application=4,
    validate_every=2,
    implementers=ORCHESTRA,
    reward=RewardWeights(variance=3.0),
    learning=Learning(lora_rank=4, lora_alpha=8, warmup_rounds=3, clip_norm=0.01),
)
TESTS = 7
ODD_VERDICTS = (Verdict.TIMEOUT, Verdict.ERROR, Verdict.OOM, Verdict.TAMPERED, Verdict.KILLED)


@dataclass(frozen=True, slots=True)
class Played:
    """A run that was played, every fact of its log, and where its checkpoints lie."""

    facts: tuple[Event, ...]
    folder: Path

    @property
    def blobs(self) -> Blobs:
        """Its checkpoints."""
        return Blobs(str(self.folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How a run is replayed: in the order of which arrival, learning from where, in a policy of which seed."""

    arrival: int = 0  # 0: as it was written; else the seed of another order, partition by partition
    resume: int | None = None  # the round whose checkpoint is learnt on from
    until: int | None = None
    rewards_only: bool = False
    tolerance: float | None = None
    widest: dict[str, float] = field(default_factory=dict)
    policy_seed: int | None = None
    facts: Callable[[Iterable[Event]], Iterable[Event]] = field(default=lambda facts: facts)


# ---- playing -------------------------------------------------------------------------------------------------------


def judged(draft: RequirementsDrafted) -> list[SuiteRan]:
    """One verdict per implementer, from the words of the draft."""
    return [_suite(draft, ordinal) for ordinal in range(len(draft.implementers))]


def _suite(draft: RequirementsDrafted, ordinal: int) -> SuiteRan:
    dice = random.Random(f"{draft.token_ids}/{ordinal}")
    implementation_id = event_id(draft.run_id, draft.event_id, "implement", ordinal)
    odd = dice.random()
    verdict = Verdict.INVALID_INFRA if odd < 0.05 else dice.choice(ODD_VERDICTS) if odd < 0.2 else Verdict.FAILED
    likes = [word % (ordinal + 2) == 0 for word in draft.token_ids]
    passed = round(TESTS * sum(likes) / len(likes) + dice.uniform(-1, 1))
    fact = suite_ran(draft, ordinal, verdict, passed=max(0, min(TESTS, passed)), tests=TESTS)
    return replace(
        fact,
        event_id=event_id(draft.run_id, implementation_id, "run_tests"),
        run_id=draft.run_id,
        caused_by=(implementation_id,),
        implementation_id=implementation_id,
    )


def work(events: Sequence[Event]) -> Iterator[Event]:
    """The whole way from draws to rewards, verdicts included."""
    for draw in events:
        if isinstance(draw, ApplicationDrawn):
            for number in range(len(draw.draft_seeds)):
                draft = draft_of(draw, number)
                suites = judged(draft)
                yield from (draft, *suites, *scored(suites))


def scored(suites: Iterable[SuiteRan]) -> Iterator[RewardScored]:
    """The product's own fold over these verdicts."""
    state = Gathering()
    for suite in suites:
        state, rewards = gather(state, suite, clock=lambda: DAWN)
        yield from rewards


def owes(event: Event) -> list[str]:
    """The ids of what `work` answers, whatever the rewards are."""
    assert isinstance(event, ApplicationDrawn)
    drafts = [draft_of(event, number) for number in range(len(event.draft_seeds))]
    return [each.event_id for draft in drafts for each in (draft, *judged(draft), *scored(judged(draft)))]


JOB = Job(
    role="workshop",
    step=work,
    reads=(ApplicationDrawn,),
    writes=(RequirementsDrafted, SuiteRan, RewardScored),
    owes=owes,
    fails=fails,
    gather_seconds=0.0,
)


def played(
    base: Path,
    folder: Path,
    specification: Specification = SPECIFICATION,
    *,
    run_id: str | None = None,
    arrival: int = 0,
    fork_of: Played | None = None,
    step: int | None = None,
) -> Played:
    """A run of this specification, played to its end; a fork goes on from a step of the run it is of, on one log."""
    log, blobs = MemoryLog(seed=arrival), Blobs(str(folder))
    log.publish(fork_of.facts if fork_of else applications())
    run = started(specification)
    if fork_of is not None:
        run = replace(run, recorded_at=run.recorded_at + timedelta(days=1), parent_run_id=run.run_id, parent_step=step)
    if run_id is not None:
        run = replace(run, run_id=run_id, event_id=event_id(run_id, "run", "start"))
    play(log, blobs, base, run, job=JOB)
    return Played(tuple(record.event for record in log.replay(KINDS) if record.event is not None), folder)


# ---- replaying -----------------------------------------------------------------------------------------------------


def replayed(base: Path, run: Played, how: Again = Again()) -> Verification:
    """The run verified. Raises RunsDiffer."""
    log = MemoryLog(seed=how.arrival)
    facts = list(how.facts(run.facts))
    if how.arrival:
        random.Random(how.arrival).shuffle(facts)
    log.publish(facts)
    found = named(runs_on(log), "latest")
    known = recorded(facts_of(log, found, records.KINDS))
    score_again(known, (fact for fact in facts_of(log, found, (SuiteRan,)) if isinstance(fact, SuiteRan)), scored)
    start, learn = _learner(base, run.blobs, log, found.started, known, how)
    verification = Verification(plan_of(log, found.started), known, learn)
    verification.verify(start, how.until)
    return verification


def _learner(
    base: Path, blobs: Blobs, log: MemoryLog, begun: RunStarted, known: Recorded, how: Again
) -> tuple[str, Learn]:
    plan = plan_of(log, begun)
    if how.rewards_only:
        return first_policy(known), on_trust(plan)
    require_numerics(begun, numerics())
    seed = begun.specification.seed if how.policy_seed is None else how.policy_seed
    policy = Policy(base, learning=begun.specification.learning, seed=seed)
    if how.resume is None:
        learn = from_the_start(policy, plan, log, begun, blobs)
        return policy.digest, learn if how.tolerance is None else within(how.tolerance, learn, how.widest)
    update = next(f for f in known.rounds[Purpose.TRAIN, how.resume].values() if isinstance(f, PolicyUpdated))
    return first_policy(known), from_checkpoint(policy, plan, update, blobs)
