"""Counters of this process, and the one door to prometheus_client. The facts on the log prove what they say."""

from prometheus_client import REGISTRY, Counter

COUNTED = ("implement", "run_tests")  # roles whose answers may be used again
PAID, LOG = "paid", "log"  # where an answer came from: a model or the sandbox, or an answer to equal work

ANSWERS = Counter("iccm_answers", "Answers given by a worker, by where they came from.", ("role", "source"))


def answered(role: str, source: str) -> None:
    """One answer was given."""
    ANSWERS.labels(role, source).inc()


def answers(role: str, source: str) -> int:
    """How many were."""
    return int(REGISTRY.get_sample_value("iccm_answers_total", {"role": role, "source": source}) or 0)


def summary(role: str) -> str:
    """A line for a person: what a role paid for, and what the log had already."""
    return f"{role}: {answers(role, PAID)} paid, {answers(role, LOG)} from the log"
