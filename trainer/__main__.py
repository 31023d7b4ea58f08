"""Runs: the trainer as a process, `iccm run`, `fork`, `demo` and `diff`, and the recipe of the lab's weights."""

import argparse
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten

from infra import process, services, settings
from infra.blobs import Blobs
from infra.lab.orchestra import FAMILY, WEIGHTS, filled_in
from infra.log import Log
from infra.memory import MemoryLog
from infra.opening import opened_log
from infra.problems import BadInput
from infra.runs import lineage, named, runs_on, updates_of
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Sandbox
from infra.settings import Settings
from infra.specification import as_text, changed, specification
from schemas.events import (
    ApplicationRegistered,
    ApplicationVerified,
    Author,
    ImplementationWritten,
    RunEnded,
    RunStarted,
    Specification,
    Split,
    SuiteRan,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from trainer import conduct, demo, forks, views
from trainer.forks import Origin


def main(arguments: list[str] | None = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    return process.run(lambda: int(options.act(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="iccm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _demo_options(commands.add_parser("demo", help="the whole loop on the lab, with progress and a learning curve"))
    run = commands.add_parser("run", help="start, list or show runs").add_subparsers(dest="what", required=True)
    _start_options(run.add_parser("start", help="start a run, or go on with the open one of equal specification"))
    listing = run.add_parser("list", help="runs on the log")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(act=views.listing)
    show = run.add_parser("show", help="the curve of one run, and what its answers cost")
    show.add_argument("run", nargs="?", default="latest")
    show.add_argument("--json", action="store_true")
    show.set_defaults(act=views.show)
    diff = commands.add_parser("diff", help="are two runs equal? else the first difference (exit code 5)")
    diff.add_argument("runs", nargs=2, metavar="RUN", help="a run id, the beginning of one, latest, or HOME:RUN")
    diff.set_defaults(act=views.diff)
    _fork_options(commands.add_parser("fork", help="go on from an update of a run, with a change, as a new run"))
    train = commands.add_parser("train", help="the trainer of one run, as a process")
    train.add_argument("run")
    train.add_argument("--specification", type=Path, required=True)
    train.add_argument("--parent", metavar="RUN", help="of a fork: the run it begins from")
    train.add_argument("--at", type=int, default=0, metavar="STEP", help="of a fork: the newest update it shares")
    train.add_argument("--label", default="", metavar="NAME", help="of a fork: its name")
    train.set_defaults(act=_train)
    pretrain = commands.add_parser("pretrain", help="make the lab's weights again")
    pretrain.add_argument("--into", type=Path, help="a folder; the committed weights by default")
    pretrain.set_defaults(act=_pretrain)
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=Specification().seed)
    parser.add_argument("--rounds", type=int, default=Specification().rounds)
    parser.add_argument("--json", metavar="FILE", help="write the curve; - for standard output")
    parser.set_defaults(act=_demo)


def _start_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--specification", type=Path, metavar="FILE", help="a YAML file; --show prints the default")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one number of it")
    parser.add_argument("--apps", nargs="+", metavar="NAME", help="families, names, or directories with a pytest suite")
    parser.add_argument("--control", choices=["positive", "negative"], help="the source itself, or nothing, as rebuild")
    parser.add_argument("--in-memory", action="store_true", help="one process, no Kafka; the log is gone at the end")
    parser.add_argument("--show", action="store_true", help="print the specification and end")
    parser.add_argument("--json", metavar="FILE", help="write the curve; - for standard output")
    parser.set_defaults(act=_start)


def _fork_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A new run that begins with the policy of RUN after update STEP (weights, moments, random state) and plays on "
        "under RUN's specification with the changes given. With none it repeats what RUN did from there."
    )
    parser.add_argument("run", metavar="RUN", help="a run id, the beginning of one, a label, or latest")
    parser.add_argument("--at", type=int, required=True, metavar="STEP", help="an update of its weights; 0: untrained")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change one number of it")
    parser.add_argument("--into", required=True, metavar="NAME", help="what the new run is called")
    parser.add_argument("--json", metavar="FILE", help="write the curve; - for standard output")
    parser.set_defaults(act=_fork)


# ---- starting runs -------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    changes = [f"seed={options.seed}", f"rounds={options.rounds}"]
    return _drive(specification(changes=changes), settings.read(), options.json, demo.Display(), closing=True)


def _start(options: argparse.Namespace) -> int:
    spec = _specified(options)
    if options.show:
        print(as_text(spec), end="")
        return 0
    if options.in_memory:
        return _in_memory(spec, settings.read(), options.json)
    return _drive(spec, settings.read(), options.json, demo.Display(), closing=False)


def _specified(options: argparse.Namespace) -> Specification:
    changes = list(options.set)
    if options.control:
        changes += [f"author={options.control}", "rounds=0"]
    if options.apps:
        changes.append(f"applications={json.dumps(options.apps)}")
    return specification(options.specification, changes)


def _drive(spec: Specification, chosen: Settings, json_file: str | None, display: demo.Display, closing: bool) -> int:
    """Services, applications, one process per role, progress, and what is to be said at the end."""
    _refuse_before_start(spec)
    with _driving(chosen) as driver:
        spec = filled_in(_with_applications(driver.log, spec, chosen))
        run = conduct.choose_run(driver.log, spec, process.clock(), process.say)
        return driver.drive(run, conduct.role_commands(chosen.home, run.run_id, spec), json_file, display, closing)


@dataclass(frozen=True, slots=True)
class _Driver:
    """This home's services and log, while no other command drives a run here."""

    chosen: Settings
    found: services.Endpoints
    log: Log
    stop: Callable[[], bool]

    def drive(
        self,
        run: conduct.Chosen,
        commands: dict[str, list[str]],
        json_file: str | None,
        display: demo.Display,
        closing: bool,
    ) -> int:
        """The run to its end, or to Ctrl-C; then what is to be said of it."""
        ended = conduct.conduct(
            self.log,
            run,
            commands,
            home=self.chosen.home,
            environment=_environment(self.chosen, self.found),
            stop=self.stop,
            show=display.show,
            say=process.say,
        )
        if ended is None:
            process.say("stopped; the same command goes on from here")
            return process.INTERRUPTED
        return demo.close(display.story, ended, self.chosen.home, json_file, closing)


@contextmanager
def _driving(chosen: Settings) -> Iterator[_Driver]:
    stop = process.stop_on_signals()
    with (
        conduct.sole_conductor(chosen.home),
        services.running(chosen, say=process.say) as found,
        opened_log(chosen, found) as log,
    ):
        yield _Driver(chosen, found, log, stop)


def _fork(options: argparse.Namespace) -> int:
    chosen = settings.read()
    with _driving(chosen) as driver:
        found = runs_on(driver.log)
        line = lineage(found, named(found, options.run))
        origin = forks.origin(line, options.at, options.into)
        cut = updates_of(line).get(origin.step)
        spec = _forked(driver.log, line[-1].started.specification, options.set, chosen, cut.round if cut else 0)
        run = conduct.choose_fork_on(driver.log, found, origin, spec, process.say)
        commands = conduct.role_commands(chosen.home, run.run_id, spec, origin)
        return driver.drive(run, commands, options.json, demo.Display(), closing=False)


def _forked(log: Log, parent: Specification, asked: list[str], chosen: Settings, after: int) -> Specification:
    """The parent's specification with the changes asked for, once it is sure that the policy can go on under it."""
    spec = changed(parent, asked)
    _refuse_before_start(spec)
    if spec.applications != parent.applications:
        spec = _with_applications(log, spec, chosen)
    spec = filled_in(spec)
    forks.require_forkable(parent, spec, after)
    for name, before, now in forks.changes(parent, spec):
        process.say(f"  {name}: {shorten(str(before), 60)} -> {shorten(str(now), 60)}")
    return spec


def _with_applications(log: Log, spec: Specification, chosen: Settings) -> Specification:
    """The specification with every application it names on the log; directories become names of their content."""
    from producers.__main__ import add_directory, add_lab

    if any(each.split("/")[0] == FAMILY for each in spec.applications):
        process.say("registering the lab's applications")
        add_lab(log, spec.applications, lambda: open_sandbox(chosen.sandbox))
    names = [_registered_name(log, each, chosen.sandbox, add_directory) for each in spec.applications]
    return replace(spec, applications=tuple(names))


def _registered_name(
    log: Log, name: str, sandbox: str, add: Callable[[Log, Path, Split, str], ApplicationRegistered]
) -> str:
    return add(log, Path(name), Split.TRAIN, sandbox).application_id if _is_directory(name) else name


def _is_directory(name: str) -> bool:
    return Path(name).is_dir() and name.split("/")[0] != FAMILY


def _refuse_before_start(spec: Specification) -> None:
    """What the lab cannot do is said before anything starts."""
    for name in spec.applications:
        if _is_directory(name) and spec.author is Author.ORCHESTRA:
            raise BadInput(
                f"{name} is an application of your own, and the lab's models understand list programs only",
                "run it with --control positive or --control negative, or name the family `lab`",
            )


def _environment(chosen: Settings, found: services.Endpoints) -> dict[str, str]:
    return {
        **os.environ,
        "ICCM_HOME": str(chosen.home),
        "ICCM_KAFKA": found.kafka,
        "ICCM_POSTGRES": found.postgres,
        "PYTHONUNBUFFERED": "1",
    }


# ---- the trainer of one run ----------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    chosen, stop = settings.read(), process.stop_on_signals()
    spec = filled_in(specification(options.specification))
    with opened_log(chosen, services.endpoints(chosen)) as log:
        blobs = Blobs(services.blobs_url(chosen))
        origin = Origin(run_id=options.parent, step=options.at, label=options.label) if options.parent else None
        _play(log, blobs, options.run, spec, f"{chosen.namespace}.{options.run}.trainer", stop, origin)
    return 0


def _play(
    log: Log,
    blobs: Blobs,
    run_id: str,
    spec: Specification,
    writer: str,
    stop: Callable[[], bool],
    origin: Origin | None = None,
) -> RunEnded | None:
    """The run on the log with this id, or a new one, played to its end or until `stop()`."""
    from trainer.policy import Policy
    from trainer.train import train

    policy = Policy(WEIGHTS / "cet-d", learning=spec.learning, seed=spec.seed)
    found = {run.run_id: run.started for run in runs_on(log)}
    applications = _drawable(log, spec)
    ids = tuple(each.application_id for each in applications)
    started = found.get(run_id) or _begin(log, run_id, spec, ids)
    if origin is not None and run_id not in found:
        started = forks.begun(started, origin, found[origin.run_id])
    return train(
        log,
        blobs,
        started,
        applications,
        policy,
        writer=writer,
        clock=process.clock,
        stop=stop,
        say=process.say,
    )


def _begin(log: Log, run_id: str, spec: Specification, application_ids: tuple[str, ...]) -> RunStarted:
    from trainer.policy import numerics

    return RunStarted(
        event_id=event_id(run_id, "run", "start"),
        recorded_at=process.clock(),
        run_id=run_id,
        specification=spec,
        application_ids=application_ids,
        numerics=numerics(),
        code_version=version("iccm"),
        offsets=log.end_offsets(),
    )


def _drawable(log: Log, spec: Specification) -> list[ApplicationRegistered]:
    """The verified applications that the specification names by family, name or id; in the order of their names."""
    wanted, verified = set(spec.applications), set()
    found: dict[str, ApplicationRegistered] = {}
    for record in log.replay((ApplicationRegistered, ApplicationVerified)):
        match record.event:
            case ApplicationVerified(application_id=each):
                verified.add(each)
            case ApplicationRegistered() as app if wanted & {app.family, app.name, app.application_id}:
                found.setdefault(app.application_id, app)
    drawable = sorted((app for each, app in found.items() if each in verified), key=lambda app: (app.name, app.origin))
    missing = wanted - {name for app in drawable for name in (app.family, app.name, app.application_id)}
    if missing:
        raise BadInput(f"no verified application is called {sorted(missing)[0]!r}", "`iccm apps list` names them")
    return drawable


def _pretrain(options: argparse.Namespace) -> int:
    from trainer.pretrain import RECIPES, pretrain

    for name in RECIPES:
        process.say(f"{name}: {RECIPES[name]}")
        pretrain(
            name,
            folder=options.into or WEIGHTS,
            progress=lambda step, loss: process.say(f"  step {step:>5}  loss {loss:.4f}"),
        )
    return 0


# ---- one process, no Kafka -----------------------------------------------------------------------------------------


def _in_memory(spec: Specification, chosen: Settings, json_file: str | None) -> int:
    """The same steps over the log in lists, one thread per role: for experiments with the recipe."""
    _refuse_before_start(spec)
    interrupted, over = process.stop_on_signals(), threading.Event()
    log, display, blobs = MemoryLog(), demo.Display(), Blobs(services.blobs_url(chosen))
    spec = filled_in(_with_applications(log, spec, chosen))
    sandbox = open_sandbox(chosen.sandbox)
    threads = [threading.Thread(target=work) for work in _roles_in_memory(log, blobs, sandbox, over.is_set)]
    threads.append(threading.Thread(target=_show_all, args=(log, display, over.is_set)))
    for thread in threads:
        thread.start()
    try:
        ended = _play(log, blobs, str(uuid.uuid4()), spec, "in-memory.trainer", interrupted)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sandbox.close()
    if ended is None:
        return process.INTERRUPTED
    return demo.close(display.story, ended, chosen.home, json_file, closing=False)


def _roles_in_memory(log: Log, blobs: Blobs, sandbox: Sandbox, stop: Callable[[], bool]) -> list[Callable[[], None]]:
    from consumers import jobs
    from infra.lab.models import LabModel
    from infra.lab.programs import IMPLEMENTERS
    from streams.scoring import score_all

    application, clock = log.refer(ApplicationRegistered), process.clock
    policy = LabModel("cet-d", adapters=blobs.get)
    models = {model.name: model for model in map(LabModel, IMPLEMENTERS)}
    working = (
        jobs.requirements_job(policy=policy, application=application, clock=clock),
        jobs.implement_job(
            models=models, application=application, answers=log.answers(ImplementationWritten), clock=clock
        ),
        jobs.run_tests_job(
            sandbox=sandbox,
            environment=sandbox.environment,
            application=application,
            answers=log.answers(SuiteRan),
            clock=clock,
        ),
    )
    return [
        *(partial(log.work, job, stop=stop) for job in working),
        partial(score_all, log, stop=stop, clock=clock),
    ]


def _show_all(log: Log, display: demo.Display, stop: Callable[[], bool]) -> None:
    for batch in log.follow(KINDS, stop=stop):
        for record in batch:
            if record.event is not None and record.event.run_id is not None:
                display.show(record.event)


if __name__ == "__main__":
    sys.exit(main())
