"""Reference facts by their key, followed in a thread of their own."""

import threading
from collections.abc import Callable

from infra.kafka.cluster import LAST, PATIENCE_SECONDS, Cluster
from infra.kafka.reader import Reader
from infra.log import ReferenceMissing
from schemas.events import Event
from schemas.topics import key_of, topic_of


class References:
    """The first fact with each key, followed in a thread of its own."""

    def __init__(self, cluster: Cluster, kind: type[Event], seconds: float, closed: Callable[[], bool]) -> None:
        self._cluster, self._kind, self._seconds, self._closed = cluster, kind, seconds, closed
        self._known: dict[str, Event] = {}
        self._unread = cluster.offsets((topic_of(kind),), LAST)  # what stood there at the start and was not read yet
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name=f"references to {kind.__name__}", daemon=True)
        self._thread.start()

    def __call__(self, key: str) -> Event:
        """The first fact with this key. What stood on the log at the start is read before any is called missing; one
        that is still to come is waited for a bounded time, then ReferenceMissing is raised."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._known or not self._unread or self._failure or self._closed())
            self._changed.wait_for(lambda: key in self._known or self._failure or self._closed(), self._seconds)
            if self._failure:
                raise self._failure
            if key not in self._known:
                raise ReferenceMissing(f"no {self._kind.__name__} of {key} came within {self._seconds:g} s")
            return self._known[key]

    def join(self) -> None:
        """Wait for the thread, which ends once the log is closed."""
        self._thread.join()

    def _follow(self) -> None:
        try:
            reader = Reader(self._cluster, (self._kind,), dict.fromkeys(self._unread, 0))
            try:
                while not self._closed():
                    self._learn(reader)
            finally:
                reader.close()
        except Exception as failure:  # the thread ends; whoever looks something up is told why
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _learn(self, reader: Reader) -> None:
        for place, position, record in reader.read(PATIENCE_SECONDS):
            with self._changed:
                if record is not None and record.event is not None:
                    self._known.setdefault(key_of(record.event), record.event)
                if position >= self._unread.get(place, position + 1):
                    del self._unread[place]
                self._changed.notify_all()
        if self._unread:
            reader.refuse_silence(self._unread)
