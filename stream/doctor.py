"""`winnow doctor`: looks at everything a gate needs and says of each whether it is well, and if not how it is mended.

Enters: settings. Leaves: findings, in the order in which one would look. It writes no record, joins no group and fences no gate: what
it starts transactions for is an id of its own. A part that cannot be looked at because an earlier one is broken is left out.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Literal, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from foundation.errors import WinnowError
from model_registry.registry import CHALLENGER, Registry
from stream.cluster import (
    Administrator,
    administrator,
    first_and_last,
    list_topics,
    missing_rights,
    records_waiting,
    settings_that_differ,
    topic_names,
    topic_settings,
)
from stream.framed import id_of
from stream.rules import Rules
from stream.schemas import Schemas
from stream.transaction import TRANSACTIONAL_PREFIX, may_transact

State = Literal["well", "warning", "broken"]
_FAST_SECONDS, _HTTP_SECONDS = 60.0, 3.0
_DAY_MS = 86_400_000


class Finding(NamedTuple):
    """What was looked at, how it is, and what mends it; `exit_code` is that of the command that would fail."""

    what: str
    state: State
    said: str
    mend: str = ""
    exit_code: int = 0


def examine(tables: Any, *, with_model: bool = True) -> Iterator[Finding]:
    """Yield the findings, one after the other."""
    yield from _safely("rules", lambda: _rules(tables))
    if tables.kafka.schema_registry is not None:
        yield from _safely("schemas", lambda: _schemas(tables))
    yield from _safely("registry", lambda: _registry(tables))
    if with_model and tables.gate.mode != "rules":
        yield from _safely("model", lambda: _model(tables))
    try:
        admin = administrator(tables.kafka)
        counts = list_topics(admin, tables.kafka)
    except WinnowError as error:
        yield Finding("kafka", "broken", str(error), "start Kafka, or mend kafka.bootstrap_servers and kafka.extra", error.exit_code)
        return
    yield Finding("kafka", "well", f"{tables.kafka.bootstrap_servers} answers, {len(counts)} topics")
    yield from _safely("topics", lambda: _topics(admin, tables, counts), "warning")
    if tables.topics.records in counts:
        yield from _safely("rights", lambda: _rights(admin, tables, counts))
        yield from _safely("transactions", lambda: _transactions(tables))
        yield from _safely("times", lambda: _times(admin, tables, counts), "warning")
        yield from _safely("lag", lambda: _lag(tables, counts[tables.topics.records]))
    yield from _gate(tables, counts)
    yield _page(tables)


def _safely(what: str, look: Callable[[], Iterator[Finding]], worst: State = "broken") -> Iterator[Finding]:
    """Yield the findings of a look; an error of ours is one too, as bad as `worst`: a gate needs no right to read topics' settings."""
    try:
        yield from look()
    except WinnowError as error:
        yield Finding(what, worst, str(error), _MENDS.get(what, ""), error.exit_code if worst == "broken" else 0)


_MENDS = {
    "rules": "mend the file; `winnow config check` names the line",
    "registry": "set registry.url, or publish: `winnow starter`, then `winnow train --base DIR`",
    "schemas": "mend kafka.schema_registry, schema_registry_extra or schema_registry_secrets; until it answers, gates wait",
    "rights": "see what Kafka says; a gate would meet the same",
    "transactions": "see what Kafka says; a gate would meet the same",
    "topics": "DESCRIBE_CONFIGS on the topics lets `winnow doctor` compare their settings",
    "times": "DESCRIBE_CONFIGS on the topics, and READ on the group winnow-doctor, let it look at times",
    "model": "`winnow registry rollback`, or publish again",
}


def _rules(tables: Any) -> Iterator[Finding]:
    rules = Rules.load(tables.gate.rules_file)
    named = "no rules file" if tables.gate.rules_file is None else f"{tables.gate.rules_file}: {len(rules.rules)} rules"
    yield Finding("rules", "well", named)


def _registry(tables: Any) -> Iterator[Finding]:
    if tables.gate.mode == "rules":
        yield Finding("registry", "well", "gate.mode = rules: no model is asked")
        return
    registry = Registry(tables.registry)
    version = registry.verified(tables.gate.model)
    yield Finding("registry", "well", f"{tables.gate.model} is {version.label}, every file as published, threshold {_certified(version)}")
    if CHALLENGER in registry.aliases():
        challenger = registry.verified(CHALLENGER)
        yield Finding("challenger", "well", f"{challenger.label}, every file as published")
    if registry.is_pinned():
        yield Finding(
            "pin", "warning", "the champion is pinned by a rollback: no cycle may promote", "`winnow registry unpin` or `promote VERSION`"
        )
    mark = registry.drift(version.digest)
    if mark is not None:
        yield Finding("drift", "warning", f"drift has been said: {mark.why}", "answer audited records, then `winnow train --cycle`")


def _certified(version: Any) -> str:
    threshold = version.manifest.threshold
    return "certified" if threshold.certified else f"not certified ({threshold.reason or 'no verdicts'})"


def _model(tables: Any) -> Iterator[Finding]:
    from stream.live_model import load_live_model  # noqa: PLC0415 - torch takes seconds

    model = load_live_model(Registry(tables.registry).verified(tables.gate.model), tables.gate)
    where = f"{model.scorer.device}, {str(model.scorer.precision).removeprefix('torch.')}"
    yield Finding("model", "well", f"{model.label} keeps its fingerprint on {where}, about {model.records_per_second:,.0f} records/s")


def _topics(admin: Administrator, tables: Any, counts: dict[str, int]) -> Iterator[Finding]:
    topics = tables.topics
    names = [*topic_names(topics, with_audit=True), topics.verdicts]
    for name in names:
        if name not in counts:
            yield Finding(f"topic {name}", "broken", "is not there", "`winnow topics` makes it", 3)
    if topics.records not in counts:
        return
    there = [name for name in names if name in counts]
    for name, differences in settings_that_differ(admin, topics, counts).items():
        if differences:
            yield Finding(
                f"topic {name}",
                "warning",
                "; ".join(differences),
                f"`kafka-configs --bootstrap-server {tables.kafka.bootstrap_servers} --alter --entity-type topics "
                f"--entity-name {name} --add-config NAME=VALUE`",
            )
    yield Finding("topics", "well", f"{len(there)} of {len(names)} are there, the input has {counts[topics.records]} partitions")


def _rights(admin: Administrator, tables: Any, counts: dict[str, int]) -> Iterator[Finding]:
    topics = tables.topics
    outputs = [name for name in (topics.clean, topics.quarantine, topics.dead_letter, topics.audit) if name in counts]
    missing = missing_rights(admin, topics.records, [*outputs, *({topics.verdicts} & counts.keys())], tables.gate.group)
    of_gates = [right for right in missing if right != f"WRITE on {topics.verdicts}"]
    mend = f"`kafka-acls --bootstrap-server {tables.kafka.bootstrap_servers} --add` for the user of kafka.extra"
    if of_gates:
        yield Finding("rights", "broken", f"missing: {', '.join(missing)}", mend, 3)
    elif missing:
        yield Finding(
            "rights", "warning", f"missing, and a gate does not need it: {', '.join(missing)}; review service and replay do", mend
        )
    else:
        yield Finding("rights", "well", "the input may be read, the group joined, every output written")


def _transactions(tables: Any) -> Iterator[Finding]:
    """Try a transactional id beside the gates': a prefix that allows theirs allows it too, an ACL for each of them by itself does not."""
    tried = f"{TRANSACTIONAL_PREFIX}{tables.gate.group}-doctor"
    if may_transact(tables.kafka, tried):
        yield Finding("transactions", "well", f"{tried} may start transactions")
    else:
        yield Finding(
            "transactions", "warning",
            f"{tried} may not start transactions; a gate may where its own {TRANSACTIONAL_PREFIX}{tables.gate.group}-INSTANCE is allowed",
            f"`kafka-acls --bootstrap-server {tables.kafka.bootstrap_servers} --add --operation Write --operation Describe "
            f"--transactional-id {TRANSACTIONAL_PREFIX} --resource-pattern-type prefixed` for the user of kafka.extra",
        )  # fmt: skip


def _schemas(tables: Any) -> Iterator[Finding]:
    with closing(Schemas(tables.kafka)) as schemas:
        schemas.ask()
    yield Finding("schemas", "well", f"{tables.kafka.schema_registry} answers")


def _times(admin: Administrator, tables: Any, counts: dict[str, int]) -> Iterator[Finding]:
    """Look at the first and the last record of each input partition: what a retention would delete at once, and clocks ahead."""
    topics = tables.topics
    first, last = first_and_last(tables.kafka, topics.records, counts[topics.records])
    first_ms, last_ms = ([message.timestamp()[1] for message in messages] for messages in (first, last))
    now_ms = time.time() * 1000
    if not first_ms:
        yield Finding("times", "well", "the input is empty")
        return
    framed = sum(id_of(message.value()) is not None for message in last)
    if framed and tables.kafka.schema_registry is None:
        yield Finding(
            "schemas", "warning",
            f"{framed} of the newest records begin as a schema registry's serializers write them, and are read as text or not at all",
            "set kafka.schema_registry to the registry's address",
        )  # fmt: skip
    for name in (topics.clean, topics.quarantine, topics.dead_letter, topics.audit):
        if name not in counts:
            continue
        keeps_ms = int(topic_settings(admin, name)["retention.ms"])
        if keeps_ms >= 0 and now_ms - min(first_ms) > keeps_ms:
            yield Finding(
                f"retention of {name}", "warning",
                f"the oldest record is of {(now_ms - min(first_ms)) / _DAY_MS:.1f} days ago, {name} keeps {keeps_ms / _DAY_MS:.1f}: "
                "what is older is deleted soon after it is written",
                f"raise retention.ms of {name}",
            )  # fmt: skip
    ahead_seconds = (max(last_ms) - now_ms) / 1000
    if ahead_seconds > _FAST_SECONDS:
        yield Finding(
            "clock", "warning", f"the newest record is {ahead_seconds:,.0f} s ahead of this machine's clock",
            "set the clocks by NTP: the producer's, or this machine's; latency and lag are wrong until then",
        )  # fmt: skip
    else:
        yield Finding("clock", "well", f"the newest record is {max(0.0, -ahead_seconds):,.0f} s old")


def _lag(tables: Any, partitions: int) -> Iterator[Finding]:
    waiting = records_waiting(tables.kafka, tables.topics.records, partitions, tables.gate.group)
    yield Finding("lag", "well", f"{waiting:,} records wait for the group {tables.gate.group}")


def _gate(tables: Any, counts: dict[str, int]) -> Iterator[Finding]:
    """Ask the gate of this machine, where it tells its figures, whether it is ready and knows the partitions that there are."""
    port = tables.gate.metrics_port
    if not port:
        return
    where = f"http://{tables.gate.metrics_bind}:{port}"
    try:
        text = _get(f"{where}/metrics")
    except OSError as error:
        yield Finding("gate", "warning", f"none answers at {where}: {error}", "`winnow gate`, if one is to run on this machine")
        return
    known = {
        sample.labels["topic"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        if family.name == "winnow_topic_partitions"
        for sample in family.samples
    }
    changed = [f"{topic} had {count}, has {counts[topic]}" for topic, count in known.items() if counts.get(topic, count) != count]
    if changed:
        yield Finding("partitions", "warning", f"since the gate's boot: {'; '.join(changed)}", "restart the gates, one after the other")
    try:
        _get(f"{where}/readyz")
        yield Finding("gate", "well", f"ready at {where}")
    except OSError as error:
        yield Finding("gate", "warning", f"{where}/readyz: {error}", "its log says what it waits for")


def _page(tables: Any) -> Finding:
    where = f"http://{tables.review.bind}:{tables.review.port}"
    try:
        _get(f"{where}/readyz")
    except urllib.error.HTTPError as error:
        said = error.read().decode("utf-8", "replace").strip()[:200]
        return Finding("page", "warning", f"{where} answers {error.code}: {said}", "the sentence says what it waits for")
    except OSError as error:
        return Finding("page", "warning", f"none answers at {where}: {error}", "`winnow review`, if it is to run on this machine")
    return Finding("page", "well", f"ready at {where}")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_HTTP_SECONDS) as answer:  # noqa: S310 - an address of the settings
        return str(answer.read().decode())
