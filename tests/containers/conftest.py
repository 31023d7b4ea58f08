"""An engine, its images, and the servers that every test of this folder shares.

Without an engine, or without images, the tests are left out with a reason; TEST_ENGINE=required starts an engine where
none answers, and fails where that cannot be. TEST_IMAGES=built makes the images here instead of pulling public ones.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import NoReturn

import docker
import pytest
from docker.errors import APIError

from infra import broker, database
from infra.problems import ServiceUnavailable
from tests.containers import engine as engines
from tests.containers import servers
from tests.containers.images.build import images as built
from tests.containers.servers import Server

REQUIRED = os.environ.get("TEST_ENGINE") == "required"
BUILT = os.environ.get("TEST_IMAGES") == "built"
PUBLIC = {"kafka": f"apache/kafka:{broker.VERSION}", "postgres": f"pgvector/pgvector:pg{database.VERSION}"}


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The engine, and nothing of ours left in it afterwards."""
    with pytest.MonkeyPatch.context() as environment, ExitStack() as ending:
        if not engines.answers():
            environment.setenv("DOCKER_HOST", own_engine(ending))
        client = ending.enter_context(closing(docker.from_env()))
        yield client
        servers.remove_all(client)


def own_engine(ending: ExitStack) -> str:
    if not REQUIRED:
        absent("no container engine answers here")
    try:
        return ending.enter_context(engines.private())
    except ServiceUnavailable as unavailable:
        absent(str(unavailable))


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> Mapping[str, str]:
    """The image of each server."""
    return built(engine, print) if BUILT else {name: pulled(engine, image) for name, image in PUBLIC.items()}


def pulled(client: docker.DockerClient, image: str) -> str:
    try:
        if not client.images.list(name=image):
            client.images.pull(image)
    except APIError as refused:
        absent(f"{image} cannot be pulled ({refused.explanation}); TEST_IMAGES=built makes one on Debian")
    return image


def absent(why: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(f"TEST_ENGINE=required: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def broker_container(images: Mapping[str, str]) -> Iterator[Server]:
    with servers.kafka(images["kafka"]) as server:
        yield server


@pytest.fixture(scope="session")
def database_container(images: Mapping[str, str]) -> Iterator[Server]:
    with servers.postgres(images["postgres"]) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(broker_container: Server) -> str:
    """Its address, under the name by which tests ask for the embedded broker's."""
    return broker_container.address
