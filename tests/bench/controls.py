"""`make controls`: what the demo draws beside its curve, measured and written to infra/lab/controls.json.

The ceiling is what held-out programs are worth when told in the words that every implementer knows. The other control
trains on rewards dealt out at random: the same machinery, nothing to learn, so its curve must stay flat.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from consumers.prompts import rebuilt_files
from infra.lab import programs
from infra.lab.models import LabModel
from infra.lab.orchestra import REWARDED
from infra.models import Answer, Prompt
from infra.process import clock
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Sandbox
from infra.sandbox.units import units
from producers.family import SIZES, lab_family
from schemas.events import ApplicationRegistered, Outcome, Specification, Split
from trainer.demo import CONTROLS

SHUFFLED = Path("build/shuffled.json")


def main() -> None:
    SHUFFLED.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "infra", "run", "start", "--in-memory", "--json", str(SHUFFLED)]
    subprocess.run([*command, "--set", "learning.shuffled_rewards=true"], check=True)
    curve = json.loads(SHUFFLED.read_text())["curve"]
    points = [{key: each[key] for key in ("round", "held_out_pass_rate")} for each in curve]
    content = {"made_by": "make controls", "seed": Specification().seed, "ceiling": ceiling(), "shuffled": points}
    CONTROLS.write_text(json.dumps(content, indent=1) + "\n")
    print(CONTROLS.read_text())


def ceiling() -> float:
    """Mean pass rate of the rewarded implementers on the validation programs, told in common words."""
    pool = programs.pool(Split.VALIDATE, SIZES[Split.VALIDATE])
    applications = lab_family(clock(), sizes={Split.VALIDATE: len(pool)})
    texts = [programs.requirements(program, programs.common) for program in pool]
    sandbox = open_sandbox()
    try:
        return fmean(rate for name in REWARDED for rate in rates(LabModel(folder(name)), texts, applications, sandbox))
    finally:
        sandbox.close()


def rates(
    model: LabModel, texts: list[str], applications: list[ApplicationRegistered], sandbox: Sandbox
) -> Iterator[float]:
    sampling = Specification().rebuild_sampling
    answers = model.answer([Prompt(text=text, sampling=sampling, seed=0) for text in texts])
    suites = [
        units(app)[0].suite(rebuilt_files(answer.text) if isinstance(answer, Answer) else ())
        for app, answer in zip(applications, answers, strict=True)
    ]
    for judgement in sandbox.run(suites):
        yield fmean(each.outcome is Outcome.PASSED for each in judgement.results) if judgement.results else 0.0


def folder(name: str) -> str:
    return name.removeprefix("lab/")


if __name__ == "__main__":
    main()
