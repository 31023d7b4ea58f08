"""The same fold over any log, without Faust: one process, one thread, for runs that live in memory."""

from collections.abc import Callable

from infra.log import Log
from schemas.events import SuiteRan
from streams.gathering import Clock, Gathering, gather


def score_all(log: Log, *, stop: Callable[[], bool], clock: Clock) -> None:
    """Score every draft on the log until `stop()`. A reward already written is written again; its id makes it one."""
    state = Gathering()
    for batch in log.follow((SuiteRan,), stop=stop):
        for event in (record.event for record in batch):
            if event is not None:
                state, rewards = gather(state, event, clock=clock)
                log.publish(rewards)
