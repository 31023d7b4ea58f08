"""A reward function of one's own: found by its name, asked about one draft at a time, its answer checked.

    def reward(suites: Sequence[SuiteRan]) -> float | None | Mapping[str, float]

It is given the suites of one draft, one per implementer and in their order; each carries the models it was given to and
which of them are rewarded. It answers a number; or None, the draft has no reward; or named terms, whose sum is the
number. Terms are recorded as they were answered, the reward is their sum clipped to [0, 1].

A broken machine is not a bad grade: of a draft in which a rewarded rebuild says nothing the function never hears. An
answer that is no answer, or an exception, is BadInput that names function and draft.

Whoever names a function trusts it: it runs in this process and may do what its caller may.
"""

import hashlib
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType

from infra.problems import BadInput
from schemas.events import RewardTerm, SuiteRan
from streams.rewards import Reward, clipped, in_order, machine_fault, pass_rates

SIGNATURE = "def reward(suites: Sequence[SuiteRan]) -> float | None | Mapping[str, float]"
VALUE = "value"  # the name of the only term of a function that answers a number
VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """Scores a draft as the product's own function does. Its version is the SHA-256 of its source file, shortened: a
    function of the same name in a changed file is another one."""

    name: str
    version: str
    function: Callable[[Sequence[SuiteRan]], object]

    @property
    def recorded(self) -> str:
        """How a reward names what scored it."""
        return f"{self.name}@{self.version}"

    def __call__(self, suites: Sequence[SuiteRan]) -> Reward:
        """The reward of a draft from one suite per implementer, in any order."""
        judged = in_order(suites)
        rates = pass_rates(judged)
        if cause := machine_fault(judged, rates):
            return Reward(value=None, cause=cause, terms=(), rates=rates, function=self.recorded)
        terms = self._terms(judged)
        if terms is None:
            cause = f"{self.name} answered None"
            return Reward(value=None, cause=cause, terms=(), rates=rates, function=self.recorded)
        value = clipped(self._sum(terms, judged))
        return Reward(value=value, cause="", terms=terms, rates=rates, function=self.recorded)

    def _terms(self, judged: Sequence[SuiteRan]) -> tuple[RewardTerm, ...] | None:
        answer = self._answer(judged)
        if answer is None:
            return None
        if not isinstance(answer, Mapping):
            return (RewardTerm(name=VALUE, value=self._number(answer, judged)),)
        if not answer or not all(isinstance(name, str) and name for name in answer):
            raise self._refused(f"answered {answer!r}, whose terms have no names", judged)
        return tuple(RewardTerm(name=name, value=self._number(value, judged)) for name, value in answer.items())

    def _answer(self, judged: Sequence[SuiteRan]) -> object:
        try:
            return self.function(tuple(judged))
        except Exception as raised:  # whatever it was, it is told to whoever wrote the function
            at = traceback.extract_tb(raised.__traceback__)[-1]
            told = f"raised {type(raised).__name__}: {raised} ({Path(at.filename).name}:{at.lineno})"
            raise self._refused(told, judged) from raised

    def _number(self, answer: object, judged: Sequence[SuiteRan]) -> float:
        if isinstance(answer, bool) or not isinstance(answer, Real):
            raise self._refused(f"answered {answer!r} of type {type(answer).__name__}", judged)
        try:
            number = float(answer)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._refused(f"answered {number}", judged)
        return number

    def _sum(self, terms: Sequence[RewardTerm], judged: Sequence[SuiteRan]) -> float:
        try:
            return math.fsum(term.value for term in terms)
        except OverflowError as beyond:
            raise self._refused("answered terms whose sum is beyond any number", judged) from beyond

    def _refused(self, told: str, judged: Sequence[SuiteRan]) -> BadInput:
        at = judged[0]
        draft = f"{at.purpose} round {at.round} application {at.application_id[:12]} draft {at.draft}"
        return BadInput(
            f"{self.name} {told} for {draft}", "it answers a finite number, None, or a mapping of such terms"
        )


def load(name: str) -> RewardFunction:
    """The function called `package.module:function`, from the current folder or what is installed. Else BadInput."""
    module, colon, function = name.partition(":")
    if not colon or not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise BadInput(f"{name!r} is not package.module:function", f"name a function of this shape: {SIGNATURE}")
    found = getattr(_imported(module), function, None)
    if not inspect.isfunction(found):
        raise BadInput(f"{module} has no function {function!r}", f"write one there: {SIGNATURE}")
    return RewardFunction(name, _version(found, name), found)


def _imported(name: str) -> ModuleType:
    """The module, looked for in the current folder first, as `python -m` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise BadInput(
            f"{name} cannot be imported: there is no module {missing.name!r}", f"it is looked for in {here} first"
        ) from missing
    except Exception as raised:  # importing runs the researcher's file
        raise BadInput(f"{name} cannot be imported: {type(raised).__name__}: {raised}") from raised


def _version(function: Callable[..., object], name: str) -> str:
    """Which text the function was read from. What that text imports is not in it."""
    file = inspect.getsourcefile(inspect.unwrap(function))
    try:
        content = Path(file or "").read_bytes()
    except OSError as error:
        raise BadInput(f"the source of {name} cannot be read: {error}", "name a function in a file") from error
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]
