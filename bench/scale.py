"""How the gate's cost grows: with gates in the group, with the length of records, with the backlog.

Gates are measured with a constant model whose device is simulated: it takes its time and leaves the processor alone, as a
GPU does, so that two cores are enough for four of them. Lengths are measured with a starter's scorer alone. The last line is
one JSON object.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from bench.constant import save_tokenizer
from bench.gate_process import Asked, Running, running, topics_of
from bench.load import fill
from bench.machine import keep
from bench.starters import published_starter
from demo.broker import temporary_broker
from demo.run import RULES
from demo.twins import take
from model_registry.registry import CHAMPION, Registry
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings
from stream.decode import decode_value
from stream.live_model import load_live_model
from stream.records import Content
from stream.render import render
from stream.score import Scorer

PARTITIONS = 8
GATES = (1, 2, 4)
LENGTHS_TOKENS = (20, 60, 200, 600, 1_900)
BACKLOGS = (10_000, 100_000, 1_000_000)
LEAST_SPEEDUP = 3.6
_IDLE_SECONDS, _SETTLE_SECONDS = 25.0, 10.0


def group_rate(kafka: KafkaSettings, gates: int, tokenizer: Path, records: int, device_seconds: float) -> float:
    """Let a group of gates share a backlog that comes once all have joined; return records per second of the group."""
    name = f"scale-{gates}"
    topics = topics_of(name)
    make_topics(kafka, topics, PARTITIONS)
    with ExitStack() as stack:
        group: list[Running] = []
        for number in range(gates):
            gate = GateSettings(group=name, instance=f"{name}-{number}", metrics_port=0, rules_file=RULES, explain=False)
            asked = Asked(kafka, topics, gate, _IDLE_SECONDS, tokenizer, device_seconds=device_seconds)
            group.append(stack.enter_context(running(asked, tokenizer / f"{name}-{number}")))
        for each in group:
            each.wait_for("joining")
        time.sleep(_SETTLE_SECONDS)  # until the broker has given every gate its share of the partitions
        fill(kafka, topics.records, records)
        for each in group:
            each.end()
        first = min(each.times("polled")[0] for each in group)
        last = max(each.times("committed")[-1] for each in group)
    return records / (last - first)


def backlog_rate(kafka: KafkaSettings, tokenizer: Path, records: int) -> float:
    """Return records per second of one gate with a constant model over a backlog."""
    name = f"backlog-{records}"
    topics = topics_of(name)
    make_topics(kafka, topics, PARTITIONS)
    fill(kafka, topics.records, records)
    gate = GateSettings(group=name, instance=name, metrics_port=0, rules_file=RULES, explain=False)
    with running(Asked(kafka, topics, gate, 2.0, tokenizer), tokenizer / name) as judging:
        judging.end()
        return records / judging.working_seconds()


def by_length(scorer: Scorer, seconds: float) -> dict[int, dict[str, float]]:
    """Return what a starter's scorer makes of records of each length: records and tokens per second."""
    [token] = scorer.encoder.encode(["a"])
    assert token is not None
    found = {}
    for length in LENGTHS_TOKENS:
        rows = [(token * length)[:length]] * max(4, 16_384 // length)
        scorer.rewards(rows)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            scorer.rewards(rows)
            count += len(rows)
        rate = count / (time.perf_counter() - begun)
        found[length] = {"records_per_second": round(rate, 1), "tokens_per_second": round(rate * length)}
    return found


def main() -> None:
    """Run all and print the result; exit 1 where four gates do not give what they should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=24_000)
    parser.add_argument("--device-us", type=float, default=1_000.0, help="what the simulated device takes for a record")
    parser.add_argument("--backlog", type=int, default=max(BACKLOGS), help="the longest backlog")
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(2)
    twins = take(3_000, 0, unreadable_share=0.0)
    texts = [render(c).text for twin in twins if isinstance(c := decode_value(twin.value, "auto"), Content)]
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as directory:
        kafka, place = KafkaSettings(bootstrap_servers=broker.address), Path(directory)
        save_tokenizer(texts, place)
        rates = {gates: group_rate(kafka, gates, place, given.records, given.device_us / 1e6) for gates in GATES}
        print(rates, file=sys.stderr, flush=True)
        backlogs = {records: backlog_rate(kafka, place, records) for records in BACKLOGS if records <= given.backlog}
        registry = published_starter(place, twins)
        lengths = by_length(load_live_model(Registry(registry).verified(CHAMPION), GateSettings()).scorer, given.seconds)
    found = {
        "records": given.records,
        "device_us": given.device_us,
        "records_per_second": {gates: round(rate) for gates, rate in rates.items()},
        **{f"speedup_{gates}": round(rates[gates] / rates[1], 2) for gates in GATES[1:]},
        "backlog_records_per_second": {records: round(rate) for records, rate in backlogs.items()},
        "by_length_tokens": lengths,
    }
    keep("scale", found)
    sys.exit(0 if rates[4] >= LEAST_SPEEDUP * rates[1] else 1)


if __name__ == "__main__":
    main()
