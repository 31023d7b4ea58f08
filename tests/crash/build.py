"""The test build of the command line: `CRASH_PLAN=FOLDER python -m tests.crash.build MODULE ARGUMENTS...`.

It runs the product's own module, with a hook armed that notes every place reached and dies at the planned ones. The
processes of a run's roles come up in the same build, and are started again sooner and oftener than the product would.
"""

import os
import runpy
import sys
from pathlib import Path

from infra import failpoints, supervisor
from tests.crash.plan import VARIABLE, Fate, Plan

LONGEST_PAUSE_SECONDS = 0.4
PATIENCE = 10_000


def main(module: str, arguments: list[str]) -> None:
    """The module, as `python -m` would run it."""
    failpoints.arm(Fate(Plan(Path(os.environ[VARIABLE]))).hook())
    if module in ("infra", "trainer"):
        _conduct()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _conduct() -> None:
    from trainer import conduct

    conduct.PYTHON = (sys.executable, "-m", "tests.crash.build")
    conduct.PATIENCE = PATIENCE
    supervisor.LONGEST_PAUSE_SECONDS = LONGEST_PAUSE_SECONDS


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
