"""`make controls`: what the demo draws beside its curve, measured and written to infra/lab/controls.json.

The ceiling is what held-out programs are worth when told in the words that every implementer knows. The other control
trains on rewards dealt out at random: the same machinery, nothing to learn, so its curve must stay flat.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from infra.lab import programs
from infra.lab.models import LabModel
from infra.lab.orchestra import REWARDED
from infra.models import Answer, Prompt
from schemas.events import Sampling, Specification, Split
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
    pool = programs.pool(Split.VALIDATE, 120)
    texts = [programs.requirements(program, programs.common) for program in pool]
    return fmean(passed(name.removeprefix("lab/"), texts, pool) for name in REWARDED)


def passed(folder: str, texts: list[str], pool: list[programs.Program]) -> float:
    sampling = Sampling(temperature=0.0, max_tokens=Specification().rebuild_sampling.max_tokens)
    answers = LabModel(folder).answer([Prompt(text=text, sampling=sampling, seed=0) for text in texts])
    return fmean(
        isinstance(answer, Answer) and answer.text == programs.source(program)
        for answer, program in zip(answers, pool, strict=True)
    )


if __name__ == "__main__":
    main()
