"""Applications onto the log: each content once, and fit to be drawn only once it is verified."""

from collections.abc import Callable, Sequence
from datetime import datetime

from infra.failpoints import reached
from infra.log import Log
from infra.sandbox.suite import Sandbox
from producers.verification import verify
from schemas.events import ApplicationRegistered, ApplicationRejected, ApplicationVerified


def register(
    log: Log,
    applications: Sequence[ApplicationRegistered],
    *,
    open_sandbox: Callable[[], Sandbox],
    runs: int,
    clock: Callable[[], datetime],
) -> list[ApplicationRejected]:
    """Verify and publish those of `applications` that are not on the log yet. Returns what was rejected."""
    known = _verified_ids(log)
    fresh = [each for each in applications if each.application_id not in known]
    if not fresh:
        return []
    sandbox = open_sandbox()
    try:
        judged = list(verify(fresh, sandbox=sandbox, runs=runs, clock=clock))
    finally:
        sandbox.close()
    reached("conductor", "judged", fresh)
    log.publish([*fresh, *judged])
    reached("conductor", "registered", fresh)
    return [each for each in judged if isinstance(each, ApplicationRejected)]


def _verified_ids(log: Log) -> set[str]:
    records = log.replay((ApplicationVerified,))
    return {record.event.application_id for record in records if isinstance(record.event, ApplicationVerified)}
