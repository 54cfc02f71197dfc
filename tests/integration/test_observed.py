"""Every panel and every alert's series has an answer on a real Prometheus that scrapes the real services while they work."""

import math
import re
import shutil
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from bench.gate_process import metric
from bench.watched import RULES as WATCHED
from bench.watched import ask, prometheus, rule_health
from demo.broker import free_port
from demo.processes import running, wait_ready
from demo.reviewer import Connection, verdict_path
from demo.run import RULES
from demo.twins import Twin, take
from deploy.dashboards import BOARDS
from deploy.panels import with_variables
from stream.config import KafkaSettings, TopicSettings
from stream.decide import ticket
from tests.debian import on_path, program
from tests.integration.conftest import send, wait_until

pytestmark = pytest.mark.integration

WINDOW = "30s"
ENDED = tuple(f'winnow_train_cycles_total{{outcome="{outcome}"}}' for outcome in ("promoted", "challenger"))


def has_answer(address: str, expr: str) -> bool:
    return any(math.isfinite(sample.value) for sample in ask(address, expr))


def told(port: int, *names: str) -> float:
    """Return the sum of the samples of a service whose line begins so; 0 where it does not answer."""
    try:
        return sum(metric(port, name) for name in names)
    except OSError:
        return 0.0


class Work(threading.Thread):
    """Producers and two reviewers at work until told to stop; now and then the two do not agree."""

    def __init__(self, kafka: KafkaSettings, topic: str, page: str, twins: list[Twin]) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.verdicts = 0
        self._send = lambda some: send(kafka, topic, [{"key": twin.key, "value": twin.value} for twin in some])
        self._reviewers = [Connection(page, {"X-Reviewer": name}) for name in ("mei", "lin")]
        self._twins = twins

    def run(self) -> None:
        for number in range(10_000):
            if self.over.is_set():
                break
            at = number * 20 % len(self._twins)
            self._send(self._twins[at : at + 20])
            for reviewer in self._reviewers:
                for _ in range(10):
                    self._answer(reviewer)
        for reviewer in self._reviewers:
            reviewer.close()

    def _answer(self, reviewer: Connection) -> None:
        lease = reviewer.needed("POST", "/api/lease", {})
        if lease["decision_id"] is None:
            time.sleep(0.05)
            return
        self.verdicts += 1
        # what is true does not matter here; that both mostly say the same does
        is_wrong = (ticket(lease["decision_id"], "wrong") < 1 / 3) != (self.verdicts % 9 == 0)
        verdict = "wrong" if is_wrong else "right"
        reviewer.ask("POST", verdict_path(lease["decision_id"]), {"lease": lease["lease"], "verdict": verdict})


def test_every_panel_and_every_alert_has_data(
    kafka: KafkaSettings, topics: TopicSettings, registry_url: str, starter_directory: Path, tmp_path: Path
) -> None:
    registry = shutil.copytree(registry_url, tmp_path / "registry")
    ports = {"gate": free_port(), "review": free_port(), "trainer": free_port()}
    named = "".join(f'{name} = "{value}"\n' for name, value in topics.model_dump().items())
    config = tmp_path / "winnow.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{kafka.bootstrap_servers}"\n[topics]\n{named}[registry]\nurl = "{registry}"\n'
        f'[gate]\ngroup = "{topics.records}"\nmetrics_port = {ports["gate"]}\nrules_file = "{RULES}"\naudit_rate = 0.3\n'
        f"threads = 1\nprecision = 'float32'\n"
        f'[review]\nport = {ports["review"]}\ndatabase_url = "sqlite:///{tmp_path}/review.sqlite3"\nproxy_header = "X-Reviewer"\n'
        f"second_share = 0.3\n"
        f'[train]\nmetrics_port = {ports["trainer"]}\nbase = "{starter_directory}"\nretrain_verdicts = 80\nepochs = 1\n'
        f"contrastive_per_verdict = 1\ncheck = 'warn'\n"
    )
    twins = take(400, 11, wrong_share=0.3, unreadable_share=0.02)
    with ExitStack() as services:
        review = services.enter_context(running("review", config))
        services.enter_context(running("gate", config))
        server = program("prometheus", on_path("prometheus"))
        address = services.enter_context(prometheus(server, tmp_path, ports))
        work = Work(kafka, topics.records, wait_ready(review, "the review service"), twins)
        work.start()
        services.callback(work.join, 30)
        services.callback(work.over.set)
        wait_until(lambda: told(ports["review"], "winnow_review_verdicts_total") > 120, 90)
        trainer = services.enter_context(running("train --watch", config))
        wait_until(lambda: told(ports["trainer"], *ENDED) >= 1, 150)
        assert trainer.poll() is None
        asked: dict[str, str] = {
            f"{board.title}, {panel.title}: {query.expr}": with_variables(query.expr, WINDOW)
            for board in BOARDS
            for panel in board.panels
            for query in panel.queries
        }
        rules = yaml.safe_load(WATCHED.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            for series in set(re.findall(r"winnow[_:][a-z0-9_:]+(?:\{[^}]*\})?", rule["expr"])):
                asked[f"{rule.get('alert') or rule['record']}, {series}"] = series
        silent = dict(asked)

        def all_have_answered() -> bool:
            for name in list(silent):
                if has_answer(address, silent[name]):
                    del silent[name]
            return not silent

        deadline = time.monotonic() + 60
        while not all_have_answered() and time.monotonic() < deadline:
            time.sleep(1)
        assert silent == {}, f"{len(asked)} questions were asked"
        assert len(asked) > 100
        health = rule_health(address)
        assert set(health.values()) == {"ok"}, "every whole expression, of alerts and of what they are made of, is evaluated"
        assert len(health) > 40
        assert [sample.value for sample in ask(address, "up")] == [1.0, 1.0, 1.0]
