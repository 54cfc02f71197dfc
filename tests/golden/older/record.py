"""Writes what an older winnow leaves behind: its registry and its topics. Run once, with that checkout first on PYTHONPATH:

    git worktree add ../older ce1ac79 && PYTHONPATH=../older .venv/bin/python tests/golden/older/record.py tests/golden/older

Enters: nothing. Leaves: registry.tar.gz, and topics.json.gz with every message of every topic. Recorded of contract version 2, 2026-11-24.
"""

import base64
import gzip
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from types import SimpleNamespace

from starlette.testclient import TestClient

from demo.broker import temporary_broker
from demo.ledger import messages
from demo.stream import produce
from demo.twins import UNREADABLE, take
from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from review.serve import service
from stream.boot import run_gate
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decode import decode_value
from stream.records import Content
from stream.render import render
from trainer.config import TrainSettings
from trainer.starter import Plan, Shape, save_starter, train_starter
from trainer.train import train_and_publish

WORDS = ("正确", "错误")
RIGHT, WRONG, CORRECTED = 3, 3, 1


def answered(tables: SimpleNamespace) -> None:
    """Answer a few held records: right, wrong, and wrong with a correction."""
    with service(tables) as running, TestClient(running.app, base_url="http://127.0.0.1") as page:
        for number in range(RIGHT + WRONG + CORRECTED):
            lease = page.post("/api/lease", json={}).json()
            said: dict[str, object] = {"lease": lease["lease"], "verdict": "right" if number < RIGHT else "wrong", "note": f"n{number}"}
            if number >= RIGHT + WRONG:
                said["correction"] = '{"name": "北京更正有限公司", "phone": "010-62345678"}'
            answer = page.post(f"/api/decisions/{lease['decision_id']}/verdict", json=said)
            assert answer.status_code == 200, answer.text


def as_text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def main() -> None:
    """Run the whole loop in small, and keep it."""
    kept = Path(sys.argv[1])
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as made:
        place = Path(made)
        twins = list(take(300, 5))
        texts = [render(read) for twin in twins if isinstance(read := decode_value(twin.value, "auto"), Content)]
        shape = Shape(hidden=32, layers=2, heads=2, inner=64, vocabulary=400, max_length=512)
        starter = train_starter(texts, WORDS, Plan(steps=5, pairs_per_batch=8), shape)
        readable = [twin.value.decode() for twin in twins if twin.truth.kind != UNREADABLE]
        save_starter(starter, readable, place / "starter", {"verdict_words": list(WORDS), "steps": starter.steps})
        registry = RegistrySettings(url=str(place / "registry"))
        kafka, topics = KafkaSettings(bootstrap_servers=broker.address), TopicSettings()
        tables = SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), registry=registry, review=ReviewSettings(
            database_url=f"sqlite:///{place}/review.sqlite3", second_share=0.0,
        ))  # fmt: skip
        train_and_publish(tables, TrainSettings(cold_hold_share=0.3), str(place / "starter"), None, None)
        make_topics(kafka, topics, 2)
        produce(kafka, topics.records, twins[:60])
        settings = GateSettings(metrics_port=0, precision="float32", audit_rate=0.1)
        run_gate(kafka, topics, settings, registry, until_idle_seconds=2.0)
        answered(tables)
        left = {
            kind: [
                {
                    "key": as_text(m.key()), "value": as_text(m.value()), "timestamp": m.timestamp()[1], "partition": m.partition(),
                    "headers": [[name, as_text(value)] for name, value in m.headers() or ()],
                }
                for m in messages(broker.address, topic)
            ]
            for kind, topic in topics.model_dump().items()
        }  # fmt: skip
        (kept / "topics.json.gz").write_bytes(gzip.compress(json.dumps(left).encode(), mtime=0))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(place / "registry", "registry")
        (kept / "registry.tar.gz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
        print({kind: len(found) for kind, found in left.items()})  # noqa: T201


if __name__ == "__main__":
    main()
