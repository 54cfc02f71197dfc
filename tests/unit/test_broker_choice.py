"""Where the tests take Kafka from: an address, else Docker, else the embedded one; and on which port that listens."""

import socket

import pytest

from demo.broker import free_port
from foundation.errors import SettingInvalid
from tests.conftest import kafka_choice


def test_the_order() -> None:
    assert kafka_choice({"WINNOW_TEST_BOOTSTRAP": "k:9092"}, has_docker=True) == "k:9092"
    assert kafka_choice({}, has_docker=True) == "docker"
    assert kafka_choice({}, has_docker=False) == "embedded"


def test_no_port_is_given_twice() -> None:
    given = [free_port() for _ in range(300)]
    assert len(set(given)) == 300
    assert max(given) < 32_768, "outgoing connections take those from there"


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingInvalid, match=f"port {taken.getsockname()[1]} on 127.0.0.1 is in use"):
            free_port(taken.getsockname()[1])
