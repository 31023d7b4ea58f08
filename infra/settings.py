"""Where things are on this machine: one frozen dataclass, read once from ICCM_* variables, validated at the start.

Settings never shape a result; what does is the run's specification. Passwords inside addresses are never printed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from infra.problems import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Addresses, folders and sizes. Every field is the variable ICCM_<FIELD>."""

    home: Path = Path(".iccm")  # data, logs, checkpoints and lock files of the embedded services
    kafka: str = ""  # bootstrap servers of a real cluster; empty: the embedded broker under home
    postgres: str = ""  # a PostgreSQL connection string; empty: the embedded server under home
    namespace: str = "iccm"  # prefix of topics, groups and transactional ids
    partitions: int = 4  # of every topic; fixed at first start
    blobs: str = ""  # where checkpoints and adapters lie, any fsspec URL; empty: home/blobs
    sandbox: str = "auto"  # auto | namespaces | seccomp

    def shown(self) -> dict[str, str]:
        """Every setting as text fit for a log: passwords are struck out."""
        return {each.name: without_password(str(getattr(self, each.name))) for each in fields(self)}


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings named by ICCM_* variables; an unknown or invalid one is BadInput, by name."""
    known = {f"ICCM_{each.name.upper()}": each.name for each in fields(Settings)}
    given = {key: value for key, value in environment.items() if key.startswith("ICCM_")}
    for key in given:
        if key not in known:
            raise BadInput(f"unknown setting {key}", f"one of {', '.join(sorted(known))}")
    named = {known[key]: value for key, value in given.items()}
    return Settings(
        home=Path(named.get("home", ".iccm")).absolute(),
        kafka=named.get("kafka", ""),
        postgres=named.get("postgres", ""),
        namespace=_namespace(named.get("namespace", "iccm")),
        partitions=_partitions(named.get("partitions", "4")),
        blobs=named.get("blobs", ""),
        sandbox=_one_of("ICCM_SANDBOX", named.get("sandbox", "auto"), ("auto", "namespaces", "seccomp")),
    )


def without_password(text: str) -> str:
    """An address or connection string with its password struck out."""
    text = re.sub(r"(//[^:/@\s]*:)[^@\s]+@", r"\1***@", text)
    return re.sub(r"(password\s*=\s*)('[^']*'|\S+)", r"\1***", text, flags=re.IGNORECASE)


def _namespace(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,47}", value):
        raise BadInput(f"ICCM_NAMESPACE={value!r} is not a topic prefix", "use lower-case letters, digits, - and _")
    return value


def _partitions(value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 1000:
        raise BadInput(f"ICCM_PARTITIONS={value!r} is not a partition count", "use a whole number from 1 to 1000")
    return int(value)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise BadInput(f"{name}={value!r} is not known", f"one of {', '.join(allowed)}")
    return value
