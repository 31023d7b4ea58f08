"""How every command of ours starts and ends: signals ask it to stop, problems become a clear line and an exit code."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from infra.problems import Problem

INTERRUPTED = 130


def stop_on_signals() -> Callable[[], bool]:
    """A question that turns true at the first SIGINT or SIGTERM. Work ends at the next safe point, nothing is lost."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:  # noqa: ARG001 - the shape signal handlers have
        asked.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked.is_set


def clock() -> datetime:
    """The time facts are recorded at."""
    return datetime.now(UTC)


def say(text: str) -> None:
    """One line for the person at the keyboard; standard output stays for results."""
    print(text, file=sys.stderr, flush=True)


def run(action: Callable[[], int]) -> int:
    """The exit code of `action`; a Problem is said in one line with its remedy."""
    try:
        return action()
    except Problem as problem:
        say(f"iccm: {problem}")
        return problem.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does; the rest has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
