"""Runs: the trainer as a process, `iccm run`, `iccm demo`, `iccm diff`, and the recipe of the lab's weights."""

import argparse
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from infra import process, services, settings
from infra.blobs import Blobs
from infra.lab.orchestra import FAMILY, WEIGHTS, filled_in
from infra.log import Log
from infra.memory import MemoryLog
from infra.opening import opened_log, running_log
from infra.problems import BadInput, RunsDiffer
from infra.runs import Run, facts_of, named, runs_on
from infra.sandbox.open import open_sandbox
from infra.sandbox.suite import Sandbox
from infra.settings import Settings
from infra.specification import as_text, specification
from schemas.equality import first_difference
from schemas.events import (
    ApplicationRegistered,
    ApplicationVerified,
    Author,
    Event,
    RunEnded,
    RunStarted,
    Specification,
    Split,
)
from schemas.identity import event_id
from schemas.topics import KINDS
from trainer import conduct, demo, reports


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
    listing.set_defaults(act=_list)
    show = run.add_parser("show", help="the curve of one run")
    show.add_argument("run", nargs="?", default="latest")
    show.add_argument("--json", action="store_true")
    show.set_defaults(act=_show)
    diff = commands.add_parser("diff", help="are two runs equal? else the first difference (exit code 5)")
    diff.add_argument("runs", nargs=2, metavar="RUN", help="a run id, the beginning of one, latest, or HOME:RUN")
    diff.set_defaults(act=_diff)
    train = commands.add_parser("train", help="the trainer of one run, as a process")
    train.add_argument("run")
    train.add_argument("--specification", type=Path, required=True)
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
    stop = process.stop_on_signals()
    with (
        conduct.sole_conductor(chosen.home),
        services.running(chosen, say=process.say) as found,
        opened_log(chosen, found) as log,
    ):
        spec = filled_in(_with_applications(log, spec, chosen))
        run = conduct.choose_run(log, spec, process.clock(), process.say)
        ended = conduct.conduct(
            log,
            run,
            conduct.role_commands(chosen.home, run.run_id, spec),
            home=chosen.home,
            environment=_environment(chosen, found),
            stop=stop,
            show=display.show,
            say=process.say,
        )
        if ended is None:
            process.say("stopped; the same command goes on from here")
            return process.INTERRUPTED
        return demo.close(display.story, ended, chosen.home, json_file, closing)


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


# ---- looking at runs -----------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    with running_log(settings.read()) as log:
        rows = [_row(run) for run in runs_on(log)]
    if options.json:
        print(json.dumps(rows, indent=1))
    for row in rows if not options.json else ():
        print("{run_id}  {started}  seed {seed:<6} round {rounds}/{of}  {state}".format(**row))
    return 0


def _row(run: Run) -> dict[str, object]:
    spec = run.started.specification
    return {
        "run_id": run.started.run_id,
        "started": run.started.recorded_at.isoformat(timespec="seconds"),
        "seed": spec.seed,
        "rounds": run.rounds,
        "of": spec.rounds,
        "state": str(run.ended.outcome) if run.ended else "open",
        "policy_digest": run.policy_digest,
    }


def _show(options: argparse.Namespace) -> int:
    with running_log(settings.read()) as log:
        run = named(runs_on(log), options.run)
        points = reports.curve(facts_of(log, run))
    if options.json:
        print(json.dumps({**_row(run), "curve": reports.as_plain(points)}, indent=1))
        return 0
    print(reports.chart(points))
    for point in points:
        print(reports.summary(point))
    return 0


def _diff(options: argparse.Namespace) -> int:
    left, right = (_named_facts(name) for name in options.runs)
    difference = first_difference(left, right)
    if difference is not None:
        raise RunsDiffer(f"the runs differ: {difference}")
    print(f"equal: {len(left)} facts, decided field by decided field")
    return 0


def _named_facts(name: str) -> list[Event]:
    """The facts of `RUN` here, or of `HOME:RUN` under another home; its services are started if they are not up."""
    home, colon, run = name.rpartition(":")
    chosen = replace(settings.read(), home=Path(home).absolute(), kafka="", postgres="") if colon else settings.read()
    with running_log(chosen) as log:
        return list(facts_of(log, named(runs_on(log), run)))


# ---- the trainer of one run ----------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    chosen, stop = settings.read(), process.stop_on_signals()
    spec = filled_in(specification(options.specification))
    with opened_log(chosen, services.endpoints(chosen)) as log:
        blobs = Blobs(services.blobs_url(chosen))
        _play(log, blobs, options.run, spec, f"{chosen.namespace}.{options.run}.trainer", stop)
    return 0


def _play(
    log: Log, blobs: Blobs, run_id: str, spec: Specification, writer: str, stop: Callable[[], bool]
) -> RunEnded | None:
    """The run on the log with this id, or a new one, played to its end or until `stop()`."""
    from trainer.policy import Policy
    from trainer.train import train

    policy = Policy(WEIGHTS / "cet-d", learning=spec.learning, seed=spec.seed)
    known = [run.started for run in runs_on(log) if run.started.run_id == run_id]
    applications = _drawable(log, spec)
    started = known[0] if known else _begin(log, run_id, spec, [each.application_id for each in applications])
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


def _begin(log: Log, run_id: str, spec: Specification, application_ids: list[str]) -> RunStarted:
    from trainer.policy import numerics

    return RunStarted(
        event_id=event_id(run_id, "run", "start"),
        recorded_at=process.clock(),
        run_id=run_id,
        specification=spec,
        application_ids=tuple(application_ids),
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
    from consumers.implement import Answered
    from consumers.run_tests import Judged
    from infra.lab.models import LabModel
    from infra.lab.programs import IMPLEMENTERS
    from streams.scoring import score_all

    application, clock = log.refer(ApplicationRegistered), process.clock
    policy = LabModel("cet-d", adapters=blobs.get)
    models = {model.name: model for model in map(LabModel, IMPLEMENTERS)}
    working = (
        jobs.requirements_job(policy=policy, application=application, clock=clock),
        jobs.implement_job(models=models, application=application, answered=Answered(), clock=clock),
        jobs.run_tests_job(
            sandbox=sandbox, environment=sandbox.environment, application=application, judged=Judged(), clock=clock
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
