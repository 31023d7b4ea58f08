"""The language of list programs: what they do, how they can be described, and who understands which description.

A program is one to three operations on a list of integers, then an ending. Every operation and ending has four
phrasings. A seeded permutation makes one of them common to all implementers and gives each of the three rewarded ones
another of its own; a fourth implementer, never rewarded, knows the common one and a random other. A policy that picks
words at random is therefore mostly misunderstood, and has to find out, operation by operation, what everybody knows.

Everything here is a pure function of its arguments: the same seed gives the same programs on every machine.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

from schemas.events import Split

CASES = 12
LONGEST = 3  # operations before the ending
IMPLEMENTERS = ("impl-0", "impl-1", "impl-2", "impl-3")
PAD, END, SEPARATOR = 0, 1, 2
SPECIAL = ("<pad>", "<end>", "<separator>")

_SMALL, _WIDE, _NO_NUMBER = range(1, 5), range(2, 10), range(1)


@dataclass(frozen=True, slots=True)
class Wording:
    """One line of source, the four ways to say it, and the numbers that may stand in both."""

    source: str
    phrasings: tuple[str, str, str, str]
    numbers: range = _NO_NUMBER


OPERATIONS: dict[str, Wording] = {
    "even": Wording(
        "xs = [x for x in xs if x % 2 == 0]",
        ("keep the even numbers", "discard whatever is odd", "multiples of two stay", "evens survive"),
    ),
    "odd": Wording(
        "xs = [x for x in xs if x % 2 == 1]",
        ("select odd numbers", "throw out the even ones", "those not divisible by two stay", "odds survive"),
    ),
    "positive": Wording(
        "xs = [x for x in xs if x > 0]",
        (
            "retain numbers above zero",
            "remove zero and negatives",
            "strictly positive entries stay",
            "plus signs survive",
        ),
    ),
    "above": Wording(
        "xs = [x for x in xs if x > {k}]",
        ("leave numbers bigger than {k}", "reject {k} and smaller", "entries exceeding {k} stay", "over {k} survive"),
        _WIDE,
    ),
    "below": Wording(
        "xs = [x for x in xs if x < {k}]",
        ("filter numbers less than {k}", "exclude {k} and bigger", "entries short of {k} stay", "under {k} survive"),
        _WIDE,
    ),
    "add": Wording(
        "xs = [x + {k} for x in xs]",
        ("add {k} to each", "raise all by {k}", "shift values up {k}", "everything gains {k}"),
        _WIDE,
    ),
    "multiply": Wording(
        "xs = [x * {k} for x in xs]",
        ("multiply each by {k}", "scale all with {k}", "stretch values {k} times", "product with {k} throughout"),
        _WIDE,
    ),
    "square": Wording(
        "xs = [x * x for x in xs]",
        ("square each", "second power of all", "times itself", "quadratic values throughout"),
    ),
    "negate": Wording(
        "xs = [-x for x in xs]",
        ("negate each", "opposite sign for all", "mirror values around zero", "flip the sign throughout"),
    ),
    "absolute": Wording(
        "xs = [abs(x) for x in xs]",
        ("absolute value of each", "make all nonnegative", "strip minus signs", "distance from zero throughout"),
    ),
    "sort": Wording(
        "xs = sorted(xs)",
        ("sort ascending", "arrange from low to high", "smallest comes first", "rank upward"),
    ),
    "reverse": Wording(
        "xs = xs[::-1]",
        ("reverse the list", "turn back to front", "last comes first", "read from the end"),
    ),
    "take": Wording(
        "xs = xs[:{k}]",
        ("take the first {k}", "cut after {k}", "limit the length to {k}", "head of {k}"),
        _SMALL,
    ),
    "drop": Wording(
        "xs = xs[{k}:]",
        ("skip the first {k}", "begin after {k}", "without the leading {k}", "tail past {k}"),
        _SMALL,
    ),
}

ENDINGS: dict[str, Wording] = {
    "sum": Wording(
        "return sum(xs)",
        ("return the sum", "answer with the total", "give all added together", "result is everything summed"),
    ),
    "max": Wording(
        "return max(xs, default=0)",
        (
            "return the largest or zero",
            "answer with the maximum if any",
            "give the top else zero",
            "result is the peak",
        ),
    ),
    "min": Wording(
        "return min(xs, default=0)",
        (
            "return the least or zero",
            "answer with the minimum if any",
            "give the bottom else zero",
            "result is the floor",
        ),
    ),
    "len": Wording(
        "return len(xs)",
        ("return how many", "answer with the count", "give the number of entries", "result is the size"),
    ),
    "list": Wording(
        "return xs",
        ("return the list", "answer with the values", "give what remains", "result is as it stands"),
    ),
}

WORDINGS = OPERATIONS | ENDINGS


@dataclass(frozen=True, slots=True)
class Operation:
    """One named operation and its number (0 where it has none)."""

    name: str
    k: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """Operations in order, then what is returned."""

    operations: tuple[Operation, ...]
    ending: str

    @property
    def steps(self) -> tuple[Operation, ...]:
        return (*self.operations, Operation(self.ending))


# ---- What a program is, and how it can be told ---------------------------------------------------------------------


def source(program: Program) -> str:
    """The program as the text of a Python file that defines `f`."""
    lines = [f"    {WORDINGS[step.name].source.format(k=step.k)}\n" for step in program.steps]
    return "def f(xs):\n" + "".join(lines)


def requirements(program: Program, choose: Callable[[str], int]) -> str:
    """The program told as a list, one step a line; `choose` picks the phrasing (0 to 3) of a named step."""
    return "\n".join(f"- {WORDINGS[s.name].phrasings[choose(s.name)].format(k=s.k)}" for s in program.steps)


def faithful(program: Program, text: str) -> bool:
    """The text tells exactly these steps in this order, each in one of its four phrasings."""
    lines = text.split("\n")
    return len(lines) == len(program.steps) and all(
        line in {f"- {phrasing.format(k=step.k)}" for phrasing in WORDINGS[step.name].phrasings}
        for line, step in zip(lines, program.steps, strict=True)
    )


def _dialects() -> dict[str, dict[str, tuple[int, int]]]:
    shuffle, extra = random.Random(2024), random.Random(2025)
    known: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in IMPLEMENTERS}
    for step in WORDINGS:
        order = [0, 1, 2, 3]
        shuffle.shuffle(order)
        common, *own = order
        for name, other in zip(IMPLEMENTERS, [*own, extra.choice(own)], strict=True):
            known[name][step] = (common, other)
    return known


DIALECTS = _dialects()


def common(step: str) -> int:
    """The one phrasing of a step that every implementer understands."""
    return DIALECTS[IMPLEMENTERS[0]][step][0]


# ---- What a program does -------------------------------------------------------------------------------------------


def behaviour(program: Program, arguments: Sequence[Sequence[int]]) -> list[int | list[int]]:
    """What the program returns for each list."""
    namespace: dict[str, Callable[[list[int]], int | list[int]]] = {}
    exec(source(program), namespace)
    return [namespace["f"](list(xs)) for xs in arguments]


@cache
def arguments(program: Program) -> tuple[tuple[int, ...], ...]:
    """The lists of the program's hidden tests, drawn from a seed that is a hash of its source."""
    rng = random.Random(zlib.crc32(source(program).encode()))
    return tuple(tuple(rng.randint(-9, 12) for _ in range(rng.randint(5, 9))) for _ in range(CASES))


def informative(program: Program) -> bool:
    """Every operation matters: leaving out any one breaks at least half of the hidden tests."""
    inputs, whole = arguments(program), program.operations
    wanted = behaviour(program, inputs)
    for i in range(len(whole)):
        shorter = behaviour(Program(whole[:i] + whole[i + 1 :], program.ending), inputs)
        if 2 * sum(a != b for a, b in zip(wanted, shorter, strict=True)) < CASES:
            return False
    return True


# ---- Drawing programs ----------------------------------------------------------------------------------------------


def split(program: Program) -> Split:
    """What a program may be used for: a hash of its sequence of operations (and of its ending where it has but one)."""
    names = ",".join(operation.name for operation in program.operations)
    key = names if len(program.operations) > 1 else f"{names}|{program.ending}"
    bucket = zlib.crc32(key.encode()) % 10
    return {0: Split.VALIDATE, 1: Split.TEST, 2: Split.TEST}.get(bucket, Split.TRAIN)


def sample(rng: random.Random, wanted: Split) -> Program:
    """A random program of a split, informative or not."""
    while True:
        names = rng.choices(list(OPERATIONS), k=rng.randint(1, LONGEST))
        operations = tuple(Operation(name, rng.choice(OPERATIONS[name].numbers)) for name in names)
        program = Program(operations, rng.choice(list(ENDINGS)))
        if split(program) is wanted:
            return program


def pool(wanted: Split, count: int) -> list[Program]:
    """The first `count` informative programs of a split, all different. A larger pool begins with the smaller one.

    Each place in the pool asks for one step by name, in turn: few programs need a sort, and left to chance it is rare.
    """
    rng = random.Random(f"pool of {wanted.value}")
    found: dict[Program, None] = {}
    for name in islice(cycle(WORDINGS), count):
        program = sample(rng, wanted)
        while program in found or name not in (step.name for step in program.steps) or not informative(program):
            program = sample(rng, wanted)
        found[program] = None
    return list(found)


# ---- Tokens --------------------------------------------------------------------------------------------------------

# Frequent runs of source are one token; `==` must be one. Joining a text's pieces gives back the text.
_PIECE = re.compile(r"def f\(xs\):\n| {4}(?:xs =|return)| for x in xs|[\])]\n|\n-|\n| ?==| ?\w+| ?[^\w\s]")


class UnknownWords(Exception):
    """The text holds pieces that are not in the vocabulary."""


def pieces(text: str) -> list[str]:
    """The text cut into tokens. Raises UnknownWords where something cannot be cut, so nothing is lost in silence."""
    found = _PIECE.findall(text)
    if "".join(found) != text:
        raise UnknownWords(f"blanks or control characters that the lab does not know, in {text[:200]!r}")
    return found


def vocabulary() -> tuple[str, ...]:
    """Every token of the language, the special ones first, in the order in which the wordings name them."""
    words = dict.fromkeys(SPECIAL)
    for wording in WORDINGS.values():
        for k in wording.numbers:
            words.update(dict.fromkeys(pieces("def f(xs):\n    " + wording.source.format(k=k) + "\n")))
            for phrasing in wording.phrasings:
                words.update(dict.fromkeys(pieces("- " + phrasing.format(k=k) + "\n-")))
    return tuple(words)


class Tokenizer:
    """Text to token ids and back. Raises UnknownWords for text outside the language."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        found = pieces(text)
        unknown = sorted({piece for piece in found if piece not in self._ids})
        if unknown:
            raise UnknownWords(f"not in the lab's vocabulary: {', '.join(map(repr, unknown[:8]))}")
        return [self._ids[piece] for piece in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens; special tokens say nothing."""
        return "".join(self.words[i] for i in ids if i >= len(SPECIAL))
