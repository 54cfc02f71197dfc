"""One span a committed batch, linked to the spans that its records came from, sent to an OpenTelemetry collector.

Enters: committed batches. Leaves: spans by OTLP over HTTP, in a thread of the SDK's own; a collector that is away costs nothing but
them. Producers' `traceparent` (W3C Trace Context) leaves as every other header of theirs does, so whoever reads the outputs goes on with
it. Only what a producer has sampled is linked, and a batch with nothing of that makes no span. Ids and counts enter, never content.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foundation.errors import SettingInvalid
from stream.records import Decision, Record

if TYPE_CHECKING:
    from stream.judge import Judge

MOST_LINKS = 128
_PARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


def parent_of(record: Record) -> tuple[int, int] | None:
    """Return (trace id, span id) of the last `traceparent` of a record, None without one, or where its producer did not sample it."""
    said = next((value for name, value in reversed(record.headers) if name == "traceparent"), None)
    found = None if said is None else _PARENT.fullmatch(said)
    if found is None or not int(found.group(3), 16) & _SAMPLED:
        return None
    trace, span = int(found.group(1), 16), int(found.group(2), 16)
    return (trace, span) if trace and span else None


class Tracer:
    """Sends spans to one collector."""

    def __init__(self, address: str, instance: str) -> None:
        """Begin to send to an address such as http://127.0.0.1:4318/v1/traces. Raises SettingInvalid without OpenTelemetry."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise SettingInvalid(f"gate.traces = {address} needs OpenTelemetry: install winnow-gate[traces]") from error
        resource = Resource.create({"service.name": "winnow-gate", "service.instance.id": instance})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=5)))
        self._tracer: Any = self._provider.get_tracer("winnow")

    def committed(self, records: Sequence[Record], decisions: Sequence[Decision], judge: "Judge", begun_ns: int) -> None:
        """Tell of a batch from its poll (Unix time in ns) to now, if any of its records is sampled."""
        from opentelemetry.trace import Link, SpanContext, TraceFlags  # noqa: PLC0415

        links: list[Link] = []
        for record, decision in zip(records, decisions, strict=True):
            parent = parent_of(record)
            if parent is not None and len(links) < MOST_LINKS:
                context = SpanContext(*parent, is_remote=True, trace_flags=TraceFlags(_SAMPLED))
                said = {
                    "winnow.decision_id": record.decision_id,
                    "winnow.route": decision.route.value,
                    "winnow.reason": str(decision.reason),
                }
                links.append(Link(context, said))
        if not links:
            return
        routes = Counter(decision.route.value for decision in decisions)
        about: dict[str, Any] = {"messaging.system": "kafka", "messaging.batch.message_count": len(records)}
        about |= {f"winnow.records.{route}": count for route, count in routes.items()}
        if judge.model is not None:
            about |= {"winnow.model": judge.model.label, "winnow.model_digest": judge.model.digest}
        self._tracer.start_span("winnow.batch", links=links, attributes=about, start_time=begun_ns).end()

    def close(self) -> None:
        """Send what waits, a few seconds at most."""
        self._provider.shutdown()
