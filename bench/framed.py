"""What opening framed values costs: the gate with a constant model over the same records as JSON, Avro, Protobuf and JSON Schema.

Side by side, one after the other, round by round; ratios are medians over the rounds. The registry is a few lines that answer with
the schema: it is asked once for each.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fastavro

from bench.constant import save_tokenizer
from bench.gate import PARTITIONS, gate_rate
from bench.gate_process import Asked, topics_of
from bench.machine import keep
from demo.broker import temporary_broker
from demo.stream import produce
from demo.twins import Twin, take
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings
from stream.decode import decode_value
from stream.files import as_value
from stream.framed import Schema, codec_of
from stream.records import Content
from stream.render import render

FIELDS = {
    "name": "string", "address": "string", "postcode": "string", "phone": "string",
    "longitude": "double", "latitude": "double", "temperature": "double", "humidity": "double",
}  # fmt: skip
AVRO = {"type": "record", "name": "Twin", "fields": [{"name": name, "type": kind} for name, kind in FIELDS.items()]}
_LINES = " ".join(f"{kind} {name} = {n};" for n, (name, kind) in enumerate(FIELDS.items(), 1))
PROTOBUF = f'syntax = "proto3"; message Twin {{ {_LINES} }}'
SCHEMAS = {1: ("AVRO", json.dumps(AVRO)), 2: ("PROTOBUF", PROTOBUF), 3: ("JSON", "{}")}
Write = Callable[[dict[str, Any]], bytes]


class _Registry(BaseHTTPRequestHandler):
    """Answers `GET /schemas/ids/N` as a schema registry does."""

    def do_GET(self) -> None:
        """Send the schema."""
        kind, text = SCHEMAS[int(self.path.partition("?")[0].rpartition("/")[2])]
        said = json.dumps({"schemaType": kind, "schema": text}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def registry() -> Iterator[str]:
    """Serve the schemas on a free port of 127.0.0.1; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(count: int) -> list[Twin]:
    """Return twins that have every field, numbers as numbers."""
    found: list[Twin] = []
    for twin in take(3 * count, 0, unreadable_share=0.0):
        content = decode_value(twin.value, "auto")
        data = content.data if isinstance(content, Content) and content.is_json else None
        if isinstance(data, dict) and list(data) == list(FIELDS):
            if all(isinstance(data[name], str if kind == "string" else int | float) for name, kind in FIELDS.items()):
                found.append(twin)
    return found[:count]


def writers() -> dict[str, Write]:
    """Return how a twin is written in each way."""
    parsed, protobuf = fastavro.parse_schema(AVRO), codec_of(Schema("protobuf", PROTOBUF, {}))

    def avro(data: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, data)
        return b"\x00\x00\x00\x00\x01" + out.getvalue()

    return {
        "plain": as_value,
        "avro": avro,
        "protobuf": lambda data: b"\x00\x00\x00\x00\x02" + protobuf.as_payload(as_value(data), b"\x00"),
        "json": lambda data: b"\x00\x00\x00\x00\x03" + as_value(data),
    }


def main() -> None:
    """Run all and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    twins = whole(given.records)
    texts = [render(c).text for twin in twins[:5_000] if isinstance(c := decode_value(twin.value, "auto"), Content)]
    rates: dict[str, list[float]] = {}
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as directory, registry() as url:
        place = Path(directory)
        save_tokenizer(texts, place)
        kafka = KafkaSettings(bootstrap_servers=broker.address, schema_registry=url)
        for name, write in writers().items():
            topics = topics_of(name)
            make_topics(kafka, topics, PARTITIONS)
            produce(kafka, topics.records, [twin._replace(value=write(json.loads(twin.value))) for twin in twins])
        for number in range(given.rounds):
            for name in writers():
                settings = GateSettings(group=f"{name}-{number}", instance=f"{name}-{number}", metrics_port=0, explain=False)
                rates.setdefault(name, []).append(gate_rate(Asked(kafka, topics_of(name), settings, 1.0, place), place, len(twins)))
                print(f"round {number + 1}, {name}: {rates[name][-1]:,.0f} records/s", file=sys.stderr, flush=True)
    plain = rates["plain"]
    found = {
        **{f"{name}_records_per_second": round(statistics.median(each)) for name, each in rates.items()},
        **{
            f"{name}_vs_plain": round(statistics.median(f / p for f, p in zip(each, plain, strict=True)), 3)
            for name, each in rates.items()
            if name != "plain"
        },
    }
    keep("framed", {"records": len(twins), "rounds": given.rounds, **found})


if __name__ == "__main__":
    main()
