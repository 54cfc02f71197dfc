"""A batch's span names the spans its records came from, at a real collector's door; the producers' header leaves untouched."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream.config import KafkaSettings, TopicSettings
from tests.integration.conftest import read_all, send

pytestmark = pytest.mark.integration


class Collector:
    """Takes what OTLP over HTTP brings, and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers.get("Content-Encoding", "identity") == "identity"
                asked = ExportTraceServiceRequest.FromString(body)
                spans.extend(span for each in asked.resource_spans for scope in each.scope_spans for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_batch_is_linked_to_its_sampled_records(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None], collector: Collector
) -> None:
    traces = [f"{n:032x}" for n in range(1, 6)]
    parents = [f"00-{trace}-{n:016x}-01".encode() for n, trace in enumerate(traces, 1)]
    secret = b'{"phone": "13812345678"}'
    records = [{"value": secret, "headers": [("traceparent", parent), ("tracestate", b"a=b")]} for parent in parents]
    not_asked = [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00", b"nonsense", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"]
    records += [{"value": secret, "headers": [("traceparent", header)]} for header in not_asked]
    send(kafka, topics.records, [*records, {"value": secret}])
    run_until_idle(traces=collector.address, mode="rules")
    links = [link for span in collector.spans for link in span.links]
    assert {link.trace_id.hex() for link in links} == set(traces)
    assert {span.name for span in collector.spans} == {"winnow.batch"}
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in collector.spans)
    said = [{each.key: each.value.string_value for each in link.attributes} for link in links]
    assert {each["winnow.route"] for each in said} == {"clean"}
    assert all(each["winnow.decision_id"].startswith(f"{topics.records}:") for each in said)
    assert not [span for span in collector.spans if b"13812345678" in span.SerializeToString()], "never content"
    left = [dict(message.headers()).get("traceparent") for message in read_all(kafka, topics.clean)]
    assert sorted(each for each in left if each is not None) == sorted([*parents, *not_asked])


def test_a_collector_that_is_away_stops_nothing(kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]) -> None:
    header = ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")
    send(kafka, topics.records, [{"value": b"a", "headers": [header]}])
    run_until_idle(traces="http://127.0.0.1:9/v1/traces", mode="rules")
    assert len(read_all(kafka, topics.clean)) == 1
