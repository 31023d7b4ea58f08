"""What every test may ask for."""

from collections.abc import Iterator

import pytest

from infra import broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real broker that lives as long as the session."""
    with broker.running(tmp_path_factory.mktemp("kafka"), print) as bootstrap:
        yield bootstrap
