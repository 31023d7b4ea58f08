"""The log on Apache Kafka, the one door to confluent_kafka. infra/memory.py is the same in lists.

A worker's place and its outputs are written in one transaction, so each input is answered once whatever dies. Readers
see committed facts only, and read to an end by end-of-partition, never by lag: transactions leave markers behind.
Topics are called by their entity above this door and `<namespace>.<entity>.v1` below it.
"""

from infra.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
