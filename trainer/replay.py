"""Learning is a replay: one function turns a complete round into the next policy, live or years later.

What it needs is on the log: texts as token ids, rewards, the specification. No model is asked and no sandbox runs, so
the same facts on the same numerics give the same weights bit for bit, and a lost checkpoint is only a matter of time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from infra.blobs import BlobCorrupt, BlobMissing, Blobs
from infra.failpoints import reached
from infra.log import Log
from infra.problems import BadInput, RunsDiffer
from infra.runs import Run, cut_of, facts_of, lineage, runs_on
from schemas.events import Event, Numerics, PolicyUpdated, Purpose, RequirementsDrafted, RoundOpened, RunStarted
from schemas.identity import event_id
from trainer import checkpoint
from trainer.policy import Diverged, Draft, Policy, UpdateResult, numerics
from trainer.rounds import DRAFT_FACTS, CompleteRound, Course, Drafted, Lesson, State, complete, fold, lesson, mean

Clock = Callable[[], datetime]
Say = Callable[[str], None]
NOTHING = UpdateResult(loss=0.0, gradient_norm=0.0, kl_to_base=0.0, entropy=0.0, sampler_kl=0.0, learning_rate=0.0)


def learn(policy: Policy, run: Course, played: CompleteRound, blobs: Blobs, clock: Clock) -> PolicyUpdated:
    """The policy takes the round's step, or none if there is nothing to learn; its checkpoint is then stored."""
    begun, parent = clock(), policy.digest
    taught = lesson(run.specification, played)
    result, skipped = _step(policy, run, played, taught)
    reached("trainer", "learnt", played.opened)
    saved = checkpoint.save(blobs, policy)
    reached("trainer", "checkpoint_written", saved)
    now = clock()
    return PolicyUpdated(
        event_id=event_id(run.run_id, played.opened.event_id, "update"),
        recorded_at=now,
        run_id=run.run_id,
        caused_by=(played.opened.event_id, *(reward.event_id for reward in played.rewards)),
        round=played.opened.round,
        step=policy.step,
        skipped=skipped,
        parent_policy_digest=parent,
        policy_digest=saved.policy_digest,
        reward_ids=tuple(reward.event_id for reward in played.rewards),
        advantages=taught.advantages.values,
        mean_reward=mean([value for value in taught.values if value is not None]),
        loss=result.loss,
        gradient_norm=result.gradient_norm,
        kl_to_base=result.kl_to_base,
        entropy=result.entropy,
        sampler_kl=result.sampler_kl,
        learning_rate=result.learning_rate,
        invalid_drafts=sum(value is None for value in taught.values),
        small_groups=taught.advantages.small_groups,
        flat_groups=taught.advantages.flat_groups,
        checkpoint_digest=saved.digest,
        optimizer_digest=saved.optimizer_digest,
        random_digest=saved.random_digest,
        seconds=(now - begun).total_seconds(),
    )


def _step(policy: Policy, run: Course, played: CompleteRound, taught: Lesson) -> tuple[UpdateResult, str]:
    if taught.skipped:
        return NOTHING, taught.skipped
    pairs = zip(played.drafts, taught.advantages.values, strict=True)
    counted = [(_sampled(draft), value) for draft, value in pairs if value is not None]
    drafts, advantages = [draft for draft, _ in counted], [value for _, value in counted]
    spec = run.specification
    try:
        return policy.update(drafts, advantages, spec.learning, played.opened.round, spec.rounds), ""
    except Diverged as diverged:
        return NOTHING, str(diverged)


def _sampled(draft: Drafted) -> Draft:
    """A draft that failed by the model's fault counts, and has no token to be learnt from."""
    if not isinstance(draft, RequirementsDrafted):
        return Draft(prompt_token_ids=(), token_ids=(), log_probs=())
    return Draft(prompt_token_ids=draft.prompt_token_ids, token_ids=draft.token_ids, log_probs=draft.log_probs)


# ---- the same again, from the log ----------------------------------------------------------------------------------


def relearn(
    policy: Policy, run: Course, events: Iterable[Event], blobs: Blobs, clock: Clock, *, first: int = 1
) -> Iterator[PolicyUpdated]:
    """Every train round from `first` on, learnt again in order as the events complete it. `policy` stands before it."""
    for played in train_rounds(run, events, first):
        yield learn(policy, run, played, blobs, clock)


def train_rounds(run: Course, events: Iterable[Event], first: int = 1) -> Iterator[CompleteRound]:
    """Train rounds by number, each as soon as it is complete, whatever the order of the events."""
    state, number = State(), first
    for event in events:
        if not isinstance(event, (RoundOpened, *DRAFT_FACTS)) or event.purpose is not Purpose.TRAIN:
            continue
        if event.run_id != run.run_id or event.round < number:
            continue
        fold(state, event)
        while (place := (Purpose.TRAIN, number)) in state.opened and (played := complete(run, state, place)):
            yield played
            del state.gathered[place]
            number += 1


def _in_silence(_text: str) -> None:
    """Nobody is told."""


def starting_policy(
    policy: Policy, log: Log, started: RunStarted, blobs: Blobs, clock: Clock, say: Say = _in_silence
) -> None:
    """`policy` becomes what this run begins with: untrained, or a fork's parent's at the step that both share.

    That is read from its checkpoint; where it is lost, learnt again from the facts of the run that learnt it first.
    """
    _begin(_past(log, started, blobs, clock, say), policy)


def rebuild(policy: Policy, log: Log, started: RunStarted, blobs: Blobs, clock: Clock, say: Say = _in_silence) -> None:
    """`policy` becomes the run's newest, from the nearest checkpoint that is whole and the facts since then.

    Every checkpoint on the way is stored again. Raises RunsDiffer where a round comes out otherwise than it did.
    """
    past = _past(log, started, blobs, clock, say)
    _reach(past, policy, max(_recorded(past)))


@dataclass(frozen=True, slots=True)
class _Past:
    """What can be known of a run and of those it comes from."""

    log: Log
    line: list[Run]
    blobs: Blobs
    clock: Clock
    say: Say

    @property
    def run(self) -> Run:
        return self.line[-1]

    def of(self, run_id: str) -> "_Past":
        """The same of one of those it comes from."""
        owner = [run.run_id for run in self.line].index(run_id)
        return replace(self, line=self.line[: owner + 1])


def _past(log: Log, started: RunStarted, blobs: Blobs, clock: Clock, say: Say) -> _Past:
    found = runs_on(log) if started.parent_step is not None else []
    return _Past(log, lineage(found, Run(started=started)), blobs, clock, say)


def _begin(past: _Past, policy: Policy) -> None:
    cut = cut_of(past.line)
    if cut is not None:
        _reach(past.of(cut.run_id), policy, cut.round)
        return
    policy.reset(past.line[0].started.specification.seed)
    checkpoint.save(past.blobs, policy)


def _reach(past: _Past, policy: Policy, until: int) -> None:
    """`policy` becomes the run's after train round `until`."""
    recorded = {number: fact for number, fact in _recorded(past).items() if number <= until}
    whole = _nearest_whole(policy, recorded, past)
    if whole is None:
        _begin(past, policy)
        cut = cut_of(past.line)
        whole = cut.round if cut else 0
    if whole < until:
        rounds = f"rounds {whole + 1} to {until}"
        past.say(f"the checkpoint of round {until} is lost: learning {rounds} of run {past.run.run_id[:8]} again")
        _learn_again(past, policy, recorded, whole + 1, until)


def _learn_again(past: _Past, policy: Policy, recorded: Mapping[int, PolicyUpdated], first: int, last: int) -> None:
    started = past.run.started
    require_numerics(started, numerics())
    run = Course(past.run.run_id, started.specification, {}, first - 1, started.event_id)
    facts = facts_of(past.log, past.run, (RoundOpened, *DRAFT_FACTS))
    for again in relearn(policy, run, facts, past.blobs, past.clock, first=first):
        require_equal(recorded[again.round], again)
        if again.round == last:
            return
    raise BadInput(f"the log no longer holds all facts of rounds {first} to {last}", "start another run")


def _recorded(past: _Past) -> dict[int, PolicyUpdated]:
    """The updates that the run itself learnt, by round."""
    recorded: dict[int, PolicyUpdated] = {}
    for fact in facts_of(past.log, past.run, (PolicyUpdated,)):
        assert isinstance(fact, PolicyUpdated)
        recorded.setdefault(fact.round, fact)
    return recorded


def _nearest_whole(policy: Policy, recorded: Mapping[int, PolicyUpdated], past: _Past) -> int | None:
    """The newest round whose checkpoint can be read, which the policy then is; None when none can."""
    for number in sorted(recorded, reverse=True):
        try:
            checkpoint.restore(past.blobs, recorded[number].checkpoint_digest, policy)
            return number
        except (BlobMissing, BlobCorrupt):
            continue
    return None


def require_equal(recorded: PolicyUpdated, again: PolicyUpdated) -> None:
    """Raises RunsDiffer unless both updates led to the same weights, moments and random state."""
    for name in ("policy_digest", "optimizer_digest", "random_digest", "checkpoint_digest"):
        then, now = getattr(recorded, name), getattr(again, name)
        if then != now:
            raise RunsDiffer(
                f"round {again.round} learnt again gives {name} {now}, the log says {then}",
                "replay with the code version and on the numerics that RunStarted names",
            )


def require_numerics(started: RunStarted, here: Numerics) -> None:
    """Raises RunsDiffer, naming the first difference, where this process would round otherwise than the run did."""
    for name in Numerics.__slots__:
        then, now = getattr(started.numerics, name), getattr(here, name)
        if then != now:
            raise RunsDiffer(
                f"the run was started with {name} {then}, this process has {now}: its weights would differ",
                "go on where these are equal, or start another run",
            )
