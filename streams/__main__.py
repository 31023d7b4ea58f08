"""The rewards worker as a process: `python -m streams`."""

import argparse
import sys

from infra import process, services, settings
from infra.slots import held_slot
from streams.app import ROLE, serve


def main(arguments: list[str] | None = None) -> int:
    """Score drafts until asked to stop."""
    parser = argparse.ArgumentParser(prog="iccm work rewards", description=__doc__)
    parser.add_argument("--slot", type=int, help="slot number; the first free one by default")
    options = parser.parse_args(arguments)
    return process.run(lambda: _serve(options.slot, settings.read()))


def _serve(wanted: int | None, chosen: settings.Settings) -> int:
    stop = process.stop_on_signals()
    kafka = services.endpoints(chosen).kafka
    with held_slot(chosen.home, chosen.namespace, ROLE, wanted) as slot:
        serve(kafka, chosen.namespace, slot, stop=stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
