"""`winnow replay`: quarantine or dead-letter -> the model and the rules of now; what they let through goes to clean, exactly once.

Enters: a topic and what is wanted of it. Leaves: releases, each in one transaction with the event that says so, and counts. Works
under the one owner's transactional id, after having read the verdict topic to its end: whatever a person has answered, and whatever
was replayed before, is left alone. What is still held stays where it is; a dead letter that can be read now and is held goes to
quarantine. What the flat lottery drew waits for people: an estimate that lost its held draws would be wrong.
"""

import importlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import Progress, TextColumn

from foundation.errors import GateFenced, KafkaRefused, SettingInvalid
from model_registry.registry import Registry
from stream import wire
from stream.cluster import look_at_cluster
from stream.judge import Judge
from stream.records import REPLAY, Content, Decision, Lottery, Reason, Record, Route, Verdict
from stream.release import OWNER, Releaser
from stream.route import Outgoing
from stream.rules import Rules
from stream.schemas import Schemas
from stream.tail import read_all
from stream.transaction import RecordRefused, Sink, StartOver, TransactionAborted

log = logging.getLogger("winnow.replay")

AT_ONCE, _MOST_BYTES = 500, 16 * 2**20
REVIEWER = "winnow replay"
_TRIES, _PAUSE_SECONDS = 20, 1.0

Transform = Callable[[bytes], bytes | None]


class Wanted(NamedTuple):
    """Which held records are judged again; None is no limit. Times are the records' own timestamps."""

    source: Literal["quarantine", "dead-letter"] = "quarantine"
    since: datetime | None = None
    until: datetime | None = None
    reasons: tuple[str, ...] = ()
    model: str | None = None
    p_from: float = 0.0
    p_to: float = 1.0
    most_attempts: int = 5
    """Leaves alone what was written so often: a dead letter that was mended and held, then released, is the third."""

    def takes(self, record: Record) -> bool:
        """Return whether a held record is one of these."""
        ours, at_seconds = wire.split(record.headers)[1], record.timestamp_ms / 1000
        if (self.since is not None and at_seconds < self.since.timestamp()) or (
            self.until is not None and at_seconds >= self.until.timestamp()
        ):
            return False
        if self.reasons and (wire.last(ours, wire.REASON) or "") not in self.reasons:
            return False
        if self.model is not None and wire.last(ours, wire.MODEL) != self.model:
            return False
        if (self.p_from, self.p_to) == (0.0, 1.0):
            return True
        try:
            return self.p_from <= float(wire.last(ours, wire.P_CHOSEN) or "nan") <= self.p_to
        except ValueError:  # anybody may write to a topic
            return False


class Again(NamedTuple):
    """A held record, as it came in, with what it says now and what has been decided of it."""

    held: Record
    record: Record
    value: bytes
    decision: Decision
    content_type: str


def replay(tables: Any, wanted: Wanted, *, transform: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Judge held records again and let go what passes; return counts. Raises SettingInvalid, ModelRefused, KafkaRefused.

    dry_run: everything but writing, and nobody is fenced. transform: `MODULE:FUNCTION` that is given a value and returns another one,
    or None to leave the record alone.
    """
    change = _imported(transform)
    rules = Rules.load(tables.gate.rules_file)
    topics = tables.topics
    cluster = look_at_cluster(tables.kafka, [topics.clean, topics.quarantine, topics.dead_letter, topics.verdicts], topics.quarantine)
    schemas = Schemas(tables.kafka)
    judge = _judge(tables, rules, schemas)
    counts: Counter[str] = Counter()
    with ExitStack() as parts:
        parts.callback(schemas.close)
        sink = None
        if not dry_run:
            sink = parts.enter_context(closing(Sink(tables.kafka, OWNER)))
        known = _known(tables, wanted, counts)
        releaser = Releaser(topics, cluster.partition_counts, tables.gate.partitioner)
        progress = parts.enter_context(_progress())
        task = progress.add_task("records judged again", total=None, told="")
        chosen = _chosen(tables, wanted, known, counts)
        for held in _pieces(chosen):
            found = _judged(held, judge, schemas, wanted, change, counts)
            moved = [each for each in found if _moves(each, wanted)]
            if sink is not None:
                moved = _commit(sink, [(each, _messages(each, judge, releaser, topics)) for each in moved], counts)
            counts.update(str(each.decision.route) for each in moved)
            counts["left"] += len(held) - len(moved)
            progress.update(task, advance=len(held), told=f"{counts['clean']} to clean, {counts['left']} left")
    names = ("read", "answered", "drawn", "attempts", "other", "transform-failed", "clean", "quarantine", "left", "unwritable")
    return {"from": wanted.source, "dry_run": dry_run, **{name.replace("-", "_"): counts[name] for name in names}}


def _known(tables: Any, wanted: Wanted, counts: Counter[str]) -> frozenset[str]:
    """Return the decisions that are done with: answered by somebody, or replayed before."""
    answered = {
        verdict.decision_id for record in read_all(tables.kafka, tables.topics.verdicts) if (verdict := wire.read_verdict(record.value))
    }
    if wanted.source == "quarantine":
        return frozenset(answered)
    held = read_all(tables.kafka, tables.topics.quarantine)  # dead letters that have come as far as there
    return frozenset(answered | {wire.last(each.headers, wire.DECISION_ID) or "" for each in held if _is_replayed(each)})


def _is_replayed(record: Record) -> bool:
    return wire.last(record.headers, wire.ORIGIN) == wire.ORIGIN_REPLAY.decode()


def _chosen(tables: Any, wanted: Wanted, known: frozenset[str], counts: Counter[str]) -> Iterator[Record]:
    """Yield the held records that are wanted and not done with, each decision once; counts why others are not."""
    topic = tables.topics.quarantine if wanted.source == "quarantine" else tables.topics.dead_letter
    seen: set[str] = set()
    for record in read_all(tables.kafka, topic):
        decision_id = wire.last(record.headers, wire.DECISION_ID)
        if decision_id is None or _place_of(decision_id) is None:
            continue  # not the gate's
        counts["read"] += 1
        if not wanted.takes(record):
            counts["other"] += 1
        elif decision_id in known or decision_id in seen:
            counts["answered"] += 1
        elif wire.last(wire.split(record.headers)[1], wire.LOTTERY) == Lottery.FLAT:
            counts["drawn"] += 1
        elif wire.attempt_of(record.headers) >= wanted.most_attempts:
            counts["attempts"] += 1
        else:
            seen.add(decision_id)
            yield record


def _pieces(chosen: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield the records in pieces that one transaction carries in seconds, by number and by size."""
    piece: list[Record] = []
    size_bytes = 0
    for record in chosen:
        piece.append(record)
        size_bytes += len(record.value or b"")
        if len(piece) == AT_ONCE or size_bytes > _MOST_BYTES:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece


def _judged(
    held: list[Record], judge: Judge, schemas: Schemas, wanted: Wanted, change: Transform | None, counts: Counter[str]
) -> list[Again]:
    """Return what the rules and the model of now say, of all that the transform returns a value for."""
    changed: list[tuple[Record, Record, bytes]] = []
    for each in held:
        value = _changed(each, change, counts)
        if value is not None:
            changed.append((each, _as_it_came(each)._replace(value=value), value))
    read = judge.read([record for _, record, _ in changed])
    decisions = judge.decide(read, explain=wanted.source == "dead-letter")
    contents = [read.content(place) for place in range(len(changed))]
    return [
        Again(*each, decision, schemas.kind_of(each[2]) or ("json" if isinstance(content, Content) and content.is_json else "text"))
        for each, decision, content in zip(changed, decisions, contents, strict=True)
    ]


def _changed(held: Record, change: Transform | None, counts: Counter[str]) -> bytes | None:
    if held.value is None or wire.last(held.headers, wire.REASON) == Reason.UNWRITABLE:
        return None  # its bytes are in the input topic alone
    if change is None:
        return held.value
    try:
        value = change(held.value)
    except Exception as error:  # noqa: BLE001 - somebody else's code fails on one record, and the others go on
        value = None
        counts["transform-failed"] += 1
        said = {"error": type(error).__name__, "decision_id": wire.last(held.headers, wire.DECISION_ID)}
        log.warning("the transform failed on a record, which stays", extra=said)
    return value if isinstance(value, bytes) else None


def _moves(again: Again, wanted: Wanted) -> bool:
    """Return whether a record leaves where it lies: nothing is written twice to the topic that it is on."""
    route = again.decision.route
    return route is Route.CLEAN or (route is Route.QUARANTINE and wanted.source == "dead-letter")


def _messages(again: Again, judge: Judge, releaser: Releaser, topics: Any) -> list[Outgoing]:
    """Return where a record goes and, if that is clean, the event that tells everybody so."""
    held, record, value, decision, content_type = again
    topic_id = wire.last(held.headers, wire.TOPIC_ID) or ""
    model = judge.model
    label, digest, threshold = (None, None, None) if model is None else (model.label, model.digest, model.threshold)
    shared = wire.constants({record.topic: topic_id}, threshold, label, digest, judge.rules.digest)
    headers = wire.replay_headers(held, record, decision, shared)
    if decision.route is not Route.CLEAN:
        return [releaser.replayed(held, topics.quarantine, value, headers)]
    verdict = Verdict(
        record.decision_id, topic_id, is_right=True, reviewer=REVIEWER, time_ms=int(time.time() * 1000),
        key=held.key, value=held.value or b"", content_type=content_type,
        p_chosen=decision.p_chosen, threshold=threshold, model_digest=digest, reason=str(decision.reason),
        source=REPLAY, propensity=1.0, lottery=None, blind=False, correction=None if value == held.value else value,
    )  # fmt: skip
    return [releaser.event(verdict), releaser.replayed(held, topics.clean, value, headers)]


def _commit(sink: Sink, found: list[tuple[Again, list[Outgoing]]], counts: Counter[str]) -> list[Again]:
    """Write in one transaction, patiently, and return what has been written.

    What the broker refuses for its own sake is found by halving, and left.
    """
    if not found:
        return []
    for tries in range(_TRIES):
        try:
            sink.commit([message for _, messages in found for message in messages], {}, None)
        except RecordRefused:
            if len(found) == 1:
                counts["unwritable"] += 1
                return []
            middle = len(found) // 2
            return _commit(sink, found[:middle], counts) + _commit(sink, found[middle:], counts)
        except TransactionAborted as error:
            if tries == _TRIES - 1:
                raise KafkaRefused(f"Kafka does not take what is replayed: {error}; run it again, what is done is left alone") from error
            time.sleep(_PAUSE_SECONDS)
        except StartOver as error:
            raise KafkaRefused(f"whether Kafka has taken the last {len(found)} records is not known: {error}; run it again") from error
        except GateFenced as error:
            raise GateFenced(f"another owner of {OWNER} has taken over, `winnow review` or a second replay; run one at a time") from error
        else:
            break
    return [each for each, _ in found]


def _judge(tables: Any, rules: Rules, schemas: Schemas) -> Judge:
    if tables.gate.mode == "rules":
        return Judge(tables.gate, rules, None, schemas=schemas)
    from stream.live_model import load_live_model  # noqa: PLC0415 - torch takes seconds: what can be refused without it was

    model = load_live_model(Registry(tables.registry).verified(tables.gate.model), tables.gate)
    return Judge(tables.gate, rules, model, schemas=schemas)


def _place_of(decision_id: str) -> tuple[str, int, int] | None:
    topic, *place = decision_id.rsplit(":", 2)
    return (topic, int(place[0]), int(place[1])) if len(place) == 2 and all(part.isdecimal() for part in place) else None  # noqa: PLR2004


def _as_it_came(held: Record) -> Record:
    """Return the record under the name of its decision, with the producer's headers alone."""
    place = _place_of(wire.last(held.headers, wire.DECISION_ID) or "")
    assert place is not None  # noqa: S101 - _chosen has left the others out
    return held._replace(topic=place[0], partition=place[1], offset=place[2], headers=wire.split(held.headers)[0])


def _imported(name: str | None) -> Transform | None:
    """Return the function that `MODULE:FUNCTION` names, from where the command is run. Raises SettingInvalid."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    if "" not in sys.path:  # and it stays there: what the function imports later lies there too
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # somebody else's code, which may fail in any way
        said = f"{type(error).__name__}: {error}"
        raise SettingInvalid(f"--transform {name}: MODULE:FUNCTION is wanted, and this is what Python says: {said}") from error
    if not callable(found):
        raise SettingInvalid(f"--transform {name}: {function} is no function")
    return found  # type: ignore[no-any-return]


def _progress() -> Progress:
    columns = (*Progress.get_default_columns()[:1], TextColumn("{task.completed} {task.fields[told]}"))
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
