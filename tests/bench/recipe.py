"""`make recipe`: the recipe on several seeds, with and without the variance term, as the README's table.

Each run is the product's own (`iccm run start --in-memory`), one process, two at a time; a run takes minutes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

FOLDER = Path("build/recipe")
COLUMNS = ("before", "after", "spread_before", "spread", "unseen_before", "unseen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--variance", type=float, nargs="+", default=[1.0, 0.0])
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = [(seed, variance) for variance in options.variance for seed in options.seeds]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda each: result(*each), wanted))
    print(table(rows))
    Path("build/recipe.json").write_text(json.dumps(rows, indent=1) + "\n")


def result(seed: int, variance: float) -> dict[str, float]:
    """First and last test of one run: 300 held-out programs, greedy."""
    out = FOLDER / f"seed{seed}-variance{variance:g}.json"
    if not out.exists():
        command = [sys.executable, "-m", "infra", "run", "start", "--in-memory", "--json", str(out)]
        changes = ["--set", f"seed={seed}", "--set", f"reward.variance={variance}"]
        with (FOLDER / f"{out.stem}.log").open("w") as log:
            subprocess.run([*command, *changes], check=True, stderr=log)
    first, *_, last = json.loads(out.read_text())["test"]
    return {
        "seed": seed,
        "variance": variance,
        "before": first["held_out_pass_rate"],
        "after": last["held_out_pass_rate"],
        "spread_before": first["spread"],
        "spread": last["spread"],
        "unseen_before": first["unseen_model"],
        "unseen": last["unseen_model"],
        "seconds": last["seconds"],
    }


def table(rows: Sequence[dict[str, float]]) -> str:
    lines = [
        "| variance weight | seed | before | after | spread before | spread after | fourth before | fourth after |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [line(f"| {row['variance']:g} | {row['seed']:g} |", row) for row in rows]
    for variance in dict.fromkeys(row["variance"] for row in rows):
        chosen = [row for row in rows if row["variance"] == variance]
        middle = {key: median(row[key] for row in chosen) for key in chosen[0]}
        lines.append(line(f"| {variance:g} | median |", middle))
    return "\n".join(lines)


def line(begin: str, row: dict[str, float]) -> str:
    return " ".join([begin, *(f"{row[column]:.3f} |" for column in COLUMNS)])


if __name__ == "__main__":
    main()
