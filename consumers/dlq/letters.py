"""Dead letters as the log tells them: which there are, what became of each, which ones a person means. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from infra.problems import BadInput
from schemas.events import DeadLettered, DeadLetterReplayed, Event

OPEN, REPLAYED, FAILED_AGAIN = "open", "replayed", "failed again"
FILTERS = "stage=STAGE, topic=TOPIC, run=RUN, exception~TEXT or open"

Chosen = Callable[["Letter"], bool]


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that could not be worked on, and every time a person had it worked on again."""

    dead: DeadLettered
    replays: tuple[DeadLetterReplayed, ...] = ()

    @property
    def state(self) -> str:
        """Replayed once a replay went well; open until then, and said to have failed again where one did not."""
        if any(not each.exception for each in self.replays):
            return REPLAYED
        return FAILED_AGAIN if self.replays else OPEN

    @property
    def is_open(self) -> bool:
        """Whether it still waits for a replay that goes well."""
        return self.state != REPLAYED

    @property
    def place(self) -> str:
        """Where its record stands."""
        return f"{self.dead.topic}/{self.dead.partition}@{self.dead.offset}"


def letters(facts: Iterable[Event]) -> list[Letter]:
    """Every dead letter, the oldest first; the first fact with an id wins."""
    dead: dict[str, DeadLettered] = {}
    replays: dict[str, dict[str, DeadLetterReplayed]] = defaultdict(dict)
    for fact in facts:
        match fact:
            case DeadLettered():
                dead.setdefault(fact.event_id, fact)
            case DeadLetterReplayed():
                replays[fact.dead_letter_id].setdefault(fact.event_id, fact)
    ordered = sorted(dead.values(), key=lambda each: (each.recorded_at, each.topic, each.partition, each.offset))
    return [Letter(each, tuple(replays[each.event_id].values())) for each in ordered]


def named(found: Sequence[Letter], name: str) -> Letter:
    """The one letter whose id begins with `name`."""
    matching = [each for each in found if name and each.dead.event_id.startswith(name)]
    if len(matching) != 1:
        many = "no dead letter" if not matching else f"{len(matching)} dead letters"
        raise BadInput(f"{many} on this log begin with {name!r}", "`iccm dlq list` names them")
    return matching[0]


def chosen(filters: Sequence[str]) -> Chosen:
    """Letters that pass every one of these filters."""
    tests = [_filter(each) for each in filters]
    return lambda letter: all(test(letter) for test in tests)


def _filter(text: str) -> Chosen:
    if text == OPEN:
        return lambda letter: letter.is_open
    key, equals, value = text.partition("=")
    if equals and value and key in ("stage", "topic"):
        return lambda letter: getattr(letter.dead, key) == value
    if equals and value and key == "run":
        return lambda letter: (letter.dead.run_id or "").startswith(value)
    key, tilde, value = text.partition("~")
    if tilde and value and key == "exception":
        return lambda letter: value in letter.dead.exception
    raise BadInput(f"{text!r} is no filter of dead letters", f"one of {FILTERS}")
