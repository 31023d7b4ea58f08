"""A run scored again, from the test results it has on the log: no model writes and nothing is run.

A re-scoring is a run of its own: RunStarted that names its parent, one RewardScored per draft, RunEnded. Its rewards
name the parent's requirements and suites. Its id derives from the parent's and its label, and it scores the drafts
whose suites were all on the log when it started: so one that was interrupted is completed by repeating it, and one that
is finished is left as it is.

Every draft is scored before the first fact is written: a function that fails on one leaves no trace.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from infra.log import Log, OutcomeUnknown
from infra.problems import BadInput, RunsDiffer, ServiceUnavailable
from infra.runs import LATEST, Run, facts_of, label, named
from schemas.events import (
    Event,
    Offset,
    RewardScored,
    RewardWeights,
    RunEnded,
    RunOutcome,
    RunStarted,
    SuiteRan,
)
from schemas.identity import event_id
from streams.gathering import Clock, Gathering, completed, scored
from streams.rescore.functions import RewardFunction, load
from streams.rewards import Reward, weighed

TRANSACTION = 20_000  # facts written at once, at most: a lab run's rewards become visible together

Scorer = Callable[[Sequence[SuiteRan]], Reward]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be scored again, how, and under which name."""

    parent: Run
    started: RunStarted
    scorer: Scorer
    known: Run | None = None  # the re-scoring as far as it is on the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """The rewards of a re-scoring beside its parent's, which are None where a draft had none."""

    before: Mapping[str, float | None]  # by the id of the requirements
    rewards: Sequence[RewardScored]
    left_out: int  # drafts whose suites were not all on the log
    missing: Sequence[Event]  # what is still to be written


def parent_of(found: Sequence[Run], name: str) -> Run:
    """The run called `name`, which has test results of its own. `latest` is the newest that has."""
    parent = named([run for run in found if not run.rescores] if name == LATEST else list(found), name)
    if parent.rescores:
        raise BadInput(
            f"run {name} is a re-scoring and has no test results",
            f"score its parent again: {parent.started.parent_run_id}",
        )
    return parent


def plan(
    found: Sequence[Run],
    parent: Run,
    name: str,
    *,
    weights: RewardWeights,
    function: RewardFunction | None,
    offsets: Callable[[], tuple[Offset, ...]],
    now: datetime,
    code_version: str,
) -> Plan:
    """The re-scoring of `parent` called `name`, begun or new. A name that means anything else is BadInput."""
    run_id = event_id(parent.run_id, label(name), "rescore")
    started = RunStarted(
        event_id=event_id(run_id, "run", "start"),
        recorded_at=now,
        run_id=run_id,
        caused_by=(parent.started.event_id,),
        specification=replace(parent.started.specification, reward=weights),
        application_ids=parent.started.application_ids,
        numerics=parent.started.numerics,
        code_version=code_version,
        parent_run_id=parent.run_id,
        label=name,
        scoring=function.name if function else "",
    )
    known = _known(found, started)
    started = known.started if known else replace(started, offsets=offsets())
    return Plan(parent=parent, started=started, known=known, scorer=function or partial(weighed, weights=weights))


def scorer_of(started: RunStarted) -> Scorer:
    """What scores the drafts of a re-scoring that is on the log. A function is loaded by its name as it is now."""
    return load(started.scoring) if started.scoring else partial(weighed, weights=started.specification.reward)


def how(started: RunStarted) -> str:
    """By what a run's drafts are scored, in words."""
    weights = started.specification.reward
    return started.scoring or f"mean {weights.mean:g}, variance {weights.variance:g}"


def rescored(
    state: Gathering, facts: Iterable[Event], run_id: str, scorer: Scorer, *, clock: Clock
) -> Iterator[RewardScored]:
    """The rewards that a run gives to the drafts these facts complete: the fold of the rewards, with another end."""
    for fact in facts:
        if suites := completed(state, fact):
            yield scored(suites, scorer(suites), run_id=run_id, now=clock())


def rescore(log: Log, plan: Plan, *, clock: Clock, progress: Callable[[int], None]) -> Rescored:
    """Score every draft again and write nothing. `progress` hears how many drafts are scored."""
    state, before = Gathering(), dict[str, float | None]()
    found: dict[str, RewardScored] = {}
    facts = _remembering(_facts(log, plan), before)
    for reward in rescored(state, facts, plan.started.run_id or "", plan.scorer, clock=clock):
        found.setdefault(reward.event_id, reward)
        progress(len(found))
    if not found:
        raise BadInput(
            f"run {plan.parent.run_id} has no draft whose tests have all been run", "`iccm run list` names others"
        )
    rewards = sorted(found.values(), key=lambda each: (each.round, each.purpose, each.application_id, each.draft))
    return Rescored(
        before=before,
        rewards=rewards,
        left_out=len(state.open.keys() - {reward.requirements_id for reward in rewards}),
        missing=_missing(log, plan, rewards, clock()),
    )


def write(log: Log, writer: str, facts: Sequence[Event], *, stop: Callable[[], bool]) -> bool:
    """Write what is missing in transactions, under a name that nobody else writes under. False: stopped before the
    end."""
    if not facts:
        return True
    with log.writer(writer) as opened:
        for begin in range(0, len(facts), TRANSACTION):
            if stop():
                return False
            try:
                opened.publish(facts[begin : begin + TRANSACTION])
            except OutcomeUnknown as unknown:
                raise ServiceUnavailable(
                    f"Kafka did not say whether the rewards were written: {unknown}",
                    "repeat the command: it goes on from what is there",
                ) from unknown
    return True


def _known(found: Sequence[Run], wanted: RunStarted) -> Run | None:
    """The run of this name as it is on the log, if it is the same re-scoring."""
    for run in found:
        if run.started.label == wanted.label and run.run_id != wanted.run_id:
            raise BadInput(f"{wanted.label} is the name of run {run.run_id}", "choose another one: --into NAME")
    known = next((run for run in found if run.run_id == wanted.run_id), None)
    if known is None:
        return None
    if (known.started.specification, known.started.scoring) != (wanted.specification, wanted.scoring):
        raise BadInput(
            f"{wanted.label} scores the same run by {how(known.started)}", "choose another name: --into NAME"
        )
    if known.ended is not None and known.ended.outcome is not RunOutcome.FINISHED:
        raise BadInput(f"{wanted.label} was ended as {known.ended.outcome}", "choose another name: --into NAME")
    return known


def _facts(log: Log, plan: Plan) -> Iterator[Event]:
    """What the parent had on the log when the re-scoring started: its rewards and its suites."""
    kinds, parent = (SuiteRan, RewardScored), plan.parent
    for record in log.replay(kinds, start=parent.started.offsets, until=plan.started.offsets):
        if record.event is not None and record.event.run_id == parent.run_id:
            yield record.event


def _remembering(facts: Iterable[Event], before: dict[str, float | None]) -> Iterator[Event]:
    for fact in facts:
        if isinstance(fact, RewardScored):
            before.setdefault(fact.requirements_id, fact.value)
        yield fact


def _missing(log: Log, plan: Plan, rewards: Sequence[RewardScored], now: datetime) -> list[Event]:
    """What a re-scoring still owes the log. What it wrote before must be what it would write now."""
    if plan.known is None:
        return [plan.started, *rewards, _finished(plan.started, now)]
    written: dict[str, Event] = {}
    for fact in facts_of(log, plan.known, (RewardScored,)):
        written.setdefault(fact.event_id, fact)
    for reward in rewards:
        _require_same(written.get(reward.event_id), reward, plan.started.label)
    missing: list[Event] = [reward for reward in rewards if reward.event_id not in written]
    return missing if plan.known.ended else [*missing, _finished(plan.started, now)]


def _require_same(written: Event | None, now: RewardScored, name: str) -> None:
    if not isinstance(written, RewardScored) or replace(written, recorded_at=now.recorded_at) == now:
        return
    if written.function != now.function:
        raise BadInput(
            f"{name} was scored by {written.function}, which is {now.function} now", "choose another name: --into NAME"
        )
    raise RunsDiffer(
        f"{now.function} scored {now.purpose} round {now.round} application {now.application_id[:12]} "
        f"draft {now.draft} with {written.value} and now with {now.value}",
        "what it answers depends on more than the suites it is given",
    )


def _finished(started: RunStarted, now: datetime) -> RunEnded:
    return RunEnded(
        event_id=event_id(started.run_id, "run", "end"),
        recorded_at=now,
        run_id=started.run_id,
        caused_by=(started.event_id,),
        outcome=RunOutcome.FINISHED,
        cause="",
        rounds=0,
        policy_digest="",
    )
