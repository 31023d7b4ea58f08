"""A run's specification from a YAML file and `--set a.b=c`. An unknown key or a wrong value is BadInput, by name.

Only what a person may choose is read from outside; digests are filled in when the run starts.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from infra.problems import BadInput
from schemas.events import Specification

T = TypeVar("T")

FILLED_IN = frozenset({"policy_digest", "implementers"})

BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "rounds": (0, 1_000_000),
    "applications_per_round": (1, 100_000),
    "drafts_per_application": (1, 1_000),
    "validate_every": (1, 1_000_000),
    "draft_sampling.temperature": (0, 10),
    "draft_sampling.top_p": (1, 1),
    "draft_sampling.max_tokens": (1, 1_000_000),
    "rebuild_sampling.temperature": (0, 10),
    "rebuild_sampling.top_p": (1, 1),
    "rebuild_sampling.max_tokens": (1, 1_000_000),
    "reward.mean": (0, 100),
    "reward.variance": (0, 100),
    "learning.learning_rate": (0, 1),
    "learning.warmup_rounds": (0, 1_000_000),
    "learning.final_rate_share": (0, 1),
    "learning.kl_weight": (0, 100),
    "learning.clip_norm": (0, 1e9),
    "learning.lora_rank": (1, 1024),
    "learning.lora_alpha": (1, 4096),
}


def specification(file: Path | None = None, changes: Sequence[str] = ()) -> Specification:
    """The specification in `file`, else the defaults, with each `a.b=c` of `changes` applied in order."""
    tree = _load(file) if file else {}
    for change in changes:
        _apply(tree, change)
    return _specified(tree)


def _specified(tree: Mapping[str, Any]) -> Specification:
    spec = _record(Specification, tree, "")
    _check(spec, "")
    return spec


def changed(spec: Specification, changes: Sequence[str]) -> Specification:
    """`spec` with each `a.b=c` of `changes` applied in order; what is filled in when a run starts is left empty."""
    tree = yaml.safe_load(as_text(spec))
    for change in changes:
        _apply(tree, change)
    return _specified(tree)


def as_text(spec: Specification) -> str:
    """The specification as YAML that `specification` reads back to an equal one."""
    tree = dataclasses.asdict(spec)
    for key in FILLED_IN:
        del tree[key]
    return yaml.safe_dump(_plain(tree), sort_keys=False)


def _plain(value: object) -> object:
    match value:
        case StrEnum():
            return str(value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple():
            return [_plain(each) for each in value]
    return value


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}", "name a readable YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not YAML: {' '.join(str(error).split())}", "mend the line it names") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise BadInput(f"{file} holds a {type(tree).__name__}, not keys and values", "see `iccm run start --show`")
    return tree


def _apply(tree: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    if not equals or not path:
        raise BadInput(f"--set {change!r} is not a.b=c", "for example --set reward.variance=0.5")
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise BadInput(f"--set {path}: {parent} holds no keys", "see `iccm run start --show`")
    try:
        tree[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"--set {change!r}: the value is not YAML", "quote it") from error


def _record(kind: type[T], tree: Mapping[str, Any], path: str) -> T:
    hints = typing.get_type_hints(kind)
    names = [each.name for each in dataclasses.fields(kind) if each.name not in FILLED_IN]  # type: ignore[arg-type]
    for key in tree:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1)
            remedy = f"did you mean {path}{close[0]}?" if close else f"one of {', '.join(names)}"
            raise BadInput(f"unknown key {path}{key} in the specification", remedy)
    return kind(**{key: _value(hints[key], value, f"{path}{key}") for key, value in tree.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint` says, or BadInput. Hints are Specification's: records, tuples, scalars, enums."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadInput(f"{path} is {value!r}, it needs keys and values")
        return _record(hint, value, f"{path}.")
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(typing.get_args(hint)[0], each, path) for each in items)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _symbol(hint, value, path)
    if hint is float and type(value) in (int, float, str):
        return _number(value, path)
    if isinstance(hint, types.UnionType) or type(value) is not hint:
        raise BadInput(f"{path} is {value!r}, it must be of type {getattr(hint, '__name__', hint)}")
    return value


def _number(value: int | float | str, path: str) -> float:
    """YAML reads 3e-3 as text; a person means a number."""
    try:
        return float(value)
    except ValueError as error:
        raise BadInput(f"{path} is {value!r}, it must be a number") from error


def _symbol(kind: type[StrEnum], value: Any, path: str) -> StrEnum:
    try:
        return kind(value)
    except ValueError as error:
        raise BadInput(f"{path} is {value!r}", f"one of {', '.join(kind)}") from error


def _check(record: Any, path: str) -> None:
    for each in dataclasses.fields(record):
        value, name = getattr(record, each.name), f"{path}{each.name}"
        if dataclasses.is_dataclass(value):
            _check(value, f"{name}.")
        low, high = BOUNDS.get(name, (None, None))
        if low is not None and high is not None and not low <= value <= high:
            raise BadInput(f"{name} is {value}, it must lie between {low:g} and {high:g}")
    if isinstance(record, Specification) and record.learning.estimator != "rloo":
        raise BadInput(f"learning.estimator is {record.learning.estimator!r}", "rloo is the one there is")
