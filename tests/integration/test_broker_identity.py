"""A broker starts whatever name chance gives its cluster."""

import uuid
from pathlib import Path

import pytest

from infra import broker


def test_a_cluster_id_that_begins_with_a_dash_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dashed = uuid.UUID(bytes=bytes([0b1111_1000]) + bytes(15))  # its base64 begins with "-"
    monkeypatch.setattr(broker.uuid, "uuid4", lambda: dashed)
    with broker.running(tmp_path, print) as bootstrap:
        assert bootstrap.startswith("127.0.0.1:")
    assert "cluster.id=-A" in (tmp_path / "kafka" / "data" / "meta.properties").read_text()
