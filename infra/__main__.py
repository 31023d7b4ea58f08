"""`iccm`: one command for everything. It reads arguments and hands them to the room that knows.

    iccm demo                       the whole loop on the lab, with progress and a learning curve
    iccm run start | list | show    runs: start or resume one, list them, show a curve
    iccm diff RUN RUN               are two runs equal? else the first difference
    iccm apps add DIR | list        applications
    iccm up | down | status         the embedded Kafka and PostgreSQL
    iccm work ROLE                  one worker: requirements, implement, run_tests, rewards, trainer, project
    iccm rebuild                    drop the tables and refold them from the log

Exit codes: 0 done, 1 a bug, 2 bad input, 3 a service is away, 4 fenced, 5 runs differ, 6 application refused, 7 busy,
130 interrupted. Settings are ICCM_* variables (README: Configuration).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

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


def _options(name: str, what: str, arguments: list[str], json_too: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"iccm {name}", description=what)
    if json_too:
        parser.add_argument("--json", action="store_true", help="machine-readable output")
    return parser.parse_args(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": _trainer("demo"),
    "run": _trainer("run"),
    "diff": _trainer("diff"),
    "apps": _apps,
    "up": _up,
    "down": _down,
    "status": _status,
    "work": _work,
    "rebuild": _rebuild,
}

if __name__ == "__main__":
    sys.exit(main())
