"""The demo's stream on its way into Kafka, with its truth kept outside."""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from demo.twins import Truth, Twin
from foundation.errors import WinnowError
from stream.cluster import base_config
from stream.config import KafkaSettings

_LEAST_WAIT_SECONDS = 0.05


def produce(settings: KafkaSettings, topic: str, twins: Sequence[Twin], per_second: float | None = None) -> dict[str, Truth]:
    """Write the twins as a producer would and return the truth by decision id; nothing of it enters Kafka.

    per_second: at most so many; unset means as fast as Kafka takes them.
    """
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

    begun = time.monotonic()
    for number, twin in enumerate(twins):
        if per_second is not None and (early := begun + number / per_second - time.monotonic()) > _LEAST_WAIT_SECONDS:
            time.sleep(early)
        producer.produce(topic, twin.value, twin.key, on_delivery=remember(twin.truth))
        producer.poll(0)
    producer.flush(60)
    if failed or len(truth) != len(twins):
        raise WinnowError(f"only {len(truth)} of {len(twins)} records reached {topic}: {failed[:1]}")
    return truth
