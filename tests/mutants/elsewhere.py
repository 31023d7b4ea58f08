"""A process of its own, for what depends on the hashes of strings: it scores a run's rewards, or verifies them.

python -m tests.mutants.elsewhere play | replay  true | mutant  FILE
"""

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import streams.gathering
import streams.rewards
from infra import process
from infra.memory import MemoryLog
from infra.runs import facts_of, named, runs_on
from schemas.avro import decode, encode
from schemas.events import Event, RewardScored, SuiteRan
from streams.gathering import Gathering, gather
from trainer.verify import recorded as records
from trainer.verify.recorded import plan_of, recorded, score_again
from trainer.verify.verification import NEVER, Verification, first_policy, on_trust

LENGTH = struct.Struct(">I")


def suites_in_a_set(suites: Sequence[SuiteRan]) -> list[SuiteRan]:
    """The mutant: a draft's verdicts in the order of a set of strings."""
    by_model = {suite.model: suite for suite in suites}
    return [by_model[name] for name in set(by_model)]


def write(file: Path, facts: Iterable[Event]) -> None:
    """Every fact as a frame after its length."""
    frames = [encode(fact) for fact in facts]
    file.write_bytes(b"".join(LENGTH.pack(len(frame)) + frame for frame in frames))


def read(file: Path) -> Iterator[Event]:
    """What was written."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = LENGTH.unpack_from(content, at)
        yield decode(content[at + LENGTH.size : at + LENGTH.size + length])
        at += LENGTH.size + length


def scored(suites: Iterable[Event]) -> Iterator[RewardScored]:
    """The product's fold."""
    state = Gathering()
    for suite in suites:
        state, rewards = gather(state, suite, clock=lambda: NEVER)
        yield from rewards


def play(file: Path) -> int:
    """The run with the rewards that this process gives it."""
    facts = list(read(file))
    write(file, [*(fact for fact in facts if not isinstance(fact, RewardScored)), *scored(facts)])
    return 0


def replay(file: Path) -> int:
    """The run verified, as far as rewards decide it."""
    log = MemoryLog()
    log.publish(read(file))
    run = named(runs_on(log), "latest")
    found = recorded(facts_of(log, run, records.KINDS))
    score_again(found, (fact for fact in facts_of(log, run, (SuiteRan,)) if isinstance(fact, SuiteRan)), scored)
    plan = plan_of(log, run.started)
    Verification(plan, found, on_trust(plan)).verify(first_policy(found))
    return 0


if __name__ == "__main__":
    what, which, name = sys.argv[1:]
    if which == "mutant":
        streams.rewards.in_order = streams.gathering.in_order = suites_in_a_set
    action = {"play": play, "replay": replay}[what]
    sys.exit(process.run(lambda: action(Path(name))))
