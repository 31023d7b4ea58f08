"""Where a round's time goes: a short real run on Kafka, one process per role, as `iccm run start` makes it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from trainer.reports import BUDGET_SECONDS, STAGES

ROUNDS = 12
WARM = 2  # the first rounds pay for loading models


def measure() -> list[dict[str, object]]:
    """Median seconds of each stage of a training round, against its budget."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [sys.executable, "-m", "infra", "run", "start", "--set", f"rounds={ROUNDS}", "--json", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "ICCM_HOME": f"{folder}/home"})
        rounds = json.loads(out.read_text())["stage_seconds"]
    warm = [stages for number, stages in rounds.items() if int(number) > WARM]
    medians = {stage: median(each[stage] for each in warm) for stage in STAGES}
    medians["round"] = median(sum(each.values()) for each in warm)
    budgets = {**BUDGET_SECONDS, "round": sum(BUDGET_SECONDS.values())}
    return [_row(stage, seconds, budgets[stage], len(warm)) for stage, seconds in medians.items()]


def _row(stage: str, seconds: float, budget: float, rounds: int) -> dict[str, object]:
    return {
        "name": f"a training round: {stage}",
        "value": seconds,
        "unit": "s",
        "against": f"its budget of {budget:.1f} s",
        "ratio": seconds / budget,
        "rounds": rounds,
    }
