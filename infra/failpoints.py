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
    "rewards": ("taken", "scored", "sent", "acknowledged"),
    "trainer": (
        "opened",
        "read_to_end",
        "restored",
        "learnt",
        "checkpoint_written",
        "transaction_begun",
        "produced",
        "committed",
        "update_published",
    ),
    "project": ("sql_begun", "rows_written", "offsets_written", "sql_committed"),
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
