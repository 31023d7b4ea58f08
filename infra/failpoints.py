"""Named places at which a process may die: the boundaries between which everything must be repeatable.

`reached` does nothing in the product. A test build arms it with a hook (to kill the process, or to record a history);
no setting and no option of the product can.
"""

from collections.abc import Callable

# role: the places its processes pass. A test kills at each of them and holds that no other is ever reached.
WORKER = (
    "opened",  # the transactional name is ours, what a predecessor left open is aborted
    "joined",
    "polled",
    "effect_done",
    "transaction_begun",
    "produced",
    "offsets_sent",
    "committed",
)
PLACES: dict[str, tuple[str, ...]] = {
    "requirements": WORKER,
    "implement": WORKER,
    "run_tests": WORKER,
    "rewards": ("joined", "taken", "scored", "sent", "acknowledged", "committed"),
    "trainer": (
        "opened",
        "read_to_end",
        "restored",
        "taken",
        "learnt",
        "parts_written",  # of a checkpoint, and not yet the manifest that names them
        "checkpoint_written",
        "transaction_begun",
        "produced",
        "committed",
        "update_published",
    ),
    "project": ("elected", "sql_begun", "rows_written", "offsets_written", "sql_committed"),
    "conductor": ("judged", "registered", "chosen", "update_seen", "end_seen"),
}

Hook = Callable[[str, str, object], None]  # role, place, what is at stake there

_hooks: list[Hook] = []


def reached(role: str, place: str, about: object = None) -> None:
    """A process of this role stands at this place."""
    for hook in _hooks:
        hook(role, place, about)


def arm(hook: Hook) -> None:
    """From now on `hook` hears of every place reached. For test builds alone."""
    _hooks.append(hook)
