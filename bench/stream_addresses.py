"""All real addresses through producer, starter and gate, by the commands that a user types; what is held, and why.

Every record must be on exactly one output. Shown are the ten that the model holds most surely. Data: ../shared/data or
WINNOW_DATA.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.addresses import DATA, data_directory
from bench.machine import keep
from demo.broker import temporary_broker
from demo.ledger import messages, read_ledger
from stream import wire
from stream.config import TopicSettings

SHOWN = 10


def winnow(config: Path, *words: str) -> float:
    """Run a command to its end and return the seconds it took; what it says goes to stderr."""
    begun = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    verb, *rest = words
    command = [sys.executable, "-m", "winnow", verb, *rest, "--config", str(config)]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return round(time.monotonic() - begun, 1)


def run(path: Path, minutes: float, place: Path) -> dict[str, Any]:
    """Produce, learn, judge, count."""
    topics = TopicSettings()
    with temporary_broker() as broker:
        config = place / "winnow.toml"
        registry = json.dumps(str(place / "registry"))
        config.write_text(
            f'[kafka]\nbootstrap_servers = "{broker.address}"\n[registry]\nurl = {registry}\n[gate]\nmetrics_port = 0\naudit_rate = 0\n'
            "audit_extra_rate = 0\n",
            encoding="utf-8",
        )
        winnow(config, "topics", "--partitions", "4")
        winnow(config, "produce", str(path), "--topic", topics.records)
        starter = winnow(
            config, "starter", "--from", f"topic:{topics.records}", "--minutes", f"{minutes:g}", "--out", str(place / "starter")
        )
        winnow(config, "train", "--base", str(place / "starter"))
        gate = winnow(config, "gate", "--until-idle", "3")
        ledger = read_ledger(broker.address, topics)
        held = [(float(wire.last(m.headers(), wire.P_CHOSEN) or 0), m) for m in messages(broker.address, topics.quarantine)]
    held.sort(key=lambda pair: pair[0])
    for p_chosen, message in held[:SHOWN]:
        value = json.loads(message.value() or b"{}")
        print(f"P(right) {p_chosen:.4f}  suspect {wire.last(message.headers(), wire.SUSPECT)}  {json.dumps(value, ensure_ascii=False)}")
    return {
        "records": ledger.records,
        "by_topic": ledger.by_topic,
        "lost": len(ledger.lost),
        "repeated": len(ledger.repeated),
        "disordered": ledger.disordered,
        "seconds_starter": starter,
        "seconds_gate": gate,
    }


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    given = parser.parse_args()
    path = data_directory() / DATA
    if not path.is_file():
        print(f"bench.stream_addresses needs {path}, which is not here; set WINNOW_DATA", file=sys.stderr)
        sys.exit(5)
    with tempfile.TemporaryDirectory() as place:
        keep("stream-addresses", run(path.resolve(), given.minutes, Path(place)))


if __name__ == "__main__":
    main()
