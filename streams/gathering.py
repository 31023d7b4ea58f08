"""The fold that makes rewards: suites are gathered per draft, and the last one missing brings the draft's reward.

Duplicates, and any interleaving that keeps each partition's order, give the same rewards: the first suite of a slot
(draft, model) wins, and a reward's id and causes come from the draft, never from the last suite to arrive.

The state changes in place, so that a fact costs the same however many drafts are open. It belongs to whoever folds: a
fold begins with a state of its own and keeps no earlier one.

It is small: the drafts still open, and the names of the last drafts that were scored, so that a suite written twice
does not open its draft again. A copy that comes later than `REMEMBERED` drafts after the first opens it in vain: it
stays open until its run is forgotten, and changes no reward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from schemas.events import Event, RewardScored, SuiteRan
from schemas.identity import event_id
from streams.rewards import Reward, in_order, score

Clock = Callable[[], datetime]

REMEMBERED = 1024


class StrayFact(ValueError):
    """A suite of a model that its own draft does not name."""


@dataclass(slots=True)
class Gathering:
    """What the fold remembers. Drafts go by the id of their requirements; of each, the first suite per model."""

    open: dict[str, dict[str, SuiteRan]] = field(default_factory=dict)
    scored: set[str] = field(default_factory=set)  # with the next: the last REMEMBERED drafts, at most twice as many
    scored_lately: set[str] = field(default_factory=set)

    def knows(self, draft: str) -> bool:
        """Whether this draft was scored, as far as is remembered."""
        return draft in self.scored_lately or draft in self.scored

    def close(self, draft: str) -> None:
        """This draft is scored."""
        del self.open[draft]
        if len(self.scored_lately) == REMEMBERED:
            self.scored, self.scored_lately = self.scored_lately, set()
        self.scored_lately.add(draft)


def gather(state: Gathering, event: Event, *, clock: Clock) -> tuple[Gathering, Sequence[RewardScored]]:
    """One more fact: the same state, changed, and the reward where it was the last suite of its draft. A fact that is
    refused changes nothing."""
    suites = completed(state, event)
    if not suites:
        return state, ()
    return state, (scored(suites, score(suites), run_id=suites[0].run_id, now=clock()),)


def completed(state: Gathering, event: Event) -> Sequence[SuiteRan]:
    """Take in one more fact: the suites of its draft, in the order of the implementers, where it was the last one
    missing; else none."""
    if not isinstance(event, SuiteRan) or state.knows(event.requirements_id):
        return ()
    models = {implementer.name for implementer in event.implementers}
    if event.model not in models:
        raise StrayFact(f"suite {event.event_id} is of {event.model}, which its draft was not given to")
    suites = state.open.setdefault(event.requirements_id, {})
    suites.setdefault(event.model, event)
    if len(suites) < len(models):
        return ()
    ordered = in_order(list(suites.values()))
    state.close(event.requirements_id)
    return ordered


def forget(state: Gathering, run_id: str) -> None:
    """Leave out the open drafts of a run that has ended."""
    for draft in [draft for draft, suites in state.open.items() if _of(suites, run_id)]:
        del state.open[draft]


def scored(suites: Sequence[SuiteRan], reward: Reward, *, run_id: str | None, now: datetime) -> RewardScored:
    """The fact that a run gives this reward to the draft of these suites, which may be another run's."""
    first, suite_ids = suites[0], tuple(suite.event_id for suite in suites)
    return RewardScored(
        event_id=event_id(run_id, first.requirements_id, "reward"),
        recorded_at=now,
        run_id=run_id,
        caused_by=suite_ids,
        application_id=first.application_id,
        round=first.round,
        purpose=first.purpose,
        draft=first.draft,
        policy_digest=first.policy_digest,
        requirements_id=first.requirements_id,
        suite_ids=suite_ids,
        value=reward.value,
        cause=reward.cause,
        terms=reward.terms,
        rates=reward.rates,
        function=reward.function,
    )


def _of(suites: Mapping[str, SuiteRan], run_id: str) -> bool:
    return any(suite.run_id == run_id for suite in suites.values())
