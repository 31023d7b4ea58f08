"""A run as far as rewards see it: verdicts on its drafts, and what they were worth."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from schemas.events import Event, SuiteRan, Verdict
from streams.gathering import Gathering, gather
from tests.histories import DAWN, ORCHESTRA, application, drafted, drawn, run_ended, run_started, suite_ran


def clock() -> datetime:
    return DAWN


def suites(rounds: int = 2, applications: int = 2, drafts: int = 3) -> list[SuiteRan]:
    """What the tests said of a run's drafts; a machine failed under the first draft of all."""
    dice = random.Random(7)
    facts = []
    for number in range(1, rounds + 1):
        for index in range(applications):
            draw = drawn(application(f"x = {index}\n"), number=number, drafts=drafts, index=index)
            for draft in range(drafts):
                requirements = drafted(draw, draft)
                facts += [
                    suite_ran(requirements, i, Verdict.FAILED, passed=dice.randint(0, 4)) for i in range(len(ORCHESTRA))
                ]
    return [replace(facts[0], verdict=Verdict.INVALID_INFRA, results=(), cause="the engine was away"), *facts[1:]]


def played(facts: Sequence[SuiteRan], ended: bool = True) -> Iterator[Event]:
    """A run with these suites, scored."""
    yield run_started()
    state = Gathering()
    for fact in facts:
        yield fact
        yield from gather(state, fact, clock=clock)[1]
    if ended:
        yield run_ended()
