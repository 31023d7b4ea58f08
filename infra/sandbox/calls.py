"""Runs a table of calls, as the candidate: imports one function, calls it, and tells what came back. It judges nothing.

Told, one value each: ("unusable", why) where the function cannot be had; per call ("returned", index, seconds, bytes of
the value), ("unplain", index, seconds, why) or ("raised", index, seconds, what); ("exhausted",) at a MemoryError;
("end",) last. Expected values are not here.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from infra.sandbox import wire
from infra.sandbox.cell import Place

MAX_VALUE_BYTES = 256 * 1024
MAX_MESSAGE = 500


def warm() -> None:
    """Nothing is loaded late."""


def run(
    task: Sequence[object],
    place: Place,  # noqa: ARG001 - the files are on sys.path already
    tell: Callable[[object], None],
    leave: Callable[[int], NoReturn] = os._exit,
) -> None:
    """Play the task (module, function, calls) and leave."""
    module, function, *calls = task
    try:
        _play(str(module), str(function), calls, tell)
    except MemoryError:
        tell(("exhausted",))
    flush()
    tell(("end",))
    leave(0)


def _play(module: str, function: str, calls: Sequence[object], tell: Callable[[object], None]) -> None:
    try:
        target = getattr(importlib.import_module(module), function)
    except MemoryError:
        raise
    except BaseException as problem:  # candidate code: whatever it raises, SystemExit too, is told
        tell(("unusable", describe(problem)))
        return
    for index, arguments in enumerate(calls):
        assert isinstance(arguments, bytes)
        tell(_call(target, index, arguments))


def _call(target: Callable[..., object], index: int, arguments: bytes) -> tuple[object, ...]:
    fresh = wire.decode(arguments)
    assert isinstance(fresh, list)
    began = time.perf_counter()
    try:
        value = target(*fresh)
    except MemoryError:
        raise
    except BaseException as problem:  # as above
        return "raised", index, time.perf_counter() - began, describe(problem)
    seconds = time.perf_counter() - began
    try:
        data = wire.encode(value)
    except wire.NotPlain as problem:
        return "unplain", index, seconds, str(problem)
    if len(data) > MAX_VALUE_BYTES:
        return "unplain", index, seconds, f"a value of {len(data)} bytes, {MAX_VALUE_BYTES} is the most"
    return "returned", index, seconds, data


def describe(problem: BaseException) -> str:
    """The exception's class and message, bounded, whatever its __str__ does."""
    try:
        text = str(problem)
    except BaseException:  # candidate code again
        text = "(its message cannot be read)"
    return f"{type(problem).__name__}: {text}"[:MAX_MESSAGE]


def flush() -> None:
    """Send on what Python still holds of the output."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                return  # the candidate closed it: its output is its own loss
