"""Learning is a replay: one function turns a complete round into the next policy, live or years later.

What it needs is on the log: texts as token ids, rewards, the specification. No model is asked and no sandbox runs, so
the same facts on the same numerics give the same weights bit for bit, and a lost checkpoint is only a matter of time.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from infra.blobs import BlobCorrupt, BlobMissing, Blobs
from infra.failpoints import reached
from infra.log import Log
from infra.problems import BadInput, RunsDiffer
from schemas.events import Event, Numerics, PolicyUpdated, Purpose, RequirementsDrafted, RoundOpened, RunStarted
from schemas.identity import event_id
from trainer import checkpoint
from trainer.policy import Diverged, Draft, Policy, UpdateResult
from trainer.rounds import DRAFT_FACTS, CompleteRound, Course, Drafted, Lesson, State, complete, fold, lesson, mean

Clock = Callable[[], datetime]
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


def rebuild(policy: Policy, run: Course, started: RunStarted, log: Log, blobs: Blobs, clock: Clock) -> None:
    """`policy` becomes the run's newest, from the nearest checkpoint that is whole and the facts since then.

    Every checkpoint on the way is stored again. Raises RunsDiffer where a round comes out otherwise than it did.
    """
    recorded: dict[int, PolicyUpdated] = {}
    for fact in _facts(log, started, (PolicyUpdated,)):
        assert isinstance(fact, PolicyUpdated)
        recorded.setdefault(fact.round, fact)
    newest, whole = max(recorded), _nearest_whole(policy, recorded, blobs)
    if whole == newest:
        return
    facts = _facts(log, started, (RoundOpened, *DRAFT_FACTS))
    for again in relearn(policy, run, facts, blobs, clock, first=whole + 1):
        require_equal(recorded[again.round], again)
        if again.round == newest:
            return
    raise BadInput(f"the log no longer holds all facts of rounds {whole + 1} to {newest}", "start another run")


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


def _nearest_whole(policy: Policy, recorded: dict[int, PolicyUpdated], blobs: Blobs) -> int:
    """The newest round whose checkpoint can be read; 0, with the policy reset, when none can."""
    for number in sorted(recorded, reverse=True):
        try:
            checkpoint.restore(blobs, recorded[number].checkpoint_digest, policy)
            return number
        except (BlobMissing, BlobCorrupt):
            continue
    policy.reset()
    checkpoint.save(blobs, policy)
    return 0


def _facts(log: Log, started: RunStarted, kinds: tuple[type[Event], ...]) -> Iterator[Event]:
    for record in log.replay(kinds, start=started.offsets):
        if record.event is not None and record.event.run_id == started.run_id:
            yield record.event
