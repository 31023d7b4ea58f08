"""Every fact of ICCM, in the order of a run's life. Whoever has read this file knows what the system does.

An event says what happened, in the past tense. It has no behaviour. Avro schemas, topics and tables derive from these
classes; the rules of growth are: a new field has a default, nothing is renamed, nothing is removed.

Three kinds of field are told apart. *Decided* fields are what a run is made of: two runs are equal when these are.
*Measured* fields (clocks, token counts, cache hits, the machine) may differ between equal runs. *References* name other
events by id; equality replaces them by what they point to.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


def measured(**rest: Any) -> Any:
    """A field that says how it went on this machine, this time: ignored when runs are compared."""
    return field(metadata={"kind": "measured"}, **rest)


def reference(**rest: Any) -> Any:
    """A field that holds event ids: compared by the slot they name, never as text."""
    return field(metadata={"kind": "reference"}, **rest)


class Split(StrEnum):
    """What an application may be used for. An unknown symbol reads as hold-out, which trains nothing."""

    TRAIN = "train"
    VALIDATE = "validate"
    TEST = "test"
    HOLD_OUT = "hold_out"


class SuiteKind(StrEnum):
    """How a suite runs: through pytest, or as a table of calls whose expected values never enter the sandbox."""

    PYTEST = "pytest"
    TABLE = "table"


class Purpose(StrEnum):
    """Why a round is played. Only train rounds change the policy."""

    TRAIN = "train"
    VALIDATE = "validate"
    TEST = "test"
    BASELINE = "baseline"


class Fault(StrEnum):
    """Whose fault a failure is: the model's counts against it, the machine's never does."""

    MODEL = "model"
    MACHINE = "machine"


class Outcome(StrEnum):
    """What one test did."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    NOT_RUN = "not_run"


class Verdict(StrEnum):
    """What a whole suite says about one rebuild. Only failed scores a share; invalid_infra scores nothing at all."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    OOM = "oom"
    KILLED = "killed"
    TAMPERED = "tampered"
    INVALID_INFRA = "invalid_infra"


class RunOutcome(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    ABANDONED = "abandoned"
    FAILED = "failed"


class Author(StrEnum):
    """Who writes the rebuilds: the orchestra, or a control that must score 1 (the source itself) or 0 (nothing)."""

    ORCHESTRA = "orchestra"
    POSITIVE = "positive"
    NEGATIVE = "negative"


# The symbol an older reader falls back to when it meets one it does not know.
ENUM_DEFAULTS: dict[type[StrEnum], StrEnum] = {
    Split: Split.HOLD_OUT,
    SuiteKind: SuiteKind.PYTEST,
    Purpose: Purpose.BASELINE,
    Fault: Fault.MACHINE,
    Outcome: Outcome.NOT_RUN,
    Verdict: Verdict.INVALID_INFRA,
    RunOutcome: RunOutcome.FAILED,
    Author: Author.NEGATIVE,
}


# ---- Records that events are made of -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an application or a rebuild. The path is relative, forward-slashed and stays inside its folder."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementer:
    """One frozen model that rebuilds. A model that is not rewarded is only watched: does what was learnt carry over?"""

    name: str
    digest: str
    rewarded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardWeights:
    """reward = mean x mean(pass rates) - variance x population variance(pass rates), clipped to [0, 1]."""

    mean: float = 1.0
    variance: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Every number that shapes an update."""

    estimator: str = "rloo"
    learning_rate: float = 3e-3
    warmup_rounds: int = 5
    final_rate_share: float = 0.2  # the learning rate decays linearly to this share of itself at the last round
    kl_weight: float = 0.1
    clip_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: int = 32
    shuffled_rewards: bool = False  # a control: a round's rewards are dealt to its drafts at random; must teach nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """A run, before it starts: every number that shapes its result. Equal specifications give equal runs."""

    seed: int = 1
    rounds: int = 160
    applications_per_round: int = 12
    drafts_per_application: int = 8
    validate_every: int = 20
    applications: tuple[str, ...] = ("lab",)  # families or application names to draw from
    policy: str = "lab/cet-d"
    policy_digest: str = ""  # of the base model; filled in when the run starts
    implementers: tuple[Implementer, ...] = ()  # filled in from the orchestra when the run starts
    author: Author = Author.ORCHESTRA
    draft_sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=32))
    rebuild_sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=48))
    reward: RewardWeights = field(default_factory=RewardWeights)
    learning: Learning = field(default_factory=Learning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """What the last bits of a weight depend on. Replay is exact where these are equal and refuses by name elsewhere."""

    torch: str
    capability: str  # torch.backends.cpu.get_cpu_capability()
    threads: int
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """A place on the log."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What one test of the suite did with one rebuild."""

    __test__ = False  # not a pytest class, whatever its name suggests

    test_id: str
    outcome: Outcome
    seconds: float = measured(default=0.0)
    message: str = measured(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the sandbox saw from outside."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None
    output_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteUnit:
    """One test file's part in a verdict, run alone with all it can import: what is paid for once."""

    work_key: str  # hash of everything that was in the box: the rebuild, this file, what it imports, the environment
    path: str
    test_ids: tuple[str, ...]
    verdict: Verdict
    cause: str = ""
    answered_from: str | None = None  # the event whose answer was used again


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """How much of the suite one model's rebuild passed. None: the machine's fault, scores nothing."""

    model: str
    rate: float | None
    rewarded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One summand of a reward, already weighted."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRow:
    """One application's validation result: the pass rate of each model."""

    application_id: str
    rates: tuple[PassRate, ...]


# ---- The envelope --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened. The id derives from what the fact completes, so writing it twice changes nothing."""

    event_id: str = reference()
    recorded_at: datetime = measured()  # UTC, microseconds
    run_id: str | None = reference(default=None)
    caused_by: tuple[str, ...] = reference(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEvent(Event):
    """A fact about one draft of one application in one round; it carries all that the facts after it need."""

    application_id: str
    round: int
    purpose: Purpose
    draft: int
    policy_digest: str
    implementers: tuple[Implementer, ...]
    rebuild_sampling: Sampling
    author: Author
    reward: RewardWeights


# ---- Applications --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRegistered(Event):
    """An application came in: its source, and the suite that will judge every rebuild of it."""

    application_id: str  # hash of the content below
    name: str
    family: str
    split: Split
    origin: str
    licence: str
    source: tuple[File, ...]
    tests: tuple[File, ...]
    suite: SuiteKind
    expected_test_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationVerified(Event):
    """The application's own source passed its suite in the sandbox, every time."""

    application_id: str
    runs: int
    sandbox: str
    assurance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRejected(Event):
    """An application was refused, and why."""

    application_id: str
    name: str
    reason: str


# ---- Runs and rounds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run began: the whole specification, and where the log stood."""

    specification: Specification
    application_ids: tuple[str, ...]  # what may be drawn, in canonical order
    numerics: Numerics = measured()
    code_version: str = measured(default="")
    offsets: tuple[Offset, ...] = measured(default=())
    # Where a run comes from does not decide what it is: a fork with nothing changed equals its parent.
    parent_run_id: str | None = measured(default=None)
    parent_step: int | None = measured(default=None)  # the newest update shared with the parent; None: a re-scoring
    label: str = measured(default="")  # a name a person gave
    scoring: str = (
        ""  # of a re-scoring, the function as package.module:name; "" where the specification's weights score
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    """A round began with one policy and an ordered list of applications."""

    round: int
    purpose: Purpose
    policy_digest: str
    application_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationDrawn(Event):
    """One application's part in a round: everything its drafts need to be written, built, tested and scored."""

    application_id: str
    round: int
    purpose: Purpose
    policy_digest: str
    draft_seeds: tuple[int, ...]  # one per draft
    draft_sampling: Sampling
    implementers: tuple[Implementer, ...]
    rebuild_sampling: Sampling
    author: Author
    reward: RewardWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementsDrafted(DraftEvent):
    """The policy wrote requirements for one application."""

    text: str
    prompt_version: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # of the sampler, one per token id
    seed: int
    sampling: Sampling
    adapter_digest: str | None  # of the adapter actually used; None is the base model
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFailed(DraftEvent):
    """The policy wrote nothing usable for one draft."""

    fault: Fault
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplementationWritten(DraftEvent):
    """One model rebuilt the application from one draft."""

    requirements_id: str = reference()
    model: str
    model_digest: str
    prompt_version: str
    files: tuple[File, ...]
    answer: str
    seed: int
    finish_reason: str
    tokens: int = measured(default=0)
    work_key: str = measured(default="")  # equal keys mean equal work: hash of question, model and sampling
    answered_from: str | None = measured(default=None)  # the event whose answer was used again


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplementationFailed(DraftEvent):
    """One model has no rebuild for one draft."""

    requirements_id: str = reference()
    model: str
    fault: Fault
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRan(DraftEvent):
    """The application's own tests judged one rebuild. Every (draft, model) ends as exactly one of these."""

    requirements_id: str = reference()
    implementation_id: str = reference()
    model: str
    verdict: Verdict
    results: tuple[TestResult, ...]  # one per expected test id, in that order; empty when nothing ran
    cause: str  # why, when the verdict is not passed or failed; "" otherwise
    suite_digest: str
    sandbox: str = measured(default="")
    assurance: str = measured(default="")
    evidence: Evidence = measured(default_factory=Evidence)
    work_key: str = measured(default="")  # hash of the rebuild's files, the suite and the environment
    answered_from: str | None = measured(default=None)
    units: tuple[SuiteUnit, ...] = measured(default=())  # one per test file, in the order of their paths


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardScored(Event):
    """One draft got its reward, or None with a cause."""

    application_id: str
    round: int
    purpose: Purpose
    draft: int
    policy_digest: str
    requirements_id: str = reference()
    suite_ids: tuple[str, ...] = reference()  # in the order of the implementers
    value: float | None
    cause: str
    terms: tuple[RewardTerm, ...]
    rates: tuple[PassRate, ...]  # in the order of the implementers
    function: str  # name and version of the scoring function


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUpdated(Event):
    """The policy took one step, or a round taught nothing and was skipped."""

    round: int
    step: int  # how many updates the weights have seen; a skipped round keeps it
    skipped: str  # why nothing was learnt; "" when something was
    parent_policy_digest: str
    policy_digest: str
    reward_ids: tuple[str, ...] = reference()  # sorted by (application, draft)
    advantages: tuple[float | None, ...]  # in the order of reward_ids; None is an invalid draft
    mean_reward: float
    loss: float
    gradient_norm: float
    kl_to_base: float
    entropy: float
    sampler_kl: float  # mean of log pi_sampler - log pi_trainer over the sampled tokens
    learning_rate: float
    invalid_drafts: int
    small_groups: int  # groups with fewer than two valid drafts
    flat_groups: int  # groups whose rewards are all equal
    checkpoint_digest: str
    optimizer_digest: str
    random_digest: str
    seconds: float = measured(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationCompleted(Event):
    """A round that changes nothing was scored: one row per application, in the round's order."""

    round: int
    purpose: Purpose
    policy_digest: str
    rows: tuple[ValidationRow, ...]
    mean_pass_rate: float  # over applications and rewarded models
    spread: float  # mean over applications of the population standard deviation between rewarded models
    invalid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """A run is over, and how."""

    outcome: RunOutcome
    cause: str
    rounds: int
    policy_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered(Event):
    """A record could not be worked on. It stays where it is; this says where, at which stage and why."""

    topic: str
    partition: int
    offset: int
    stage: str
    exception: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterReplayed(Event):
    """A person had a dead letter's record worked on again; what followed is on the log, or why nothing did."""

    dead_letter_id: str = reference()
    topic: str
    partition: int
    offset: int
    stage: str
    written: int  # facts that were new on the log; the others stood there already and stay
    exception: str  # why it failed again; "" when it did not
