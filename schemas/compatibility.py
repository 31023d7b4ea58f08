"""Whether a new schema and every committed one can read each other's bytes: FULL_TRANSITIVE, by named rules.

Today's class must read what any earlier schema wrote, and a process that still has an earlier schema must read what is
written today; so processes may be upgraded in any order and no fact ever becomes unreadable.

Two rules are stricter than Avro's. Nothing is removed or renamed, whatever its default. And the default of a field that
some version lacks never changes, for it is what the facts of that version say. One is stricter for the sake of str:
bytes and string never take each other's place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.derived import Enum, Json, Record, Slot, Type, definitions

ADDED = "added without a default"
REMOVED = "removed"
RENAMED = "renamed"
NARROWED = "type narrowed"
WIDENED = "type widened"
CHANGED = "type changed"
MISFIT = "default does not fit the type"
DEFAULT_CHANGED = "default changed, though an earlier version relies on it"
SYMBOL_REMOVED = "enum symbol removed"
SYMBOL_ADDED = "enum symbol added without a default symbol in the old version"
NO_DEFAULT_SYMBOL = "enum default is none of its symbols"

NUMBERS = ("int", "long", "float", "double")  # each may be read as any later one
LACKED = "lacked by an earlier version"  # harmless by itself


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a schema may not follow another. `version` is the earlier one it breaks with; 0: with itself. A field of a
    nested record is named after that record."""

    event: str
    version: int
    field: str
    rule: str
    detail: str = ""

    def __str__(self) -> str:
        against = f" (against version {self.version})" if self.version else ""
        return f"{self.event}.{self.field}: {self.rule}{self.detail and f': {self.detail}'}{against}"


def judge(event: str, new: Record, committed: Mapping[int, Record]) -> list[Refusal]:
    """Every reason why `new` may not join the committed versions; none means that it may."""
    refusals = [Refusal(event, 0, *finding) for finding in _misfits(new)]
    lacked, redefined = set(), []
    for version, old in committed.items():
        for path, rule, detail in _Pair(old, new).record(old, new):
            if rule == LACKED:
                lacked.add(path)
            elif rule == DEFAULT_CHANGED:
                redefined.append(Refusal(event, version, path, rule, detail))
            else:
                refusals.append(Refusal(event, version, path, rule, detail))
    return refusals + [refusal for refusal in redefined if refusal.field in lacked]


def judge_history(event: str, committed: Mapping[int, Record]) -> list[Refusal]:
    """As `judge`, for each committed version against those before it."""
    return [
        refusal
        for number, schema in committed.items()
        for refusal in judge(event, schema, {earlier: old for earlier, old in committed.items() if earlier < number})
    ]


Finding = tuple[str, str, str]  # path, rule, detail


class _Pair:
    """An old and a new schema walked side by side. Records and enums that were met are not walked again."""

    def __init__(self, old: Record, new: Record) -> None:
        self._old = definitions(old)
        self._new = definitions(new)
        self._met: set[str] = set()

    def record(self, old: Record, new: Record, path: str = "") -> Iterator[Finding]:
        """What differs between two records; `path` is where they are met."""
        if old["name"] != new["name"]:
            yield path, RENAMED, f"{old['name']} to {new['name']}"
        before, after = _by_name(old), _by_name(new)
        prefix = f"{_short(new)}." if path else ""
        for name in before:
            if name not in after:
                yield prefix + name, REMOVED, ""
        for name, slot in after.items():
            if name in before:
                yield from self._slot(prefix + name, before[name], slot)
            else:
                yield prefix + name, LACKED if "default" in slot else ADDED, ""

    def _slot(self, path: str, old: Slot, new: Slot) -> Iterator[Finding]:
        yield from self._type(path, old["type"], new["type"])
        if "default" in old and "default" in new and old["default"] != new["default"]:
            yield path, DEFAULT_CHANGED, f"{old['default']!r} to {new['default']!r}"

    def _type(self, path: str, old: Type, new: Type) -> Iterator[Finding]:
        old, new = _defined(old, self._old), _defined(new, self._new)
        if isinstance(old, list) or isinstance(new, list):
            yield from self._union(path, _branches(old), _branches(new))
        elif isinstance(old, str) or isinstance(new, str):
            yield from _primitive(path, old, new)
        elif old["type"] == "record" and new["type"] == "record":
            if self._first_met(new):
                yield from self.record(old, new, path)
        elif old["type"] == "enum" and new["type"] == "enum":
            if self._first_met(new):
                yield from _enum(path, old, new)
        elif old["type"] == "array" and new["type"] == "array":
            yield from self._type(f"{path}[]", old["items"], new["items"])
        elif old["type"] == "map" and new["type"] == "map":
            yield from self._type(f"{path}{{}}", old["values"], new["values"])
        elif old != new:
            yield path, CHANGED, f"{_said(old)} to {_said(new)}"

    def _first_met(self, new: Record | Enum) -> bool:
        first = new["name"] not in self._met
        self._met.add(new["name"])
        return first

    def _union(self, path: str, old: list[Type], new: list[Type]) -> Iterator[Finding]:
        before = {_said(_defined(branch, self._old)): branch for branch in old}
        after = {_said(_defined(branch, self._new)): branch for branch in new}
        if not (before.keys() - {"null"}) & after.keys():
            yield path, CHANGED, f"{' or '.join(before)} to {' or '.join(after)}"
            return
        for branch in sorted(before.keys() - after.keys()):
            yield path, NARROWED, f"{branch} can no longer be read"
        for branch in sorted(after.keys() - before.keys()):
            yield path, WIDENED, f"an earlier reader cannot read {branch}"
        for branch in sorted(before.keys() & after.keys()):
            yield from self._type(path, before[branch], after[branch])


def _primitive(path: str, old: Type, new: Type) -> Iterator[Finding]:
    detail = f"{_said(old)} to {_said(new)}"
    if old in NUMBERS and new in NUMBERS:
        change = NUMBERS.index(str(new)) - NUMBERS.index(str(old))
        if change:
            yield path, WIDENED if change > 0 else NARROWED, detail
    elif old != new:
        yield path, CHANGED, detail


def _enum(path: str, old: Enum, new: Enum) -> Iterator[Finding]:
    if old["name"] != new["name"]:
        yield path, RENAMED, f"{old['name']} to {new['name']}"
    gone = [symbol for symbol in old["symbols"] if symbol not in new["symbols"]]
    come = [symbol for symbol in new["symbols"] if symbol not in old["symbols"]]
    if gone:
        yield path, SYMBOL_REMOVED, ", ".join(gone)
    if come and old.get("default") is None:
        yield path, SYMBOL_ADDED, ", ".join(come)


# ---- One schema by itself --------------------------------------------------------------------------------------------


def _misfits(schema: Record) -> Iterator[Finding]:
    known = definitions(schema)
    for defined in known.values():
        if defined["type"] == "enum":
            if defined.get("default") not in defined["symbols"]:
                yield _short(defined), NO_DEFAULT_SYMBOL, str(defined.get("default"))
            continue
        for slot in defined["fields"]:
            if "default" in slot and not _fits(slot["default"], slot["type"], known):
                path = slot["name"] if defined is schema else f"{_short(defined)}.{slot['name']}"
                yield path, MISFIT, repr(slot["default"])


def _fits(value: Json, kind: Type, known: Mapping[str, Record | Enum]) -> bool:
    """Whether a default is a value of its type; of a union's first branch."""
    kind = _defined(kind, known)
    if isinstance(kind, list):
        return _fits(value, kind[0], known)
    if isinstance(kind, str) or kind["type"] == "long":
        return _fits_primitive(value, "long" if isinstance(kind, dict) else kind)
    if kind["type"] == "enum":
        return value in kind["symbols"]
    if kind["type"] == "array":
        return isinstance(value, list) and all(_fits(each, kind["items"], known) for each in value)
    if not isinstance(value, dict):
        return False
    if kind["type"] == "map":
        return all(_fits(each, kind["values"], known) for each in value.values())
    return all(
        _fits(value[slot["name"]], slot["type"], known) if slot["name"] in value else "default" in slot
        for slot in kind["fields"]
    )


def _fits_primitive(value: Json, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("string", "bytes"):
        return isinstance(value, str)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (kind in ("float", "double") and isinstance(value, float))


def _by_name(record: Record) -> dict[str, Slot]:
    return {slot["name"]: slot for slot in record["fields"]}


def _branches(kind: Type) -> list[Type]:
    return kind if isinstance(kind, list) else [kind]


def _defined(kind: Type, known: Mapping[str, Record | Enum]) -> Type:
    return known.get(kind, kind) if isinstance(kind, str) else kind


def _short(defined: Record | Enum) -> str:
    return defined["name"].rpartition(".")[2]


def _said(kind: Type) -> str:
    """A type in a word or two."""
    if isinstance(kind, str):
        return kind
    if isinstance(kind, list):
        return " or ".join(_said(branch) for branch in kind)
    if kind["type"] == "record" or kind["type"] == "enum":
        return kind["name"]
    return kind["logicalType"] if kind["type"] == "long" else kind["type"]
