"""`iccm`: one command for everything. It reads arguments and hands them to the room that knows.

    iccm demo                       the whole loop on the lab, with progress and a learning curve
    iccm run start | list | show    runs: start or resume one, list them, show a curve
    iccm diff RUN RUN               are two runs equal? else the first difference
    iccm replay RUN | --file FILE   compute a run again from its facts, and compare bit for bit
    iccm rescore RUN --into NAME    new rewards from stored test results
    iccm fork RUN --at STEP         a new run that goes on from an update of another
    iccm why ID                     what a fact came from, and what came of it
    iccm export RUN FILE            a run in one file, to be verified elsewhere
    iccm import FILE                a run from a file onto this log
    iccm dlq list | show | replay   records that could not be worked on
    iccm apps add DIR | list        applications
    iccm up | down | status         the embedded Kafka and PostgreSQL
    iccm work ROLE                  one worker: requirements, implement, run_tests, rewards, trainer, project
    iccm rebuild                    drop the tables and refold them from the log

Exit codes: 0 done, 1 a bug, 2 bad input, 3 a service is away, 4 fenced, 5 runs differ, 6 application refused, 7 busy,
8 an archive is damaged, 9 a dead letter failed again, 130 interrupted. Settings are ICCM_* variables (README:
Configuration).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from infra import process, services, settings
from infra.problems import BadInput

WORKERS = ("requirements", "implement", "run_tests", "project")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        return process.run(_help)
    command, *rest = given
    return process.run(lambda: _command(command)(rest))


def _help() -> int:
    print((__doc__ or "").strip(), flush=True)
    return 0


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise BadInput(f"iccm has no command {name!r}", "`iccm --help` lists them")
    return COMMANDS[name]


# Each command imports its room when it is called: `iccm status` must not pay for torch.


def _up(arguments: list[str]) -> int:
    _options("up", "Start the embedded Kafka and PostgreSQL, or find them running.", arguments)
    found = services.up(settings.read(), say=process.say)
    print(f"kafka     {settings.without_password(found.kafka)}")
    print(f"postgres  {settings.without_password(found.postgres)}")
    return 0


def _down(arguments: list[str]) -> int:
    _options("down", "Stop what `iccm up` started. Data stays.", arguments)
    services.down(settings.read())
    return 0


def _status(arguments: list[str]) -> int:
    options = _options("status", "What is running here, and where.", arguments, json_too=True)
    chosen = settings.read()
    status = services.status(chosen)
    if options.json:
        print(json.dumps({"settings": chosen.shown(), "services": status.as_plain()}, indent=1))
        return 0
    for name, value in {**chosen.shown(), **status.as_text()}.items():
        print(f"{name:<12} {value}")
    return 0


def _work(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="iccm work", description="Run one worker until it is asked to stop.")
    parser.add_argument("role", choices=(*WORKERS, "rewards", "trainer"))
    role, rest = parser.parse_args(arguments[:1]).role, arguments[1:]
    if role == "rewards":
        from streams.__main__ import main as rewards

        return rewards(rest)
    if role == "trainer":
        from trainer.__main__ import main as trainer

        return trainer(["train", *rest])
    return _consumers(arguments)


def _rebuild(arguments: list[str]) -> int:
    return _consumers(["rebuild", *arguments])


def _consumers(arguments: list[str]) -> int:
    from consumers.__main__ import main as consumers

    return consumers(arguments)


def _apps(arguments: list[str]) -> int:
    from producers.__main__ import main as producers

    return producers(arguments)


def _trainer(command: str) -> Callable[[list[str]], int]:
    def call(arguments: list[str]) -> int:
        from trainer.__main__ import main as trainer

        return trainer([command, *arguments])

    return call


def _replay(arguments: list[str]) -> int:
    from trainer.verify.__main__ import main as verify

    return verify(arguments)


def _rescore(arguments: list[str]) -> int:
    from streams.rescore.__main__ import main as rescore

    return rescore(arguments)


def _dlq(arguments: list[str]) -> int:
    from consumers.dlq.__main__ import main as dlq

    return dlq(arguments)


def _why(arguments: list[str]) -> int:
    from infra.why import main as why

    return why(arguments)


# ---- a run in a file -----------------------------------------------------------------------------------------------


def _export(arguments: list[str]) -> int:
    from infra import transfer
    from infra.opening import running_log

    parser = argparse.ArgumentParser(
        prog="iccm export",
        description="Write a run that has ended into one file, with the runs it descends from and its applications. "
        "`iccm replay --file FILE` verifies it anywhere.",
    )
    parser.add_argument("run", help="a run id, the beginning of one, a label, or latest")
    parser.add_argument("file", type=Path)
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    options = parser.parse_args(arguments)
    if options.file.exists() and not options.force:
        raise BadInput(f"{options.file} is there already", "name another file, or replace it with --force")
    with running_log(settings.read()) as log:
        written = transfer.export(log, options.run, options.file, process.say)
    if options.json:
        print(json.dumps({"file": str(options.file), **asdict(written)}, indent=1))
        return 0
    print(f"{options.file}: run {written.run_id}, {written.events:,} facts in {written.size_bytes:,} bytes")
    print(f"sha256 of its content {written.digest}")
    return 0


def _import(arguments: list[str]) -> int:
    from infra import transfer
    from infra.opening import running_log

    parser = argparse.ArgumentParser(
        prog="iccm import",
        description="Write a run from a file onto this log, once every byte of the file has been checked. Its facts "
        "are then yours: answers among them are used again for equal work, so verify first what others give you "
        "(`iccm replay --file FILE`). What is on the log already is not written again.",
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    options = parser.parse_args(arguments)
    chosen, notes = settings.read(), transfer.checked(options.file)
    process.say(f"{options.file}: {notes.contents.events:,} facts, every byte as it was written")
    with running_log(chosen) as log:
        arrival = transfer.take_in(log, notes, chosen.namespace, process.say)
    told = {"written": arrival.written, "there": arrival.there, "left_out": arrival.left_out}
    if options.json:
        print(json.dumps({"file": str(options.file), **asdict(notes.contents), **told}, indent=1))
        return 0
    changed = f"{arrival.written:,} facts written" if arrival.written else "nothing changed"
    print(f"run {notes.contents.run_id}: {changed}, {arrival.there:,} were there, {arrival.left_out:,} left out")
    return 0


def _options(name: str, what: str, arguments: list[str], json_too: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"iccm {name}", description=what)
    if json_too:
        parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser.parse_args(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": _trainer("demo"),
    "run": _trainer("run"),
    "diff": _trainer("diff"),
    "replay": _replay,
    "rescore": _rescore,
    "fork": _trainer("fork"),
    "why": _why,
    "export": _export,
    "import": _import,
    "dlq": _dlq,
    "apps": _apps,
    "up": _up,
    "down": _down,
    "status": _status,
    "work": _work,
    "rebuild": _rebuild,
}

if __name__ == "__main__":
    sys.exit(main())
