"""Laws 1 and 2 under SIGKILL: the small version of `make bench-crash`."""

import pytest

from bench.crash import crash
from stream.config import KafkaSettings, TopicSettings

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_nothing_is_lost_or_repeated_when_gates_are_killed_at_every_step(
    kafka: KafkaSettings, topics: TopicSettings, protocol: str
) -> None:
    found = crash(kafka.bootstrap_servers, topics, records=6_000, kills=9, seed=3, protocol=protocol, slow=100)
    assert found["kills"] >= 9
    assert (found["records"], found["lost"], found["repeated"], found["disordered"]) == (6_000, 0, 0, 0)
