"""Every alert fires when it should, stays silent when it should, and when there is no data at all; each has a runbook.

promtool evaluates the very file that is deployed. Series are written as promtool writes them: `start+step x times`.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from review.metrics import ReviewMetrics
from stream.metrics import GateMetrics
from stream.rules import Rules
from tests.debian import on_path, program
from trainer.metrics import TrainMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
CLEAN = 'winnow_records_total{route="clean",reason="model"}'
HELD = 'winnow_records_total{route="quarantine",reason="model"}'
DEAD = 'winnow_records_total{route="dead-letter",reason="bad-json"}'
FAILED = 'winnow_records_total{route="dead-letter",reason="scorer-failed"}'
IN_TIME = 'winnow_end_to_end_seconds_bucket{le="10.0"}'
ALL = "winnow_end_to_end_seconds_count"
OLDEST = "winnow_review_oldest_open_seconds"
COMMITTED = 'winnow_transactions_total{outcome="committed"}'
ABORTED = 'winnow_transactions_total{outcome="aborted"}'

TURNED = "winnow_last_turn_timestamp_seconds"


class Case(NamedTuple):
    """Series under which an alert fires and under which it does not, how far apart their values are, and when to look."""

    fires: dict[str, str]
    silent: dict[str, str]
    at: str = "3h"
    every: str = "1m"


def steady(per_step: float, steps: int = 400) -> str:
    return f"0+{per_step}x{steps}"


CASES = {
    "WinnowRoutingErrorsBurnFast": Case(
        {CLEAN: steady(1000), FAILED: steady(30)}, {CLEAN: steady(1000), FAILED: "0+30x30 900+0x400"}, at="3h"
    ),
    "WinnowRoutingErrorsBurnSlowly": Case({CLEAN: steady(1000, 1500), FAILED: steady(2, 1500)}, {CLEAN: steady(1000, 1500), FAILED: steady(0.5, 1500)}, "5d", "5m"),
    "WinnowLatencyBurnsFast": Case({ALL: steady(1000), IN_TIME: steady(700)}, {ALL: steady(1000), IN_TIME: steady(995)}),
    "WinnowLatencyBurnsSlowly": Case({ALL: steady(1000, 1500), IN_TIME: steady(980, 1500)}, {ALL: steady(1000, 1500), IN_TIME: steady(995, 1500)}, "5d", "5m"),
    "WinnowReviewAgeBurnsFast": Case({OLDEST: "90000+60x400"}, {OLDEST: "80000+0x400"}),
    "WinnowReviewAgeBurnsSlowly": Case({OLDEST: "90000+0x1500"}, {OLDEST: "90000+0x24 100+0x1500"}, "5d", "5m"),
    "WinnowGateAbsent": Case({}, {"winnow_last_commit_timestamp_seconds": "1+0x400"}),
    "WinnowGateStuck": Case(
        {'winnow_lag_records{partition="0"}': "500+0x400", COMMITTED: "0+5x60 300+0x400"},
        {'winnow_lag_records{partition="0"}': "500+0x400", COMMITTED: steady(5)},
    ),
    "WinnowGateNotReady": Case(
        {"winnow_ready": "1+0x60 0+0x400", TURNED: "1+60x400", "winnow_owned_partitions": "4+0x400"},
        {
            'winnow_ready{instance="a"}': "1+0x400", 'winnow_ready{instance="b"}': "0+0x400", 'winnow_ready{instance="serve"}': "0+0x400",
            TURNED + '{instance="a"}': "1+60x400", TURNED + '{instance="b"}': "1+60x400", TURNED + '{instance="serve"}': "0+0x400",
            'winnow_owned_partitions{instance="a"}': "4+0x400", 'winnow_owned_partitions{instance="b"}': "0+0x400",
        },
    ),
    "WinnowSchemaRegistryAway": Case(
        {"winnow_schema_registry_failures_total": "0+0x150 1+3x400"}, {"winnow_schema_registry_failures_total": "0+0x177 3+0x400"}
    ),
    "WinnowLagAge": Case({'winnow_lag_seconds{partition="0"}': "400+0x400"}, {'winnow_lag_seconds{partition="0"}': "200+0x400"}),
    "WinnowNoRecords": Case({CLEAN: "0+10x60 600+0x400"}, {CLEAN: steady(10)}),
    "WinnowQuarantineShift": Case(
        {CLEAN: steady(100), HELD: "0+2x120 240+30x400"}, {CLEAN: steady(100), HELD: steady(4)}, at="150m"
    ),
    "WinnowFlood": Case({"winnow_flood": "1+0x400"}, {"winnow_flood": "0+0x400"}),
    "WinnowDeadLetters": Case({CLEAN: steady(100), DEAD: steady(5)}, {CLEAN: steady(100), DEAD: steady(0.5)}),
    "WinnowTransactionsAborted": Case({COMMITTED: steady(10), ABORTED: steady(2)}, {COMMITTED: steady(100), ABORTED: steady(1)}),
    "WinnowRebalances": Case(
        {'winnow_rebalances_total{kind="assigned"}': steady(4)}, {'winnow_rebalances_total{kind="assigned"}': "0+0x60 4+0x400"}
    ),
    "WinnowModelRefused": Case({'winnow_refused_total{what="model"}': "0+0x170 1+0x400"}, {'winnow_refused_total{what="model"}': "3+0x400"}),
    "WinnowModelStale": Case(
        {"winnow_model_created_timestamp_seconds": "1+0x11000"}, {"winnow_model_created_timestamp_seconds": "2000000+0x11000"}, "31d", "5m"
    ),
    "WinnowGatesDisagree": Case(
        {'winnow_model_info{digest="sha256:a",version="m@1",instance="1"}': "1+0x400", 'winnow_model_info{digest="sha256:b",version="m@2",instance="2"}': "1+0x400"},
        {'winnow_model_info{digest="sha256:a",version="m@1",instance="1"}': "1+0x400", 'winnow_model_info{digest="sha256:a",version="m@1",instance="2"}': "1+0x400"},
    ),
    "WinnowShadowDisagrees": Case(
        {'winnow_shadow_flips_total{direction="to-clean"}': steady(3), "winnow_shadow_records_total": steady(10)},
        {'winnow_shadow_flips_total{direction="to-clean"}': steady(0.3), "winnow_shadow_records_total": steady(10)},
    ),
    "WinnowDrift": Case({"winnow_drift": "1+0x400"}, {"winnow_drift": "0+0x400"}),
    "WinnowWrongPassed": Case(
        {'winnow_review_wrong_passed_ratio{bound="low"}': "0.06+0x400"},
        {'winnow_review_wrong_passed_ratio{bound="low"}': "0.02+0x400", 'winnow_review_wrong_passed_ratio{bound="high"}': "0.3+0x400"},
    ),
    "WinnowReviewAbsent": Case({}, {OLDEST: "1+0x400"}),
    "WinnowReviewBacklog": Case({'winnow_review_records{state="open"}': "20000+0x400"}, {'winnow_review_records{state="open"}': "900+0x400"}),
    "WinnowReviewersDisagree": Case(
        {"winnow_review_agreement_kappa": "0.2+0x400", "winnow_review_compared_records": "80+0x400"},
        {"winnow_review_agreement_kappa": "0.2+0x400", "winnow_review_compared_records": "9+0x400"},
    ),
    "WinnowVerdictsUnreadable": Case(
        {"winnow_review_events_unreadable_total": "0+0x170 2+0x400"}, {"winnow_review_events_unreadable_total": "2+0x400"}
    ),
    "WinnowLoginsRefused": Case(
        {'winnow_review_logins_refused_total{cause="password"}': steady(10)}, {'winnow_review_logins_refused_total{cause="password"}': steady(1)}
    ),
    "WinnowTrainerAbsent": Case({}, {"winnow_train_running": "0+0x400"}),
    "WinnowTrainerFailed": Case(
        {'winnow_train_cycles_total{outcome="failed"}': "0+0x150 1+1x400"}, {'winnow_train_cycles_total{outcome="failed"}': "0+0x150 1+0x400"}
    ),
    "WinnowTrainerRefused": Case(
        {'winnow_train_cycles_total{outcome="refused"}': "0+0x150 1+0x400"}, {'winnow_train_cycles_total{outcome="promoted"}': "0+0x150 1+0x400"}
    ),
    "WinnowTrainingOverdue": Case(
        {"winnow_train_verdicts_waiting": "400+0x400", "winnow_train_verdicts_needed": "100+0x400", "winnow_train_running": "0+0x400"},
        {"winnow_train_verdicts_waiting": "400+0x400", "winnow_train_verdicts_needed": "100+0x400", "winnow_train_running": "1+0x400"},
    ),
}  # fmt: skip
# one of two is not well, which the other must not hide
BESIDE = {
    "WinnowGateStuck": {
        'winnow_lag_records{partition="0",instance="a"}': "500+0x400", 'winnow_transactions_total{outcome="committed",instance="a"}': "300+0x400",
        'winnow_lag_records{partition="1",instance="b"}': "500+0x400", 'winnow_transactions_total{outcome="committed",instance="b"}': steady(5),
    },
    "WinnowGateAbsent": {
        'winnow_last_commit_timestamp_seconds{namespace="staging"}': "1+60x400", 'winnow_last_commit_timestamp_seconds{namespace="prod"}': "1+60x60",
    },
    "WinnowReviewAbsent": {OLDEST + '{namespace="staging"}': "1+0x400", OLDEST + '{namespace="prod"}': "1+0x60"},
    "WinnowTrainerFailed": {"winnow_train_started_timestamp_seconds": "0+0x100 1+0x10 2+0x10 3+0x400"},
    "WinnowTrainerAbsent": {'winnow_train_running{namespace="staging"}': "0+0x400", 'winnow_train_running{namespace="prod"}': "0+0x60"},
}  # fmt: skip
HUNG = {"winnow_last_turn_timestamp_seconds": "0+60x60 3600+0x400", 'winnow_lag_records{partition="0"}': "0+0x400"}
OF_ABSENCE = {name for name in CASES if name.endswith("Absent")}


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule}


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    found = program("prometheus", on_path("promtool"))
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=300, check=False)


def rules_for(alert: str) -> dict[str, Any]:
    """Return the alert's rule and the recording rules that it asks, as they are deployed: all of them would take minutes."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}
    asked, found = [alert], []
    while asked:
        rule = rules[asked.pop()]
        found.insert(0, rule)
        asked += [name for name in dict.fromkeys(re.findall(r"winnow:[a-z0-9_:]+", rule["expr"])) if rules[name] not in found]
    return {"groups": [{"name": alert, "rules": found}]}


def asks(name: str, *, expected: bool, at: str) -> dict[str, Any]:
    """Return promtool's question whether an alert fires at a time."""
    fires = [{"labels": "{}", "value": 1}] if expected else []
    return {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) > bool 0', "eval_time": at, "exp_samples": fires}


def written(place: Path, rules: Path, every: str, tests: list[tuple[dict[str, str], list[dict[str, Any]]]]) -> Path:
    """Write a file of promtool's tests: series, and what is asked of them."""
    given = [
        {
            "interval": every,
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            "promql_expr_test": questions,
        }
        for series, questions in tests
    ]
    place.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": every, "tests": given}, sort_keys=False))
    return place


def test_every_alert_fires_and_does_not(tmp_path: Path) -> None:
    files = []
    for name, case in CASES.items():
        rules = tmp_path / f"{name}.rules.yaml"
        rules.write_text(yaml.safe_dump(rules_for(name), sort_keys=False))
        tests = [(series, [asks(name, expected=fires, at=case.at)]) for series, fires in ((case.fires, True), (case.silent, False))]
        files.append(written(tmp_path / f"{name}.yaml", rules, case.every, tests))
    done = promtool("test", "rules", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_that_is_well_does_not_hide_another(tmp_path: Path) -> None:
    files = []
    for number, (name, series) in enumerate([*BESIDE.items(), ("WinnowGateStuck", HUNG)]):
        rules = tmp_path / f"{number}.rules.yaml"
        rules.write_text(yaml.safe_dump(rules_for(name), sort_keys=False))
        files.append(written(tmp_path / f"{number}.yaml", rules, "1m", [(series, [asks(name, expected=True, at="3h")])]))
    done = promtool("test", "rules", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_any_data_only_absence_is_told(tmp_path: Path) -> None:
    questions = [asks(name, expected=name in OF_ABSENCE, at="1h") for name in CASES]
    done = promtool("test", "rules", written(tmp_path / "absent.yaml", RULES, "1m", [({}, questions)]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_runbook_and_a_severity() -> None:
    known = alerts()
    assert set(known) == set(CASES)
    for name, rule in known.items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert rule["annotations"]["runbook_url"] == f"runbooks/{name}.md"
        text = (DEPLOY / "runbooks" / f"{name}.md").read_text()
        for part in ("# ", "## What it means", "## What to look at", "## What to do"):
            assert part in text, f"{name}: {part}"
    assert {path.stem for path in (DEPLOY / "runbooks").glob("Winnow*.md")} == set(known), "no runbook is without its alert"


def test_no_alert_asks_for_a_metric_that_nobody_serves() -> None:
    served = {
        sample.name
        for registry in (GateMetrics(Rules()).registry, ReviewMetrics().registry, TrainMetrics().registry)
        for family in registry.collect()
        for sample in family.samples
    } | {"winnow_lag_records", "winnow_lag_seconds"}
    text = RULES.read_text()
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\bwinnow_[a-z_]+", text)) - served == set()
