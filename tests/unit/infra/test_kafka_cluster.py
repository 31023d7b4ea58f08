"""A cluster that is not settled yet is asked again; one that cannot be reached is named."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from infra.kafka.cluster import UNSETTLED, Cluster
from infra.problems import ServiceUnavailable


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("127.0.0.1:1", "nobody", 1)


@pytest.mark.parametrize("error", sorted(UNSETTLED))
def test_what_passes_by_itself_is_asked_again(cluster: Cluster, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cluster._admin, "list_topics", lambda **_: None, raising=False)

    def ask() -> str:
        asked.append(error)
        if len(asked) == 1:
            raise KafkaException(KafkaError(error))
        return "settled"

    assert cluster._settled(ask) == "settled"


def test_a_young_broker_without_a_coordinator_is_one_of_them() -> None:
    assert {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    } <= UNSETTLED


def test_anything_else_is_a_service_that_is_away(cluster: Cluster) -> None:
    def ask() -> str:
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    with pytest.raises(ServiceUnavailable, match=r"Kafka at 127\.0\.0\.1:1 does not answer"):
        cluster._settled(ask)
