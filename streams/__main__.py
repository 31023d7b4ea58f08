"""The rewards worker as a process: `python -m streams`."""

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial

from infra import process, services, settings
from infra.kafka import KafkaLog
from infra.log import Record
from infra.lost import stand_ins
from infra.slots import held_slot
from schemas.events import Event
from streams.app import ROLE, serve

# Facts refer to nothing that refers back: going through all that is open for cycles would double a recovery's time.
FEW_COLLECTIONS = (700, 10, 1000)


def main(arguments: list[str] | None = None) -> int:
    """Score drafts until asked to stop."""
    parser = argparse.ArgumentParser(prog="iccm work rewards", description=__doc__)
    parser.add_argument("--slot", type=int, help="slot number; the first free one by default")
    options = parser.parse_args(arguments)
    return process.run(lambda: _serve(options.slot, settings.read()))


def _serve(wanted: int | None, chosen: settings.Settings) -> int:
    stop = process.stop_on_signals()
    gc.set_threshold(*FEW_COLLECTIONS)
    kafka = services.endpoints(chosen).kafka
    with held_slot(chosen.home, chosen.namespace, ROLE, wanted) as slot:
        serve(kafka, chosen.namespace, slot, stop=stop, stand_ins=partial(_stand_ins, kafka, chosen))
    return 0


def _stand_ins(kafka: str, chosen: settings.Settings, record: Record) -> Sequence[Event]:
    """Rare enough that the log is opened for each record anew."""
    if not record.said_id:
        return ()
    log = KafkaLog(kafka, chosen.namespace, chosen.partitions, chosen.home)
    try:
        return stand_ins(log, process.clock, record)
    finally:
        log.close()


if __name__ == "__main__":
    sys.exit(main())
