"""Updates learnt again by the production learner. The one file of the replay that needs torch."""

import hashlib

from infra.blobs import BlobCorrupt, BlobMissing, Blobs
from infra.log import Log
from infra.problems import BadInput
from infra.process import clock, say
from schemas.events import PolicyUpdated, RunStarted
from trainer import checkpoint
from trainer.policy import Policy
from trainer.replay import learn, starting_policy
from trainer.rounds import CompleteRound, Course
from trainer.verify.verification import Learn, after, on_trust


class Unkept(Blobs):
    """A store that only tells digests: what it is given is not kept. It may have another to read from."""

    def __init__(self, source: Blobs | None = None) -> None:
        self._source = source

    def put(self, content: bytes) -> str:
        """The digest of the content."""
        return hashlib.sha256(content).hexdigest()

    def get(self, digest: str) -> bytes:
        """The bytes with this digest, from the other store."""
        if self._source is None:
            raise BlobMissing(digest, "a run that comes from a file")
        return self._source.get(digest)


def from_the_start(policy: Policy, run: Course, log: Log, started: RunStarted, blobs: Blobs) -> Learn:
    """`policy` becomes what the run begins with; every update is then learnt again."""
    starting_policy(policy, log, started, blobs, clock, say)
    return _relearnt(policy, run, blobs)


def from_checkpoint(policy: Policy, run: Course, update: PolicyUpdated, blobs: Blobs) -> Learn:
    """`policy` becomes what `update` left; updates after it are learnt again, those before are taken on trust."""
    try:
        checkpoint.restore(blobs, update.checkpoint_digest, policy)
    except (BlobMissing, BlobCorrupt) as lost:
        remedy = "leave --from-checkpoint out: everything is then learnt from the start"
        raise BadInput(f"the checkpoint of step {update.step} cannot be read: {lost.message}", remedy) from lost
    return after(update.round, on_trust(run), _relearnt(policy, run, blobs))


def _relearnt(policy: Policy, run: Course, blobs: Blobs) -> Learn:
    def again(played: CompleteRound, _said: PolicyUpdated) -> PolicyUpdated:
        return learn(policy, run, played, blobs, clock)

    return again
