"""When a fenced worker joins again, and when it leaves its slot to another."""

from confluent_kafka import KafkaError

from infra.kafka.worker import FENCED_AGAIN_SECONDS, Fences

LOST = KafkaError(KafkaError._ALL_BROKERS_DOWN)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_fence_may_be_our_own_and_a_second_within_a_minute_is_a_rivals() -> None:
    fences = Fences(Clock())
    assert fences.may_be_ours()
    assert not fences.may_be_ours()


def test_a_minute_later_a_fence_may_be_our_own_again() -> None:
    clock = Clock()
    fences = Fences(clock)
    assert fences.may_be_ours()
    clock.now += FENCED_AGAIN_SECONDS
    assert fences.may_be_ours()


def test_each_loss_of_a_broker_excuses_one_fence() -> None:
    """A broker that restarts three times in a minute fences its worker three times, and ends it not once."""
    fences = Fences(Clock())
    for _ in range(3):
        fences.broker_lost(LOST)
        fences.broker_lost(LOST)
        assert fences.may_be_ours()
    assert not fences.may_be_ours()
