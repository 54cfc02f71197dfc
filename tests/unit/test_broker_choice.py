"""Where the tests take Kafka from: an address, else Docker, else the embedded one."""

from tests.conftest import kafka_choice


def test_the_order() -> None:
    assert kafka_choice({"WINNOW_TEST_BOOTSTRAP": "k:9092"}, has_docker=True) == "k:9092"
    assert kafka_choice({}, has_docker=True) == "docker"
    assert kafka_choice({}, has_docker=False) == "embedded"
