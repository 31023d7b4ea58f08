"""The log that the settings name, opened for one command and closed with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from infra import process, services
from infra.kafka import KafkaLog
from infra.services import Endpoints
from infra.settings import Settings


@contextmanager
def opened_log(chosen: Settings, found: Endpoints, slot: int | None = None) -> Iterator[KafkaLog]:
    """The log on services that answer already."""
    log = KafkaLog(found.kafka, chosen.namespace, chosen.partitions, chosen.home, slot=slot)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def running_log(chosen: Settings) -> Iterator[KafkaLog]:
    """The log; embedded services that are not up are started, and stopped again with the command."""
    with services.running(chosen, say=process.say) as found, opened_log(chosen, found) as log:
        yield log
