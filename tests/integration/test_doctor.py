"""`winnow doctor` says of everything a gate needs how it is, and what mends it; its exit code is that of what would fail."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from demo.broker import free_port
from demo.processes import running
from stream.config import KafkaSettings, TopicSettings
from tests.integration.conftest import limit, send, wait_until, winnow

pytestmark = pytest.mark.integration


def findings(config: Path, *more: str, exit_code: int = 0) -> dict[str, dict[str, Any]]:
    done = winnow("doctor", "--config", config, *more)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return {found["what"]: found for found in map(json.loads, done.stdout.splitlines())}


def test_all_is_well_with_a_model_that_keeps_its_fingerprint(
    kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]
) -> None:
    send(kafka, topics.records, [{"value": b"a"}] * 5)
    found = findings(write_config(threads=2, precision="float32"))
    assert {what: each["state"] for what, each in found.items() if what != "page"} == dict.fromkeys(
        ("rules", "registry", "model", "kafka", "topics", "rights", "transactions", "clock", "lag"), "well"
    )
    assert "keeps its fingerprint" in found["model"]["said"]
    assert found["lag"]["said"].startswith("5 records wait")
    assert found["page"]["state"] == "warning", "none runs on this machine"


def test_what_differs_is_named_with_what_mends_it(kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]) -> None:
    old_ms, ahead_ms = int(time.time() * 1000) - 30 * 86_400_000, int(time.time() * 1000) + 600_000
    send(
        kafka,
        topics.records,
        [{"value": b"a", "timestamp": old_ms, "partition": 0}, {"value": b"b", "timestamp": ahead_ms, "partition": 1}],
    )
    limit(kafka, topics.clean, {"retention.ms": str(7 * 86_400_000)})
    limit(kafka, topics.quarantine, {"retention.ms": str(86_400_000)})
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topics.audit, 5)])[topics.audit].result(10)
    found = findings(write_config(), "--no-model")
    assert "retention.ms = 86400000, winnow would set -1" in found[f"topic {topics.quarantine}"]["said"]
    assert "5 partitions, the input has 3" in found[f"topic {topics.audit}"]["said"]
    assert "is of 30.0 days ago" in found[f"retention of {topics.clean}"]["said"]
    assert f"raise retention.ms of {topics.clean}" in found[f"retention of {topics.clean}"]["mend"]
    assert found["clock"]["state"] == "warning"
    assert "ahead of this machine's clock" in found["clock"]["said"]


def test_what_is_broken_decides_the_exit_code(topics: TopicSettings, write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config()
    text = config.read_text()
    config.write_text(text.replace(topics.clean, "no.such.topic"))
    assert findings(config, "--no-model", exit_code=3)["topic no.such.topic"]["mend"] == "`winnow topics` makes it"
    lines = [line for line in text.splitlines() if not line.startswith("url =")]
    config.write_text("\n".join(lines).replace("[registry]", f'[registry]\nurl = "{tmp_path}/empty"'))
    found = findings(config, "--no-model", exit_code=4)
    assert found["registry"]["state"] == "broken"
    assert "winnow starter" in found["registry"]["mend"]
    config.write_text(text.replace("[kafka]\n", "[kafka]\n", 1).replace("connect_timeout_seconds = 5", "connect_timeout_seconds = 1"))
    broken = "\n".join(
        'bootstrap_servers = "127.0.0.1:1"' if line.startswith("bootstrap_servers") else line for line in config.read_text().splitlines()
    )
    config.write_text(broken)
    found = findings(config, "--no-model", exit_code=3)
    assert "no broker answered at kafka.bootstrap_servers = 127.0.0.1:1" in found["kafka"]["said"]
    assert "topics" not in found, "what cannot be looked at is left out"


def test_partitions_that_have_been_added_since_the_boot_are_noticed(
    kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]
) -> None:
    port = free_port()
    config = write_config()
    config.write_text(config.read_text().replace("metrics_port = 0", f"metrics_port = {port}\nmode = 'rules'"))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    with running("gate", config):
        wait_until(lambda: findings(config, "--no-model").get("gate", {}).get("state") == "well")
        admin.create_partitions([NewPartitions(topics.clean, 4)])[topics.clean].result(10)
        wait_until(lambda: "partitions" in findings(config, "--no-model"), 30)
        found = findings(config, "--no-model")["partitions"]
    assert f"{topics.clean} had 3, has 4" in found["said"]
    assert found["mend"] == "restart the gates, one after the other"
