"""Where a fact came from and what came of it: update <- rewards <- tests <- code <- requirements <- prompt <- policy.

Pure: facts in, a tree out, a line for a person in each node. A fact is told in full where it is met first, and named
where it is met again. A tree ends at an update of the policy: what made that one is a question of its own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from schemas.events import (
    ApplicationDrawn,
    ApplicationRegistered,
    ApplicationRejected,
    ApplicationVerified,
    DeadLettered,
    DeadLetterReplayed,
    DraftFailed,
    Event,
    File,
    ImplementationFailed,
    ImplementationWritten,
    Outcome,
    PolicyUpdated,
    RequirementsDrafted,
    RewardScored,
    RoundOpened,
    RunEnded,
    RunStarted,
    SuiteRan,
    TestResult,
    ValidationCompleted,
)

LONG, SHOWN = 8, 3  # a list longer than LONG is cut to SHOWN, unless all are asked for
MAX_TEXT = 160  # characters of a text or message, unless the text is asked for
USED, USING = ", whose answer was used again", ", with this answer"  # what is reused is named, not told
SHORT_ID = 8  # characters of an id or digest that name it to a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One fact of a tree, and those it came from or led to."""

    event_id: str
    kind: str
    said: str
    details: tuple[str, ...] = ()
    branches: tuple["Node", ...] = ()
    left_out: str = ""  # what of a long list is not shown
    again: bool = False  # told in full elsewhere in the tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How much of each fact is told."""

    every: bool = False  # whole lists
    text: bool = False  # requirements, files and messages in full


class Past:
    """Facts by id, and which came of which. Of facts with one id the first counts.

    `elsewhere` says in a line what ids stand for that are not among the facts."""

    def __init__(self, facts: Iterable[Event], elsewhere: Mapping[str, str] | None = None) -> None:
        self.facts: dict[str, Event] = {}
        self.elsewhere = elsewhere or {}
        self._effects: defaultdict[str, list[str]] = defaultdict(list)
        self._applications: dict[str, ApplicationRegistered] = {}
        for fact in facts:
            if self.facts.setdefault(fact.event_id, fact) is fact:
                self._take(fact)

    def _take(self, fact: Event) -> None:
        if isinstance(fact, ApplicationRegistered):
            self._applications.setdefault(fact.application_id, fact)
        shown_under = (fact.requirements_id,) if isinstance(fact, RewardScored) else ()
        for cause in dict.fromkeys((*causes(fact), *shown_under)):
            self._effects[cause].append(fact.event_id)

    def causes(self, fact: Event) -> Sequence[str]:
        """Ids of what a fact came from; an application's registration among them."""
        if isinstance(fact, ApplicationDrawn) and fact.application_id in self._applications:
            return (self._applications[fact.application_id].event_id, *causes(fact))
        return causes(fact)

    def effects(self, fact: Event) -> Sequence[str]:
        """Ids of what came of a fact, in an order that no arrival decides."""
        found = list(self._effects.get(fact.event_id, ()))
        if isinstance(fact, ApplicationRegistered):
            draws = (each for each in self.facts.values() if isinstance(each, ApplicationDrawn))
            found += [each.event_id for each in draws if each.application_id == fact.application_id]
        return sorted(found, key=lambda each: _order(self.facts[each]))

    def name(self, application_id: str) -> str:
        """What an application is called."""
        known = self._applications.get(application_id)
        return known.name if known else application_id[:SHORT_ID]

    def wanting(self) -> set[str]:
        """Ids that facts name, of facts that are not here."""
        named = {each for fact in self.facts.values() for each in causes(fact)}
        return named - self.facts.keys() - self.elsewhere.keys()


def causes(fact: Event) -> tuple[str, ...]:
    """Ids of what a fact directly came from, what weighs most first."""
    match fact:
        case PolicyUpdated():
            weight = dict(zip(fact.reward_ids, fact.advantages, strict=False))
            weighed = sorted(fact.reward_ids, key=lambda each: -abs(weight.get(each) or 0.0))
            return _once(*weighed, *fact.caused_by)
        case ValidationCompleted():
            return _once(*fact.caused_by[1:], *fact.caused_by[:1])
        case RewardScored():
            return _once(*fact.suite_ids)
        case SuiteRan():
            return _once(fact.implementation_id, fact.answered_from, *(unit.answered_from for unit in fact.units))
        case ImplementationWritten():
            return _once(fact.requirements_id, fact.answered_from)
        case ImplementationFailed():
            return _once(fact.requirements_id)
    return _once(*fact.caused_by)


def _once(*ids: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in ids if each))


def _order(fact: Event) -> tuple[object, ...]:
    """Where a fact stands among its neighbours."""
    place = getattr(fact, "application_id", ""), getattr(fact, "draft", -1), getattr(fact, "model", "")
    stage = 2 if isinstance(fact, RunEnded) else isinstance(fact, RewardScored | PolicyUpdated | ValidationCompleted)
    return stage, getattr(fact, "round", -1), place, type(fact).__name__, fact.event_id


# ---- the two trees -------------------------------------------------------------------------------------------------


def came_from(past: Past, fact: Event, telling: Telling) -> Node:
    """The fact and all that it came from."""
    return _Walk(past, telling, upward=True).told(fact, root=True)


def led_to(past: Past, fact: Event, telling: Telling) -> Node:
    """The fact and all that came of it."""
    return _Walk(past, telling, upward=False).told(fact, root=True)


@dataclass(slots=True)
class _Walk:
    past: Past
    telling: Telling
    upward: bool
    met: set[str] = field(default_factory=set)

    def told(self, fact: Event, *, root: bool = False, beside: str = "") -> Node:
        """A node for this fact; `beside` is what its neighbour in the tree says of it."""
        node = self._named(fact, beside)
        if fact.event_id in self.met:
            return replace(node, again=not isinstance(fact, PolicyUpdated | ApplicationRegistered))
        self.met.add(fact.event_id)
        node = replace(node, details=tuple(details(fact, self.telling)))
        return node if isinstance(fact, PolicyUpdated) and not root else self._branched(node, fact)

    def _named(self, fact: Event, beside: str) -> Node:
        line = said(fact, self.past, self.telling) + beside
        return Node(event_id=fact.event_id, kind=type(fact).__name__, said=line)

    def _branched(self, node: Node, fact: Event) -> Node:
        ids = self.past.causes(fact) if self.upward else self._effects(fact)
        shown, left_out = _cut(ids, self.past, every=self.telling.every)
        return replace(node, branches=tuple(self._branch(each, fact) for each in shown), left_out=left_out)

    def _effects(self, fact: Event) -> Sequence[str]:
        """What came of a fact, each at the farthest of its causes in this tree: a reward under its requirements."""
        facts = self.past.facts
        found = [
            each
            for each in self.past.effects(fact)
            if each not in self.met or isinstance(facts[each], PolicyUpdated | ValidationCompleted)
        ]
        if isinstance(fact, RequirementsDrafted | DraftFailed):
            self.met.update(each for each in found if isinstance(facts[each], RewardScored))
        return found

    def _branch(self, event_id: str, beneath: Event) -> Node:
        fact = self.past.facts.get(event_id)
        if fact is None:
            return Node(event_id=event_id, kind="", said=self.past.elsewhere.get(event_id, "a fact not on this log"))
        if self.upward:
            used = _reuse(beneath, fact)
            return self._named(fact, USED) if used else self.told(fact, beside=_advantage(beneath, fact))
        if isinstance(beneath, RequirementsDrafted | DraftFailed):
            self.met.discard(event_id)
        used = _reuse(fact, beneath)
        return self._named(fact, USING) if used else self.told(fact, beside=_advantage(fact, beneath))


def _advantage(update: Event, reward: Event) -> str:
    """What an update made of a reward."""
    weighed = dict(zip(update.reward_ids, update.advantages, strict=False)) if isinstance(update, PolicyUpdated) else {}
    if reward.event_id not in weighed:
        return ""
    value = weighed[reward.event_id]
    return ", advantage none" if value is None else f", advantage {value:+.3f}"


def _reuse(user: Event, paid: Event) -> bool:
    """Whether one fact's answer, or a part of it, was taken from the other."""
    units = [unit.answered_from for unit in user.units] if isinstance(user, SuiteRan) else []
    return paid.event_id in (getattr(user, "answered_from", None), *units)


def _cut(ids: Sequence[str], past: Past, *, every: bool) -> tuple[Sequence[str], str]:
    """What of a list is shown, and what is said of the rest: each kind is cut by itself."""
    kinds = {each: type(past.facts[each]).__name__ if each in past.facts else "" for each in ids}
    counts = Counter(kinds.values())
    if every or all(count <= LONG for count in counts.values()):
        return ids, ""
    taken: Counter[str] = Counter()
    shown = []
    for each in ids:
        taken[kinds[each]] += 1
        if counts[kinds[each]] <= LONG or taken[kinds[each]] <= SHOWN:
            shown.append(each)
    rest = ", ".join(f"{count - SHOWN} more {kind or 'facts'}" for kind, count in counts.items() if count > LONG)
    return shown, f"{rest} (--all shows them)"


# ---- a fact in a line ----------------------------------------------------------------------------------------------


def said(fact: Event, past: Past, telling: Telling) -> str:
    """A fact in one line, for a person."""
    match fact:
        case PolicyUpdated():
            return _update(fact)
        case ValidationCompleted():
            return f"{fact.purpose} round {fact.round}: mean pass rate {fact.mean_pass_rate:.3f}"
        case RewardScored():
            return f"{_reward(fact)} for {past.name(fact.application_id)} draft {fact.draft}"
        case SuiteRan():
            return f"tests of {fact.model}: {_verdict(fact)}"
        case ImplementationWritten():
            return f"code by {fact.model}: {_files(fact.files)}"
        case ImplementationFailed():
            return f"no code by {fact.model}, the {fact.fault}'s fault: {_short(fact.cause, telling)}"
        case RequirementsDrafted():
            return f"requirements, draft {fact.draft}, by {fact.prompt_version}: {_short(fact.text, telling)}"
        case DraftFailed():
            return f"no requirements, draft {fact.draft}, the {fact.fault}'s fault: {_short(fact.cause, telling)}"
        case ApplicationDrawn():
            return f"prompt of {fact.purpose} round {fact.round}: {past.name(fact.application_id)}"
        case RoundOpened():
            return f"{fact.purpose} round {fact.round} opened with policy {fact.policy_digest[:SHORT_ID]}"
    return _rarely_said(fact)


def _rarely_said(fact: Event) -> str:
    match fact:
        case ApplicationRegistered():
            return f"application {fact.name}: source {_files(fact.source)}, {len(fact.expected_test_ids)} tests"
        case ApplicationVerified():
            return f"its own source passed {fact.runs} times in the sandbox"
        case ApplicationRejected():
            return f"application {fact.name} was refused: {fact.reason}"
        case RunStarted():
            return f"run {fact.run_id} {fact.label}".rstrip() + f" started, seed {fact.specification.seed}"
        case RunEnded():
            return f"run {fact.run_id} {fact.outcome}"
        case DeadLettered():
            return f"{fact.stage} could not work on {fact.topic}/{fact.partition}/{fact.offset}: {fact.exception}"
        case DeadLetterReplayed():
            return f"worked on again, {fact.written} facts were new"
    return type(fact).__name__


def _update(fact: PolicyUpdated) -> str:
    what = f"update of train round {fact.round}, step {fact.step}"
    if fact.skipped:
        return f"{what}: skipped, {fact.skipped}"
    numbers = f"mean reward {fact.mean_reward:.3f}, loss {fact.loss:.4f}, gradient {fact.gradient_norm:.3f}"
    policies = f"{fact.parent_policy_digest[:SHORT_ID]} -> {fact.policy_digest[:SHORT_ID]}"
    return f"{what}: {numbers}, policy {policies}"


def _reward(fact: RewardScored) -> str:
    if fact.value is None:
        return f"no reward ({fact.cause})"
    terms = ", ".join(f"{term.name} {term.value:+.3f}" for term in fact.terms)
    return f"reward {fact.value:.3f}" + (f" ({terms})" if terms else "")


def _verdict(fact: SuiteRan) -> str:
    if not fact.results:
        return f"{fact.verdict}, {fact.cause}" if fact.cause else str(fact.verdict)
    passed = sum(result.outcome is Outcome.PASSED for result in fact.results)
    return f"{fact.verdict}, {passed} of {len(fact.results)} tests passed" + (f", {fact.cause}" if fact.cause else "")


def _files(files: Sequence[File]) -> str:
    return ", ".join(f"{file.path} ({len(file.content)} bytes)" for file in files) or "no file"


def _short(text: str, telling: Telling) -> str:
    """A text in one line: escaped, so that what a model wrote cannot write to the terminal."""
    limit = 8 * MAX_TEXT if telling.text else MAX_TEXT
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def details(fact: Event, telling: Telling) -> Iterator[str]:
    """What stands beneath the line of a fact: tests that did not pass, and texts where they are asked for."""
    if isinstance(fact, SuiteRan):
        yield from _failed(fact.results, telling)
    if telling.text and isinstance(fact, ImplementationWritten):
        for file in fact.files:
            yield from (f"{file.path}: {line!r}" for line in file.content.decode(errors="replace").splitlines())
    if telling.text and isinstance(fact, RequirementsDrafted):
        yield from map(repr, fact.text.splitlines())
    if telling.text and isinstance(fact, ApplicationRegistered):
        for file in fact.source:
            yield from (f"{file.path}: {line!r}" for line in file.content.decode(errors="replace").splitlines())


def _failed(results: Sequence[TestResult], telling: Telling) -> Iterator[str]:
    failed = [result for result in results if result.outcome is not Outcome.PASSED]
    shown = failed if telling.every or len(failed) <= LONG else failed[:SHOWN]
    yield from (test_line(result, telling) for result in shown)
    if len(shown) < len(failed):
        yield f"{len(failed) - len(shown)} more (--all shows them)"


def test_line(result: TestResult, telling: Telling) -> str:
    """What one test did."""
    return f"test {result.test_id}: {result.outcome}" + (
        f", {_short(result.message, telling)}" if result.message else ""
    )


# ---- a tree on a terminal, and in JSON -----------------------------------------------------------------------------


def lines(node: Node) -> Iterator[str]:
    """The branches of a tree, one line a fact: what it says and the beginning of its id."""
    last = len(node.branches) - 1
    for number, branch in enumerate(node.branches):
        ends = number == last and not node.left_out
        yield ("└─ " if ends else "├─ ") + headline(branch)
        inner = "   " if ends else "│  "
        yield from (f"{inner}{'│' if branch.branches else ' '}    {printable(detail)}" for detail in branch.details)
        yield from (inner + line for line in lines(branch))
    if node.left_out:
        yield f"└─ ... {node.left_out}"


def headline(node: Node) -> str:
    """What a fact says, and the beginning of its id."""
    return f"{printable(node.said)}  [{node.event_id[:SHORT_ID]}]" + (" (see above)" if node.again else "")


def printable(text: str) -> str:
    """A text as it may go to a terminal: what controls one is written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def as_plain(node: Node) -> dict[str, object]:
    """A tree as it goes into JSON."""
    plain: dict[str, object] = {"event_id": node.event_id, "kind": node.kind, "said": node.said}
    plain |= {"details": list(node.details)} if node.details else {}
    plain |= {"left_out": node.left_out} if node.left_out else {}
    plain |= {"again": True} if node.again else {}
    return plain | ({"branches": [as_plain(each) for each in node.branches]} if node.branches else {})
