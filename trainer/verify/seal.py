"""A seal on this process: what asks models or runs candidates can no longer be imported in it.

It holds against our own code, not against code that means harm: it is a proof that a replay needs neither, and no box.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REFUSED = ("consumers", "producers", "infra.models", "infra.lab.models", "infra.sandbox")


class Sealed(ImportError):
    """Something that asks models or runs candidates was to be imported in a sealed process."""


class _Seal(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the shape finders have
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if is_refused(fullname):
            raise Sealed(f"{fullname} cannot be imported here: a replay asks no model and starts no sandbox")
        return None


def seal() -> None:
    """From now on no model and no sandbox can be imported. Raises Sealed where one has been imported already."""
    if loaded := sorted(filter(is_refused, sys.modules)):
        raise Sealed(f"{loaded[0]} was imported before the seal")
    sys.meta_path.insert(0, _Seal())


def is_refused(module: str) -> bool:
    """Whether the seal keeps this module out."""
    return any(module == each or module.startswith(f"{each}.") for each in REFUSED)
