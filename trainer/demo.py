"""What a run shows while it goes and when it is over: progress, the curve, an example, and where everything lies."""

import json
import sys
from pathlib import Path

from infra import plot
from infra.process import say
from schemas.events import Event, PolicyUpdated, Purpose, RunEnded, RunOutcome, RunStarted, ValidationCompleted
from trainer import reports
from trainer.reports import Point, Story

CONTROLS = Path(__file__).parent.parent / "infra" / "lab" / "controls.json"


class Display:
    """Progress as facts arrive: a line per validation, and on a terminal one line that is rewritten every round."""

    def __init__(self) -> None:
        self.story = Story()
        self._rounds = 0
        self._live = sys.stderr.isatty()

    def show(self, fact: Event) -> None:
        """Take in one fact of the run."""
        if not self.story.add(fact):
            return
        match fact:
            case RunStarted():
                self._rounds = fact.specification.rounds
                self._line(f"run {_title(fact)}  seed {fact.specification.seed}  {self._rounds} rounds")
            case PolicyUpdated():
                self._progress(fact)
            case ValidationCompleted():
                self._line(f"{fact.purpose:<9} {self._summary(fact)}")

    def _summary(self, fact: ValidationCompleted) -> str:
        return reports.summary(reports.curve(self.story.kept, fact.purpose)[-1])

    def _progress(self, fact: PolicyUpdated) -> None:
        gaps = self.story.stages.seconds().get(fact.round, {})
        spent = " ".join(f"{stage} {seconds:.1f}" for stage, seconds in gaps.items())
        events = sum(self.story.counts.values())
        text = f"round {fact.round}/{self._rounds}  reward {fact.mean_reward:.3f}  [{spent} s]  {events} events"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif fact.round == 1 or fact.round % 10 == 0:
            say(text)

    def _line(self, text: str) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr)
        say(text)


def _title(started: RunStarted) -> str:
    """A run by the beginning of its id, and of a fork also its name and where it begins."""
    run_id, parent = (started.run_id or "")[:8], (started.parent_run_id or "")[:8]
    return f"{run_id}  {started.label}, after update {started.parent_step} of {parent}" if parent else run_id


def close(story: Story, ended: RunEnded, home: Path, json_file: str | None, closing: bool) -> int:
    """The report of a run that is over. Returns the exit code: 0 for a finished run."""
    points = reports.curve(story.kept)
    if json_file:
        _write_json(story, ended, points, json_file)
    if ended.outcome is not RunOutcome.FINISHED:
        say(f"the run ended as {ended.outcome}: {ended.cause}")
        return 1
    if closing and points:
        _tell(story, ended, points, home)
    return 0


def _tell(story: Story, ended: RunEnded, points: list[Point], home: Path) -> None:
    controls = json.loads(CONTROLS.read_text())
    picture = home / "runs" / f"{ended.run_id}.png"
    plot.learning_curve(
        picture,
        [(point.round, point.held_out_pass_rate) for point in points],
        each={name: [(point.round, point.per_model[name]) for point in points] for name in points[0].per_model},
        watched=[(point.round, point.unseen_model) for point in points if point.unseen_model is not None],
        shuffled=[(each["round"], each["held_out_pass_rate"]) for each in controls["shuffled"]],
        ceiling=controls["ceiling"],
    )
    say("\nheld-out pass rate (● rewarded implementers, ○ the one never rewarded, ┄ ceiling of common words)\n")
    say(reports.chart(points, ceiling=controls["ceiling"]))
    for point in reports.curve(story.kept, Purpose.TEST):
        say(f"test set  {reports.summary(point)}")
    say(f"\nwhere a round's time goes\n{reports.stage_table(story.stages.seconds())}")
    _tell_example(story)
    say("\nfacts on the log: " + ", ".join(f"{count} {kind}" for kind, count in story.counts.items()))
    say(f"\npicture      {picture}\nthe log      {home / 'kafka'}")
    say(f"checkpoints  {home / 'blobs'}\nlogs         {home / 'logs'}")
    say("\nnext: iccm run show latest | iccm run list | iccm rebuild | iccm demo --seed 2 | iccm diff RUN RUN")


def _tell_example(story: Story) -> None:
    found = reports.example(story.kept)
    if found is not None:
        say(f"\none program before and after training ({found.application_id[:12]})")
        say(f"  before  {found.before_rate:.2f}  {_on_one_line(found.before)}")
        say(f"  after   {found.after_rate:.2f}  {_on_one_line(found.after)}")


def _on_one_line(text: str) -> str:
    return " | ".join(line.removeprefix("- ") for line in text.splitlines())


def _write_json(story: Story, ended: RunEnded, points: list[Point], file: str) -> None:
    content = {
        "run_id": ended.run_id,
        "outcome": ended.outcome,
        "policy_digest": ended.policy_digest,
        "curve": reports.as_plain(points),
        "test": reports.as_plain(reports.curve(story.kept, Purpose.TEST)),
        "baseline": reports.as_plain(reports.curve(story.kept, Purpose.BASELINE)),
        "facts": story.counts,
        "stage_seconds": story.stages.seconds(),
    }
    text = json.dumps(content, indent=1)
    if file == "-":
        print(text)
    else:
        Path(file).write_text(text + "\n")
