"""The base model that every mutant is tried on."""

from tests.unit.trainer.conftest import small_base

__all__ = ["small_base"]
