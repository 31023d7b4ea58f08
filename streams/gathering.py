"""The fold that makes rewards: suites are gathered per draft, and the last one missing brings the draft's reward.

Duplicates, and any interleaving that keeps each partition's order, give the same rewards: the first suite of a slot
(draft, model) wins, and a reward's id and causes come from the draft, never from the last suite to arrive.

The state is small: the drafts still open, and the names of the last drafts that were scored, so that a suite written
twice does not open its draft again. A copy that comes later than `REMEMBERED` drafts after the first opens it in vain:
it stays open until its run is forgotten, and changes no reward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from schemas.events import Event, RewardScored, SuiteRan
from schemas.identity import event_id
from streams.rewards import in_order, score

Clock = Callable[[], datetime]

REMEMBERED = 1024


class StrayFact(ValueError):
    """A suite of a model that its own draft does not name."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """What the fold remembers. Drafts go by the id of their requirements; of each, the first suite per model."""

    open: Mapping[str, Mapping[str, SuiteRan]] = field(default_factory=dict)
    scored: frozenset[str] = frozenset()  # at least the last REMEMBERED drafts, at most twice as many
    scored_lately: frozenset[str] = frozenset()

    def knows(self, draft: str) -> bool:
        """Whether this draft was scored, as far as is remembered."""
        return draft in self.scored_lately or draft in self.scored


def gather(state: Gathering, event: Event, *, clock: Clock) -> tuple[Gathering, Sequence[RewardScored]]:
    """One more fact: the state after it, and the reward where it was the last suite of its draft."""
    if not isinstance(event, SuiteRan) or state.knows(event.requirements_id):
        return state, ()
    models = {implementer.name for implementer in event.implementers}
    if event.model not in models:
        raise StrayFact(f"suite {event.event_id} is of {event.model}, which its draft was not given to")
    before = state.open.get(event.requirements_id, {})
    suites = {**before, event.model: before.get(event.model, event)}
    if len(suites) < len(models):
        return replace(state, open={**state.open, event.requirements_id: suites}), ()
    return _closed(state, event.requirements_id), (_scored(in_order(list(suites.values())), clock()),)


def forget(state: Gathering, run_id: str) -> Gathering:
    """The state without the open drafts of a run that has ended."""
    return replace(state, open={draft: suites for draft, suites in state.open.items() if not _of(suites, run_id)})


def _of(suites: Mapping[str, SuiteRan], run_id: str) -> bool:
    return any(suite.run_id == run_id for suite in suites.values())


def _closed(state: Gathering, draft: str) -> Gathering:
    still_open = {name: suites for name, suites in state.open.items() if name != draft}
    if len(state.scored_lately) < REMEMBERED:
        return replace(state, open=still_open, scored_lately=state.scored_lately | {draft})
    return Gathering(open=still_open, scored=state.scored_lately, scored_lately=frozenset({draft}))


def _scored(suites: Sequence[SuiteRan], now: datetime) -> RewardScored:
    first, suite_ids, reward = suites[0], tuple(suite.event_id for suite in suites), score(suites)
    return RewardScored(
        event_id=event_id(first.run_id, first.requirements_id, "reward"),
        recorded_at=now,
        run_id=first.run_id,
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
