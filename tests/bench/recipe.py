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
        "spread": last["spread"],
        "unseen_before": first["unseen_model"],
        "unseen": last["unseen_model"],
        "seconds": last["seconds"],
    }


def table(rows: Sequence[dict[str, float]]) -> str:
    lines = [
        "| variance weight | seed | before | after | spread | unseen before | unseen after |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['variance']:g} | {row['seed']:g} | {row['before']:.3f} | {row['after']:.3f} "
            f"| {row['spread']:.3f} | {row['unseen_before']:.3f} | {row['unseen']:.3f} |"
        )
    for variance in dict.fromkeys(row["variance"] for row in rows):
        chosen = [row for row in rows if row["variance"] == variance]
        middle = {key: median(row[key] for row in chosen) for key in chosen[0]}
        lines.append(
            f"| {variance:g} | median | {middle['before']:.3f} | {middle['after']:.3f} "
            f"| {middle['spread']:.3f} | {middle['unseen_before']:.3f} | {middle['unseen']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
