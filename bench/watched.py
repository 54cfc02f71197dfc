"""A real Prometheus with the deployed rules beside services under load, and what it answers; benchmarks and tests watch by it."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from demo.broker import free_port
from demo.processes import die_with_parent

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yaml"


class Sample(NamedTuple):
    """One series of an answer."""

    labels: dict[str, str]
    value: float


@contextmanager
def prometheus(server: Path | str, place: Path, targets: Mapping[str, int]) -> Iterator[str]:
    """Run Prometheus on these jobs' ports, scraping every second, until the block is left; yields its address."""
    scraped = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()]
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES)], "scrape_configs": scraped}
    file, port = place / "prometheus.json", free_port()
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [server, f"--config.file={file}", f"--storage.tsdb.path={place}/tsdb", f"--web.listen-address=127.0.0.1:{port}"]
    with (
        (place / "prometheus.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent) as process,  # noqa: PLW1509
    ):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def ask(address: str, expr: str) -> list[Sample]:
    """Return what Prometheus answers to a question. Raises urllib.error.HTTPError where it does not understand it."""
    asked = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"{address}/api/v1/query?{asked}", timeout=10) as answer:  # noqa: S310 - our own
        found = json.loads(answer.read())["data"]["result"]
    return [Sample(each["metric"], float(each["value"][1])) for each in found]


def rule_health(address: str) -> dict[str, str]:
    """Return of every deployed rule what Prometheus says of its last evaluation: `ok`, or what was wrong with it."""
    with urllib.request.urlopen(f"{address}/api/v1/rules", timeout=10) as answer:  # noqa: S310 - our own
        groups = json.loads(answer.read())["data"]["groups"]
    return {rule["name"]: rule.get("lastError") or rule["health"] for group in groups for rule in group["rules"]}
