"""The peer: the same scorer inside quix-streams, exactly once. Run with quix-streams' own requirements on PYTHONPATH.

    python -m bench.quix BOOTSTRAP INPUT CLEAN QUARANTINE GROUP TOTAL REGISTRY|- RULES-DIGEST THREADS PRECISION

quix-streams hands records over one by one; so they are scored one by one. `-` scores nothing: its copy with our headers.
The last line is the records per second from the first to the last record; the last commit and the closing are left out.
"""

import sys
import time
from typing import Any

import orjson
from quixstreams import Application
from quixstreams.models import SerializationContext, Serializer

from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from stream import wire
from stream.config import GateSettings
from stream.decode import decode_value
from stream.records import Content, Decision, Record, Rewards, Route
from stream.render import text_of

PER_COMMIT = 2_000


def main() -> None:
    """Route all records and print the rate."""
    bootstrap, source, clean, quarantine, group, total, registry, digest, threads, precision = sys.argv[1:]
    model = None
    if registry != "-":
        from stream.live_model import load_live_model

        settings = GateSettings.model_validate({"threads": int(threads), "precision": precision})
        model = load_live_model(Registry(RegistrySettings(url=registry)).verified(CHAMPION), settings)
    label = ("none", "sha256:" + "0" * 64) if model is None else (model.label, model.digest)
    shared = wire.constants({}, 0.5, *label, digest)
    app = Application(
        broker_address=bootstrap, consumer_group=group, processing_guarantee="exactly-once", auto_offset_reset="earliest",
        commit_interval=5.0, commit_every=PER_COMMIT, loglevel="ERROR",
        producer_extra_config={"compression.type": "zstd", "linger.ms": 5, "transactional.id": group},
        consumer_extra_config={"isolation.level": "read_committed", "fetch.wait.max.ms": 50},
    )  # fmt: skip
    outputs = {route: app.topic(name, value_serializer=_Bytes()) for route, name in ((Route.CLEAN, clean), (Route.QUARANTINE, quarantine))}
    times: list[float] = []

    def judged(value: bytes, key: Any, timestamp: int, headers: Any) -> Decision:
        times.append(time.perf_counter())
        if model is None:
            if value[:1] == b"{":
                orjson.loads(value)
            return Decision(Route.CLEAN, "model", "", Rewards(1.0, 0.0), 0.731059)
        content = decode_value(value, "auto")
        [ids] = model.scorer.encoder.encode([text_of(content)]) if isinstance(content, Content) else [[]]
        [[right, wrong]] = model.scorer.rewards([ids or []]).tolist()
        p = model.calibration.p_chosen(right - wrong)
        return Decision(Route.CLEAN if p >= model.threshold else Route.QUARANTINE, "model", "", Rewards(right, wrong), p)

    frame = app.dataframe(app.topic(source, value_deserializer="bytes", key_deserializer="bytes"))
    frame = frame.apply(lambda value, *more: (value, judged(value, *more)), metadata=True)
    frame = frame.set_headers(
        lambda each, _key, timestamp, _headers: wire.decision_headers(Record(source, 0, 0, timestamp, None, each[0], []), each[1], shared)
    )

    frame.to_topic(lambda each, _key, _timestamp, _headers: outputs[each[1].route])
    app.run(count=int(total), collect=False)
    print(round(int(total) / (times[-1] - times[0]), 1))


class _Bytes(Serializer):  # type: ignore[misc]
    """The record's bytes, beside which the decision has come so far."""

    def __call__(self, value: tuple[bytes, Decision], ctx: SerializationContext) -> bytes:
        return value[0]


if __name__ == "__main__":
    main()
