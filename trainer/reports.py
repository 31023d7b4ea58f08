"""What a run looks like to a person: its learning curve, where its time goes, an example. Pure: facts in, text out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import fmean, median

from schemas.events import (
    DraftFailed,
    Event,
    ImplementationFailed,
    ImplementationWritten,
    PassRate,
    PolicyUpdated,
    Purpose,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunStarted,
    SuiteRan,
    ValidationCompleted,
)

STAGES = ("draft", "implement", "tests", "rewards", "train")
BUDGET_SECONDS = {"draft": 0.5, "implement": 0.5, "tests": 0.5, "rewards": 0.5, "train": 0.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One validation: how well the policy's requirements were rebuilt after a round."""

    round: int
    seconds: float  # since the run started
    held_out_pass_rate: float  # over applications and rewarded implementers
    per_model: dict[str, float]
    unseen_model: float | None  # the implementer that the reward never saw
    spread: float  # mean over applications of the standard deviation between rewarded implementers
    policy_digest: str


def curve(facts: Iterable[Event], purpose: Purpose = Purpose.VALIDATE) -> list[Point]:
    """The points of one run, by round. What a fork shares with its parent is told as the parent's curve tells it."""
    started: dict[str | None, datetime] = {}
    points: dict[int, Point] = {}
    for fact in facts:
        if isinstance(fact, RunStarted):
            started.setdefault(fact.run_id, fact.recorded_at)
        if isinstance(fact, ValidationCompleted) and fact.purpose is purpose and fact.run_id in started:
            points.setdefault(fact.round, _point(fact, started[fact.run_id]))
    return [points[each] for each in sorted(points)]


def _point(fact: ValidationCompleted, started: datetime) -> Point:
    rates: dict[str, list[float]] = defaultdict(list)
    watched: list[float] = []
    for each in (rate for row in fact.rows for rate in row.rates):
        _sort_in(each, rates, watched)
    return Point(
        round=fact.round,
        seconds=round((fact.recorded_at - started).total_seconds(), 1),
        held_out_pass_rate=fact.mean_pass_rate,
        per_model={model: fmean(rates[model]) for model in sorted(rates)},
        unseen_model=fmean(watched) if watched else None,
        spread=fact.spread,
        policy_digest=fact.policy_digest,
    )


def _sort_in(each: PassRate, rates: dict[str, list[float]], watched: list[float]) -> None:
    if each.rate is not None:
        rates[each.model].append(each.rate)
        if not each.rewarded:
            watched.append(each.rate)


def as_plain(points: Sequence[Point]) -> list[dict[str, object]]:
    """The curve as it goes into JSON."""
    return [asdict(point) for point in points]


# ---- where a round's time goes -------------------------------------------------------------------------------------


class Stages:
    """When each stage of each train round wrote its last fact."""

    def __init__(self) -> None:
        self._ends: dict[int, dict[str, datetime]] = defaultdict(dict)

    def add(self, fact: Event) -> None:
        stage, number = _stage(fact)
        if stage is not None:
            ends = self._ends[number]
            ends[stage] = max(fact.recorded_at, ends.get(stage, fact.recorded_at))

    def seconds(self) -> dict[int, dict[str, float]]:
        """Per closed round: seconds from one stage's last fact to the next stage's. Their sum is the round."""
        return {number: _gaps(at) for number, at in sorted(self._ends.items()) if {"opened", "train"} <= at.keys()}


def _stage(fact: Event) -> tuple[str | None, int]:
    match fact:
        case RoundOpened(purpose=Purpose.TRAIN):
            return "opened", fact.round
        case RequirementsDrafted(purpose=Purpose.TRAIN) | DraftFailed(purpose=Purpose.TRAIN):
            return "draft", fact.round
        case ImplementationWritten(purpose=Purpose.TRAIN) | ImplementationFailed(purpose=Purpose.TRAIN):
            return "implement", fact.round
        case SuiteRan(purpose=Purpose.TRAIN):
            return "tests", fact.round
        case RewardScored(purpose=Purpose.TRAIN):
            return "rewards", fact.round
        case PolicyUpdated():
            return "train", fact.round
    return None, 0


def _gaps(at: Mapping[str, datetime]) -> dict[str, float]:
    gaps, before = {}, at["opened"]
    for stage in STAGES:
        now = max(at.get(stage, before), before)
        gaps[stage] = (now - before).total_seconds()
        before = now
    return gaps


def stage_table(seconds: Mapping[int, Mapping[str, float]]) -> str:
    """Median seconds of each stage beside its budget, and its share of a round."""
    if not seconds:
        return "no round is closed yet"
    medians = {stage: median(each[stage] for each in seconds.values()) for stage in STAGES}
    total = sum(medians.values()) or 1.0
    rows = [
        f"  {stage:<10}{spent:6.2f} s  {spent / total:4.0%}  budget {BUDGET_SECONDS[stage]:.1f} s"
        for stage, spent in medians.items()
    ]
    rounds = f"{len(seconds)} rounds" if len(seconds) > 1 else "one round"
    return "\n".join([*rows, f"  {'a round':<10}{total:6.2f} s  median of {rounds}"])


# ---- what was paid for ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answers:
    """How many answers of one role were worked for, and how many the log gave. A failure is no answer."""

    paid: int = 0
    from_the_log: int = 0

    def add(self, answered_from: str | None) -> None:
        """One more answer, and the fact it was taken from."""
        if answered_from is None:
            self.paid += 1
        else:
            self.from_the_log += 1


def answers(facts: Iterable[Event]) -> dict[str, Answers]:
    """Per role what a run's answers cost: drafts, rebuilds, and suites, or their test files where they tell of them."""
    told = {role: Answers() for role in ("requirements", "implement", "run_tests")}
    seen: set[str] = set()
    for fact in facts:
        if fact.event_id in seen:
            continue
        seen.add(fact.event_id)
        match fact:
            case RequirementsDrafted():
                told["requirements"].add(None)
            case ImplementationWritten() if fact.work_key:
                told["implement"].add(fact.answered_from)
            case SuiteRan() if fact.units:
                for unit in fact.units:
                    told["run_tests"].add(unit.answered_from)
            case SuiteRan() if fact.work_key:
                told["run_tests"].add(fact.answered_from)
    return told


def answer_table(told: Mapping[str, Answers]) -> str:
    """One line per role."""
    return "\n".join(
        f"{role:<13}{each.paid:>7} paid  {each.from_the_log:>7} from the log" for role, each in told.items()
    )


# ---- the curve in a terminal ---------------------------------------------------------------------------------------


def chart(points: Sequence[Point], *, ceiling: float | None = None, width: int = 64, height: int = 14) -> str:
    """Held-out pass rate (●) and the unseen implementer's (○) over rounds; the ceiling of common words is a line."""
    if not points:
        return "no validation is complete yet"
    last = max(points[-1].round, 1)
    grid = [[" "] * (width + 1) for _ in range(height + 1)]
    if ceiling is not None:
        grid[_row(ceiling, height)] = ["┄"] * (width + 1)
    for point in points:
        column = round(point.round / last * width)
        if point.unseen_model is not None:
            grid[_row(point.unseen_model, height)][column] = "○"
        grid[_row(point.held_out_pass_rate, height)][column] = "●"
    lines = [f"{1 - i / height:5.2f} ┤{''.join(row)}" for i, row in enumerate(grid)]
    return "\n".join([*lines, f"      └{'─' * (width + 1)}", f"       0{str(last).rjust(width)} rounds"])


def _row(rate: float, height: int) -> int:
    return round((1 - min(max(rate, 0.0), 1.0)) * height)


def summary(point: Point) -> str:
    """One line: what the policy is worth after a round."""
    models = "  ".join(f"{name} {rate:.3f}" for name, rate in point.per_model.items())
    unseen = "" if point.unseen_model is None else f"  (unseen {point.unseen_model:.3f})"
    rate = f"held-out {point.held_out_pass_rate:.3f}{unseen}"
    return f"round {point.round:>4}  {rate}  spread {point.spread:.3f}  {models}"


# ---- one example ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Requirements for one application before and after training, and what they were worth."""

    application_id: str
    before: str
    after: str
    before_rate: float
    after_rate: float


def example(facts: Iterable[Event]) -> Example | None:
    """The held-out application that gained most between the first and the last validation; ties go to the first id."""
    texts: dict[tuple[int, str], str] = {}
    rates: dict[tuple[int, str], float] = {}
    for fact in facts:
        if isinstance(fact, RequirementsDrafted) and fact.purpose is Purpose.VALIDATE:
            texts.setdefault((fact.round, fact.application_id), fact.text)
        if isinstance(fact, RewardScored) and fact.purpose is Purpose.VALIDATE:
            known = [each.rate for each in fact.rates if each.rewarded and each.rate is not None]
            rates.setdefault((fact.round, fact.application_id), fmean(known) if known else 0.0)
    return _best_gain(texts, rates)


def _best_gain(texts: Mapping[tuple[int, str], str], rates: Mapping[tuple[int, str], float]) -> Example | None:
    both = texts.keys() & rates.keys()
    rounds = sorted({number for number, _ in both})
    if len(rounds) < 2:
        return None
    first, last = rounds[0], rounds[-1]
    apps = sorted(app for number, app in both if number == first and (last, app) in both)
    best = max(apps, key=lambda app: rates[last, app] - rates[first, app], default=None)
    if best is None:
        return None
    return Example(
        application_id=best,
        before=texts[first, best],
        after=texts[last, best],
        before_rate=rates[first, best],
        after_rate=rates[last, best],
    )


# ---- all of it, as facts come in -----------------------------------------------------------------------------------


class Story:
    """What is worth keeping of a run's facts while it is watched: enough for every report, little enough for memory."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.stages = Stages()
        self.kept: list[Event] = []
        self._seen: set[str] = set()

    def add(self, fact: Event) -> bool:
        """Whether the fact is new; a second one with the same id changes nothing."""
        if fact.event_id in self._seen:
            return False
        self._seen.add(fact.event_id)
        kind = type(fact).__name__
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.stages.add(fact)
        watched = isinstance(fact, RequirementsDrafted | RewardScored) and fact.purpose is Purpose.VALIDATE
        if watched or isinstance(fact, RunStarted | PolicyUpdated | ValidationCompleted):
            self.kept.append(fact)
        return True
