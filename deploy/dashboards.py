"""The Grafana dashboards: `python -m deploy.dashboards` writes them, `--check` fails when one is out of date or asks for what nobody serves.

The chart can read nothing outside its own directory, so it has copies of them and of Prometheus's rules.

In a question `{}` stands for the namespace that the reader has chosen, `{,` for the same with more behind it.
"""

import json
import sys
from pathlib import Path

from deploy.panels import Board, Panel, Query, Row, as_json, asked
from review.metrics import ReviewMetrics
from stream.metrics import GateMetrics
from stream.rules import Rules
from trainer.metrics import TrainMetrics

DEPLOY = Path(__file__).parent
HERE = DEPLOY / "grafana" / "dashboards"
GREEN_RED, RED_GREEN = (("green", None), ("red", 1.0)), (("red", None), ("green", 1.0))
RATE = "$__rate_interval"


def share(part: str, whole: str) -> str:
    """Return the question for a part of a rate."""
    return f"sum(rate({part}[{RATE}])) / sum(rate({whole}[{RATE}]))"


def quantile(q: float, name: str, by: str = "") -> str:
    """Return the question for a quantile of a histogram."""
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({name}_bucket{{}}[{RATE}])))"


def rate(name: str, by: str = "") -> str:
    """Return the question for a rate, added up, by a label where wanted."""
    return f"sum{f' by ({by})' if by else ''} (rate({name}{{}}[{RATE}]))"


OVERVIEW = Board(
    "winnow-overview",
    "winnow: overview",
    "Is it well? The three promises, what comes and goes, and who is up.",
    (
        Row(
            "What is promised",
            (
                Panel(
                    "Routed without error", "Share of records of the last hour that were judged and written; 99.9 % is promised.", "percentunit",
                    (Query('1 - sum(increase(winnow_records_total{,reason=~"scorer-failed|unwritable"}[1h])) / sum(increase(winnow_records_total{}[1h]))'),),
                    "stat", 6, 5, (("red", None), ("orange", 0.999), ("green", 0.9995)),
                ),
                Panel(
                    "Within 10 s", "Share of records of the last hour that were on their output 10 s after their timestamp; 99 % is promised.", "percentunit",
                    (Query('sum(increase(winnow_end_to_end_seconds_bucket{,le="10.0"}[1h])) / sum(increase(winnow_end_to_end_seconds_count{}[1h]))'),),
                    "stat", 6, 5, (("red", None), ("orange", 0.99), ("green", 0.995)),
                ),
                Panel(
                    "Oldest open record", "How long a record has waited for a person; a day is promised in 95 % of the time.", "s",
                    (Query("max(winnow_review_oldest_open_seconds{})"),), "stat", 6, 5, (("green", None), ("orange", 43_200), ("red", 86_400)),
                ),
                Panel(
                    "Wrong among what passes", "Estimated from the flat audits; the interval is on the quality board. No data before the first settled audit.", "percentunit",
                    (Query('winnow_review_wrong_passed_ratio{,bound="estimate"}'),), "stat", 6, 5, (("green", None), ("orange", 0.02), ("red", 0.05)),
                ),
            ),
        ),
        Row(
            "What comes and goes",
            (
                Panel("Records", "Records committed a second, by route.", "recps", (Query(rate("winnow_records_total", "route"), "{{route}}"),), width=12, stacked=True),
                Panel("Lag", "Records that wait, over all gates.", "short", (Query("sum(winnow_lag_records{})", "records"),), width=6),
                Panel("Behind", "Age of the record polled last where more wait behind it, the worst partition.", "s", (Query("max(winnow_lag_seconds{})", "behind"),), width=6),
            ),
        ),
        Row(
            "Who is up",
            (
                Panel("Gates ready", "Gates that can judge: Kafka answers, the model is warm, they have their share of the partitions.", "short", (Query("sum(winnow_ready{})"),), "stat", 4, 5, RED_GREEN),
                Panel("Partitions owned", "Partitions that some gate owns; fewer than the topic has means that some records wait.", "short", (Query("sum(winnow_owned_partitions{})"),), "stat", 4, 5, RED_GREEN),
                Panel("Review service", "1 where it tells its figures.", "short", (Query("count(winnow_review_oldest_open_seconds{})"),), "stat", 4, 5, RED_GREEN),
                Panel("Trainer", "1 where `winnow train --watch` tells its figures.", "short", (Query("count(winnow_train_running{})"),), "stat", 4, 5, RED_GREEN),
                Panel("Flood", "1 while more than gate.max_hold_share of the last 1,000 records are held.", "short", (Query("max(winnow_flood{})"),), "stat", 4, 5, GREEN_RED),
                Panel("Drift", "1 while what passes has changed, seen by a gate or said in the registry.", "short", (Query("max(winnow_drift{})"),), "stat", 4, 5, GREEN_RED),
            ),
        ),
    ),
)  # fmt: skip

PIPELINE = Board(
    "winnow-pipeline",
    "winnow: pipeline",
    "Where the time goes, what Kafka does, what the device does.",
    (
        Row(
            "Records",
            (
                Panel("Reasons", "Records a second, by route and reason.", "recps", (Query(f"{rate('winnow_records_total', 'route, reason')} > 0", "{{route}}: {{reason}}"),), width=12, stacked=True),
                Panel(
                    "Latency", "From a record's timestamp to the commit of its transaction.", "s",
                    tuple(Query(quantile(q, "winnow_end_to_end_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)), width=12,
                ),
            ),
        ),
        Row(
            "Stages",
            (
                Panel("Stage times", "Mean time of a batch in each stage.", "s", (Query(f"{rate('winnow_stage_seconds_sum', 'stage')} / {rate('winnow_stage_seconds_count', 'stage')}", "{{stage}}"),)),
                Panel("Busy", "Share of a second that gates spend in each stage; judge near 1 a gate means that the model is the limit.", "percentunit", (Query(rate("winnow_stage_seconds_sum", "stage"), "{{stage}}"),), stacked=True),
                Panel("Records a transaction", "Median and 95th percentile.", "short", tuple(Query(quantile(q, "winnow_batch_records"), f"p{q * 100:g}") for q in (0.5, 0.95))),
            ),
        ),
        Row(
            "Device",
            (
                Panel("Tokens", "Tokens a second through the model in service.", "short", (Query(rate("winnow_tokens_total", "what"), "{{what}}"),), stacked=True),
                Panel("Padding", "Share of the tokens that are padding; records of like length share a pass.", "percentunit", (Query(share('winnow_tokens_total{,what="padding"}', "winnow_tokens_total{}"), "padding"),)),
                Panel("Tokens a pass", "Mean size of a forward pass.", "short", (Query(f"{rate('winnow_tokens_total')} / {rate('winnow_passes_total')}", "tokens"),)),
                Panel("GPU memory", "Used and there; 0 where gates judge on the CPU.", "bytes", (Query("sum by (kind) (winnow_gpu_memory_bytes{})", "{{kind}}"),)),
                Panel("GPU use", "Share of time the GPU works; 0 without one.", "percentunit", (Query("avg(winnow_gpu_utilisation_ratio{})", "use"),)),
                Panel("Reward cache", "Records looked up in it a second, by outcome; 0 while `gate.cache_records` is 0.", "recps", (Query(rate("winnow_cache_records_total", "outcome"), "{{outcome}}"),), stacked=True),
            ),
        ),
        Row(
            "Kafka",
            (
                Panel("Lag by partition", "Records between what the owner has polled and the end.", "short", (Query("sum by (partition) (winnow_lag_records{})", "{{partition}}"),)),
                Panel("Owned partitions", "By gate.", "short", (Query("winnow_owned_partitions{}", "{{instance}}"),), stacked=True),
                Panel("Since the last commit", "By gate; grows while no record comes, too.", "s", (Query("time() - (winnow_last_commit_timestamp_seconds{} > 0)", "{{instance}}"),)),
                Panel("Transactions", "A second, by outcome; aborted ones are tried again, split ones held a record that the broker refused, of unknown ones Kafka is asked what came of them.", "ops", (Query(rate("winnow_transactions_total", "outcome"), "{{outcome}}"),)),
                Panel("Rebalances", "Callbacks in five minutes, by kind.", "short", (Query("sum by (kind) (increase(winnow_rebalances_total{}[5m]))", "{{kind}}"),)),
                Panel("Schema registry", "Vain tries a second to fetch the schema that a record names; the gate waits meanwhile.", "ops", (Query(rate("winnow_schema_registry_failures_total"), "failed"),)),
                Panel("Given up, unwritable", "Records left to a partition's next owner, and records that the broker refused.", "recps", (Query(rate("winnow_records_given_up_total"), "given up"), Query(rate("winnow_records_unwritable_total"), "unwritable"), Query(rate("winnow_audits_refused_total"), "audit copies refused"))),
            ),
        ),
    ),
)  # fmt: skip

QUALITY = Board(
    "winnow-quality",
    "winnow: quality",
    "What is held and why, what passes and should not, and whether the stream has changed.",
    (
        Row(
            "Held",
            (
                Panel("Held share", "Of all records, over the window.", "percentunit", (Query(share('winnow_records_total{,route="quarantine"}', "winnow_records_total{}"), "held"), Query("max(winnow_held_share{})", "of the last 1,000"))),
                Panel("Held by reason", "Records a second in quarantine.", "recps", (Query(f'sum by (reason) (rate(winnow_records_total{{,route="quarantine"}}[{RATE}])) > 0', "{{reason}}"),), stacked=True),
                Panel("Rules broken", "A second, by rule and severity; warnings hold nothing. No data without a rules file.", "ops", (Query(f"sum by (rule, severity) (rate(winnow_rule_violations_total{{}}[{RATE}]))", "{{rule}} ({{severity}})"),)),
            ),
        ),
        Row(
            "Passed",
            (
                Panel("Wrong but passed", "Estimated from the latest settled flat audits, with the 95 % interval.", "percentunit", (Query("winnow_review_wrong_passed_ratio{}", "{{bound}}"),), width=12),
                Panel("Draws it is made of", "Settled flat audits of what passed.", "short", (Query("winnow_review_flat_draws{}", "draws"),), width=6),
                Panel("Drawn for audit", "Records a second, by lottery.", "recps", (Query(rate("winnow_audits_drawn_total", "lottery"), "{{lottery}}"),), width=6),
            ),
        ),
        Row(
            "What the model says",
            (
                Panel("P(right)", "Records a second by p_chosen; a model that knows has most at the ends.", "short", (Query(f"sum by (le) (rate(winnow_p_chosen_bucket{{}}[{RATE}]))", "{{le}}"),), "heatmap"),
                Panel("Rewards", "Median reward of each answer.", "none", (Query(quantile(0.5, "winnow_reward", "answer"), "{{answer}}"),)),
                Panel("Threshold", "p_chosen from which a record is clean, by gate.", "percentunit", (Query("winnow_threshold{}", "{{instance}}"),)),
                Panel("Drift", "Population stability index of d, and of the field that has changed most.", "none", (Query("max by (of) (winnow_drift_psi{})", "{{of}}"),), width=12),
                Panel("Drift said", "1 while there is drift, by gate and by the trainer.", "short", (Query("winnow_drift{}", "{{instance}}"), Query("winnow_train_drift{}", "trainer")), width=12),
            ),
        ),
    ),
)  # fmt: skip

REVIEW = Board(
    "winnow-review",
    "winnow: review",
    "What waits for people, how they get on, and whether they agree.",
    (
        Row(
            "Waiting",
            (
                Panel("Records by state", "Held and audited records in the store.", "short", (Query("sum by (state) (winnow_review_records{})", "{{state}}"),), stacked=True),
                Panel("Waiting for another", "Open records that need a second look, a settlement, or another answer where a training doubts the first.", "short", (Query("sum by (look) (winnow_review_waiting{})", "{{look}}"),)),
                Panel("Oldest open record", "How long it has waited.", "s", (Query("max(winnow_review_oldest_open_seconds{})", "oldest"),)),
            ),
        ),
        Row(
            "Answers",
            (
                Panel("Verdicts", "An hour, by answer.", "short", (Query("sum by (verdict) (increase(winnow_review_verdicts_total{}[1h]))", "{{verdict}}"),), stacked=True),
                Panel("Agreement", "Cohen's kappa of two reviewers' first answers, on what chance shows to a second one. No data before two people have answered the same records.", "none", (Query("winnow_review_agreement_kappa{}", "kappa"),)),
                Panel("Compared", "Records that two reviewers have answered because chance had it so.", "short", (Query("winnow_review_compared_records{}", "records"),)),
            ),
        ),
        Row(
            "The service",
            (
                Panel("Next record", "Time to find it.", "s", tuple(Query(quantile(q, "winnow_review_lease_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95))),
                Panel("Answer to Kafka", "Time from an answer to the commit of its verdict.", "s", tuple(Query(quantile(q, "winnow_review_publish_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95))),
                Panel("Refused", "Answers whose lease was over, logins, and events that could not be read, in an hour.", "short", (Query("sum(increase(winnow_review_leases_lost_total{}[1h]))", "lease over"), Query("sum by (cause) (increase(winnow_review_logins_refused_total{}[1h]))", "login: {{cause}}"), Query("sum(increase(winnow_review_events_unreadable_total{}[1h]))", "unreadable events"))),
            ),
        ),
    ),
)  # fmt: skip

MODEL = Board(
    "winnow-model",
    "winnow: model life",
    "What is in service, what waits beside it, and what the trainer makes of the verdicts.",
    (
        Row(
            "In service",
            (
                Panel("In service", "The digest that each gate has loaded.", "none", (Query("winnow_model_info{}"),), "table", 12, 6),
                Panel("In shadow", "The challenger that each gate scores beside it; `none` where there is none.", "none", (Query("winnow_shadow_info{}"),), "table", 12, 6),
                Panel("Age of the model", "Since the version in service was published.", "s", (Query("time() - max(winnow_model_created_timestamp_seconds{} > 0)"),), "stat", 6, 6, (("green", None), ("orange", 2_592_000))),
                Panel("Rules", "Digest of the rules file in service.", "none", (Query("winnow_rules_info{}"),), "table", 10, 6),
                Panel("Taken up", "Models and rules taken up while running, in a day.", "short", (Query("sum(increase(winnow_swaps_total{}[1d]))"),), "stat", 4, 6),
                Panel("Refused", "In a day, by what; the old one serves on.", "short", (Query("sum(increase(winnow_refused_total{}[1d]))"),), "stat", 4, 6, (("green", None), ("red", 1))),
            ),
        ),
        Row(
            "Shadow",
            (
                Panel("Flips", "Records a second that would leave the other way by the challenger.", "recps", (Query(rate("winnow_shadow_flips_total", "direction"), "{{direction}}"),), width=12),
                Panel("Scored beside", "Records a second that the challenger scores too.", "recps", (Query(rate("winnow_shadow_records_total"), "records"),), width=12),
            ),
        ),
        Row(
            "Training",
            (
                Panel("Verdicts waiting", "Answers that no cycle has learned from, and how many start one.", "short", (Query("winnow_train_verdicts_waiting{}", "waiting"), Query("winnow_train_verdicts_needed{}", "start a cycle"))),
                Panel("Cycles", "In a day, by what they came to.", "short", (Query("sum by (outcome) (increase(winnow_train_cycles_total{}[1d]))", "{{outcome}}"),)),
                Panel("Running", "1 while a cycle runs.", "short", (Query("max(winnow_train_running{})", "running"),)),
                Panel("AUROC on the hold-out", "Of the last version that this trainer made; 0 before the first.", "none", (Query("winnow_train_auroc{}", "AUROC"),)),
                Panel("Length of a cycle", "Mean since the trainer began.", "s", (Query("winnow_train_cycle_seconds_sum{} / (winnow_train_cycle_seconds_count{} > 0)", "seconds"),)),
                Panel("Certified, doubtful", "Whether its threshold is certified, and how many verdicts it found doubtful.", "short", (Query("winnow_train_certified{}", "certified"), Query("winnow_train_suspects{}", "doubtful verdicts"))),
                Panel("Newest version", "Since it was published.", "s", (Query("time() - (winnow_train_newest_created_timestamp_seconds{} > 0)"),), "stat", 8, 5),
            ),
        ),
    ),
)  # fmt: skip

BOARDS = (OVERVIEW, PIPELINE, QUALITY, REVIEW, MODEL)


def served() -> set[str]:
    """Return the names of all series that gate, review service and trainer can show."""
    registries = (GateMetrics(Rules()).registry, ReviewMetrics().registry, TrainMetrics().registry)
    samples = {sample.name for registry in registries for family in registry.collect() for sample in family.samples}
    return samples | {
        "winnow_lag_records",
        "winnow_lag_seconds",
        "winnow_rule_violations_total",
    }  # their labels come with partitions and rules


def wrong_with(boards: tuple[Board, ...]) -> list[str]:
    """Return a sentence for every panel that asks for what nobody serves, or says too little of itself."""
    known = served()
    found = []
    for board in boards:
        for panel in board.panels:
            missing = {name for query in panel.queries for name in asked(query.expr)} - known
            found += [f"{board.title}, {panel.title}: nobody serves {name}" for name in sorted(missing)]
            if not panel.description.endswith(".") or not panel.unit:
                found.append(f"{board.title}, {panel.title}: needs a description and a unit")
    return found


def files() -> dict[Path, str]:
    """Return every file that is made here, and what it must hold."""
    chart, rules = DEPLOY / "helm" / "winnow" / "files", DEPLOY / "prometheus" / "rules.yaml"
    boards = {f"{board.uid}.json": json.dumps(as_json(board, BOARDS), indent=1, ensure_ascii=False) + "\n" for board in BOARDS}
    copies = {place / name: text for place in (HERE, chart / "dashboards") for name, text in boards.items()}
    return {**copies, chart / "rules.yaml": rules.read_text()}


def main() -> None:
    """Write the files, or with --check say what is wrong with them."""
    wanted, wrong = files(), wrong_with(BOARDS)
    if "--check" in sys.argv:
        there = {path for place in {path.parent for path in wanted} for path in place.iterdir() if path.is_file()}
        stale = [path for path in there | wanted.keys() if not path.is_file() or path.read_text() != wanted.get(path)]
        wrong += [f"{path.relative_to(DEPLOY.parent)} is out of date; run `make docs`" for path in sorted(stale)]
    else:
        for path, text in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
