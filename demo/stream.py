"""The demo's stream on its way into Kafka, with its truth kept outside."""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from demo.twins import Truth, Twin
from foundation.errors import WinnowError
from stream.cluster import base_config
from stream.config import KafkaSettings


def produce(settings: KafkaSettings, topic: str, twins: Sequence[Twin]) -> dict[str, Truth]:
    """Write the twins as a producer would and return the truth by decision id; nothing of it enters Kafka."""
    truth: dict[str, Truth] = {}
    failed: list[str] = []
    producer = Producer({**base_config(settings), "enable.idempotence": True, "linger.ms": 20})

    def remember(said: Truth) -> Any:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error.str())
            else:
                truth[f"{message.topic()}:{message.partition()}:{message.offset()}"] = said

        return delivered

    for twin in twins:
        producer.produce(topic, twin.value, twin.key, on_delivery=remember(twin.truth))
        producer.poll(0)
    producer.flush(60)
    if failed or len(truth) != len(twins):
        raise WinnowError(f"only {len(truth)} of {len(twins)} records reached {topic}: {failed[:1]}")
    return truth
