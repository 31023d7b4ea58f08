"""What a test build does at the places it passes: it notes each one, and at the planned ones it dies or freezes.

A plan is a folder: plan.json says for each role where its processes meet their fate, one item after another, each once;
marks in done/ outlive the process that made them; history/ holds a file of JSON lines for each process.
"""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.failpoints import Hook
from infra.ledger import Framed
from infra.log import Record
from schemas.avro import Undecodable, decode
from schemas.equality import canonical
from schemas.events import Event

VARIABLE = "CRASH_PLAN"  # not a setting of the product: it knows no such name


@dataclass(frozen=True, slots=True)
class Item:
    """At the nth time that one process reaches this place: `kill`, `freeze` for some seconds, or only `mark` it."""

    place: str
    nth: int = 1
    act: str = "kill"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A folder with a plan in it."""

    folder: Path

    @classmethod
    def written(cls, folder: Path, items: Mapping[str, Sequence[Item]]) -> "Plan":
        """A new plan in this folder."""
        for name in ("done", "history"):
            (folder / name).mkdir(parents=True)
        plain = {role: [asdict(item) for item in line] for role, line in items.items()}
        (folder / "plan.json").write_text(json.dumps(plain))
        return cls(folder)

    def items(self) -> dict[str, list[Item]]:
        """Every role's items, in their order."""
        plain = json.loads((self.folder / "plan.json").read_text())
        return {role: [Item(**each) for each in line] for role, line in plain.items()}

    def done(self) -> dict[str, list[Item]]:
        """The items that came to pass."""
        return {
            role: [item for number, item in enumerate(line) if self.mark(role, number).exists()]
            for role, line in self.items().items()
        }

    def mark(self, role: str, number: int) -> Path:
        """The file that says: this item has come to pass."""
        return self.folder / "done" / f"{role}.{number}"

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """What each process noted, in its order. A line that was cut short by the death of its writer is left out."""
        files = sorted((self.folder / "history").glob("*.jsonl"))
        return {file.stem: list(_lines(file)) for file in files}


@dataclass(slots=True)
class Fate:
    """A hook for one process: notes every place, and carries out the plan."""

    plan: Plan
    items: dict[str, list[Item]] = field(init=False)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    name: str = field(default_factory=lambda: f"{time.time_ns()}.{os.getpid()}")

    def __post_init__(self) -> None:
        self.items = self.plan.items()

    def hook(self) -> Hook:
        """To be armed with."""
        return self._reached

    def _reached(self, role: str, place: str, about: object) -> None:
        self._note({"role": role, "place": place, **noted(about)})
        self.counts[role, place] += 1
        number = self._next(role)
        if number is not None and self._is_time(role, place, self.items[role][number]):
            self._act(role, number)

    def _next(self, role: str) -> int | None:
        line = self.items.get(role, [])
        return next((each for each in range(len(line)) if not self.plan.mark(role, each).exists()), None)

    def _is_time(self, role: str, place: str, item: Item) -> bool:
        return item.place == place and self.counts[role, place] >= item.nth

    def _act(self, role: str, number: int) -> None:
        item = self.items[role][number]
        try:
            self.plan.mark(role, number).touch(exist_ok=False)
        except FileExistsError:  # another process of this role was here first
            return
        self._note({"role": role, "place": item.act})
        match item.act:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                subprocess.Popen(["sh", "-c", f"sleep {item.seconds}; kill -CONT {os.getpid()}"])
                os.kill(os.getpid(), signal.SIGSTOP)

    def _note(self, line: Mapping[str, Any]) -> None:
        """One write for each line: what a killed process noted stays."""
        file = self.plan.folder / "history" / f"{self.name}.jsonl"
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, json.dumps(line).encode() + b"\n")
        finally:
            os.close(handle)


# ---- What is at stake at a place, as plain data ----------------------------------------------------------------------


def noted(about: object) -> dict[str, Any]:
    """Records and messages as `reads`, facts as `facts`, places and the offsets after them as `offsets`."""
    said: dict[str, list[Any]] = {"reads": [], "facts": [], "offsets": []}
    for each in _each(about):
        match each:
            case Record():
                said["reads"].append(
                    [each.topic, each.partition, each.offset, each.event.event_id if each.event else ""]
                )
            case Framed():
                said["facts"].append([each.event.event_id, digest(each.event)])
            case Event():
                said["facts"].append([each.event_id, digest(each)])
            case (str(topic), int(partition)), int(offset):
                said["offsets"].append([entity(topic), partition, offset])
            case _ if hasattr(each, "generation_id") and hasattr(each, "value"):  # a message of Faust's
                said["reads"].append([entity(each.topic), each.partition, each.offset, _id(each.value)])
                return {"reads": said["reads"], "assignment": each.generation_id}
            case _ if hasattr(each, "topic") and hasattr(each, "partition"):
                said["offsets"].append([entity(each.topic), each.partition, getattr(each, "offset", None)])
    return {name: values for name, values in said.items() if values}


def digest(event: Event) -> str:
    """Of what a fact decides, and of what it refers to."""
    return hashlib.sha256(canonical(event, _AsTheyAre())).hexdigest()[:16]


def entity(topic: str) -> str:
    """The entity of a topic as the broker calls it; an entity stays itself."""
    return topic.split(".")[1] if "." in topic else topic


class _AsTheyAre(dict[str, str]):
    """Names under which every reference stays what it is."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return key


def _each(about: object) -> Iterable[Any]:
    if isinstance(about, Mapping):
        return list(about.items())
    is_one = about is None or isinstance(about, Event | Framed | Record | str) or hasattr(about, "partition")
    return [about] if is_one or not isinstance(about, Iterable) else list(about)


def _id(value: bytes | None) -> str:
    try:
        return decode(value or b"").event_id
    except Undecodable:
        return ""


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
