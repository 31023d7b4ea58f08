"""Who plays in the lab: names and digests, without loading a model (or torch).

Three implementers are rewarded; the fourth is only watched, in rounds that change nothing.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from infra.lab.programs import IMPLEMENTERS as FOLDERS
from infra.problems import BadInput
from schemas.events import Author, Implementer, Specification

WEIGHTS = Path(__file__).parent / "weights"
FAMILY = "lab"
POLICY = "lab/cet-d"
IMPLEMENTERS = tuple(f"lab/{folder}" for folder in FOLDERS)
REWARDED = IMPLEMENTERS[:3]


def digest(name: str) -> str:
    """SHA-256 over the weights and the vocabulary of one lab model, as the model itself gives it."""
    folder = WEIGHTS / name.removeprefix("lab/")
    weights, vocabulary = folder / "model.safetensors", WEIGHTS / "vocabulary.json"
    return hashlib.sha256(weights.read_bytes() + vocabulary.read_bytes()).hexdigest()


def filled_in(spec: Specification) -> Specification:
    """The specification with the digests of its models: what it means on this checkout, to the last weight."""
    if spec.policy != POLICY:
        raise BadInput(f"policy {spec.policy!r} is not known", f"the one there is here is {POLICY}")
    if spec.author is not Author.ORCHESTRA:
        return replace(spec, policy_digest=digest(POLICY), implementers=(_control(spec.author),))
    orchestra = tuple(Implementer(name=each, digest=digest(each), rewarded=each in REWARDED) for each in IMPLEMENTERS)
    return replace(spec, policy_digest=digest(POLICY), implementers=orchestra)


def _control(author: Author) -> Implementer:
    return Implementer(name=f"control/{author}", digest=hashlib.sha256(author.encode()).hexdigest())
