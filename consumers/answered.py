"""What a step need not pay for again: answers on the log, and those this process has just written.

An answer is found on the log only after its commit. Until then it is remembered here, so that equal questions of two
slices in a row are paid for once.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable

from infra.log import Answers
from schemas.events import Event
from schemas.topics import work_keys

REMEMBERED = 512  # facts; a slice writes 96 at most, and they are on the log a moment later


class Answered:
    """Answers by work key. The log's come first: of several to one key it gives the same to every worker."""

    def __init__(self, on_the_log: Answers) -> None:
        self._on_the_log = on_the_log
        self._recent: OrderedDict[str, Event] = OrderedDict()

    def __call__(self, keys: Iterable[str]) -> dict[str, Event]:
        """The answer to each of these keys that has one."""
        asked: Collection[str] = dict.fromkeys(keys)
        recent = {key: self._recent[key] for key in asked if key in self._recent}
        return recent | self._on_the_log(asked)

    def remember(self, fact: Event) -> None:
        """This fact is about to be written. The first answer to a key stays."""
        for key in work_keys(fact):
            self._recent.setdefault(key, fact)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
