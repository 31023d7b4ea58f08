"""Applications onto the log: `iccm apps add DIR`, `iccm apps list`, and the lab's family."""

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from infra import process, settings
from infra.log import Log
from infra.opening import running_log
from infra.problems import ApplicationRefused
from infra.sandbox.open import collect, open_sandbox
from infra.sandbox.suite import Sandbox
from producers.applications import from_directory, read_directory
from producers.family import lab_family
from producers.registration import register
from schemas.events import ApplicationRegistered, ApplicationRejected, ApplicationVerified, Split

VERIFICATION_RUNS = 5


def main(arguments: list[str] | None = None) -> int:
    """Add or list applications."""
    parser = argparse.ArgumentParser(prog="iccm apps", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="register a directory with a pytest suite")
    add.add_argument("directory", type=Path)
    add.add_argument("--split", choices=[str(each) for each in Split], default=str(Split.TRAIN))
    listing = commands.add_parser("list", help="applications on the log")
    listing.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    return process.run(lambda: _act(options, settings.read()))


def _act(options: argparse.Namespace, chosen: settings.Settings) -> int:
    if options.command == "add":
        read_directory(options.directory)  # what is refused is refused before anything starts
    with running_log(chosen) as log:
        if options.command == "list":
            return _list(log, options.json)
        application = add_directory(log, options.directory, Split(options.split), chosen.sandbox)
        print(f"{application.name}  {application.application_id}  {len(application.expected_test_ids)} tests")
        return 0


def add_directory(log: Log, directory: Path, split: Split, sandbox: str) -> ApplicationRegistered:
    """The directory's application, verified and on the log, or ApplicationRefused."""
    box = open_sandbox(sandbox)
    try:
        application = from_directory(
            directory, split=split, collect=lambda s, t: collect(box, s, t), now=process.clock()
        )
    finally:
        box.close()
    rejected = register(
        log, [application], open_sandbox=lambda: open_sandbox(sandbox), runs=VERIFICATION_RUNS, clock=process.clock
    )
    if rejected:
        raise ApplicationRefused(f"{directory}: {rejected[0].reason}", "its suite must pass on its own source first")
    return application


def add_lab(log: Log, names: Collection[str], open_box: Callable[[], Sandbox]) -> None:
    """The lab's applications of these names on the log, or the whole family under its own name.

    Their expected values were made by running their sources, so one run in the sandbox verifies them.
    """
    family = [app for app in lab_family(process.clock()) if app.family in names or app.name in names]
    register(log, family, open_sandbox=open_box, runs=1, clock=process.clock)


def _list(log: Log, as_json: bool) -> int:
    rows = [_row(app, state) for app, state in _applications(log)]
    if as_json:
        print(json.dumps(rows, indent=1))
    for row in rows if not as_json else ():
        print(
            f"{row['application_id'][:12]}  {row['state']:<10} {row['split']:<9} {row['tests']:>5} tests  {row['name']}"
        )
    return 0


def _applications(log: Log) -> Sequence[tuple[ApplicationRegistered, str]]:
    registered: dict[str, ApplicationRegistered] = {}
    state: dict[str, str] = {}
    for record in log.replay((ApplicationRegistered, ApplicationVerified, ApplicationRejected)):
        match record.event:
            case ApplicationRegistered() as app:
                registered.setdefault(app.application_id, app)
            case ApplicationVerified(application_id=each):
                state[each] = "verified"
            case ApplicationRejected(application_id=each):
                state.setdefault(each, "rejected")
    return [(app, state.get(each, "registered")) for each, app in registered.items()]


def _row(app: ApplicationRegistered, state: str) -> dict[str, str]:
    return {
        "application_id": app.application_id,
        "name": app.name,
        "family": app.family,
        "split": app.split,
        "licence": app.licence,
        "tests": str(len(app.expected_test_ids)),
        "state": state,
    }


if __name__ == "__main__":
    sys.exit(main())
