"""One retraining, from the verdict topic to a promotion; watch.py does it again when enough has been answered.

Steps, top to bottom: freeze a snapshot, settle it, keep the flat draws apart, check, look for mistakes, train, compare with
the champion on the same held-out records, certify a threshold, publish as challenger, promote what is not worse. Nothing
is visible to a gate before the version is whole: a crash before that leaves the old champion and no trace, a crash after it
is finished by the next cycle (promote.py).
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple, cast

import numpy as np
from transformers import PreTrainedModel

from foundation.errors import DataRefused, ModelRefused, VersionMissing
from model_registry.manifest import Threshold
from model_registry.registry import CHAMPION, Registry, Version
from model_registry.report import Report
from stream.boot import load_lotteries
from stream.decide import ticket
from stream.evidence import load_evidence
from stream.live_model import load_scorer, pick_device
from stream.render import Rendering
from stream.rules import Rules
from stream.schemas import Schemas
from trainer.bases import Base, encoder_of, load_base
from trainer.calibrate import p_of, right_held_threshold
from trainer.careless import Looks
from trainer.certify import Certificate, Refused, certify, drawn_alike
from trainer.check import Finding
from trainer.config import TrainSettings
from trainer.datasets import Labelled, digest_of_data
from trainer.evaluate import Comparison, Judged, Promotion, compare, may_promote
from trainer.learned import SCORE_TOKENS, Learned, d_with
from trainer.noise import Doubted, of_all, probability_of_verdicts, too_few, treat
from trainer.pairs import RENDERING, encode_labelled, text_of_content
from trainer.promote import conclude, finish_interrupted
from trainer.publish import Facts, publish
from trainer.report import Before, Found, report_files, report_of
from trainer.reviewers import by_reviewer
from trainer.sort import Sorted, sort
from trainer.train import checked, learn_from, sample_of, stream_files, words_of, workplace
from trainer.unlabelled import say_if_none, stream_of_cycle
from trainer.verdicts import Settled, Snapshot, read_snapshot, settle


class Cycle(NamedTuple):
    """What a cycle has come to."""

    version: Version
    promotion: Promotion
    findings: list[Finding]
    certificate: Certificate | Refused
    comparison: Comparison | None


def run_cycle(
    tables: Any, settings: TrainSettings, base_name: str | None, unlabelled: str | None, step: Callable[[str], None] = lambda what: None
) -> Cycle:
    """Train once on all verdicts there are, publish, and promote what is not worse. Raises DataRefused, ModelRefused.

    What an interrupted cycle has left undone is done first. step: is told after `trained`, `published` and `announced`.
    """
    registry = Registry(tables.registry)
    finish_interrupted(registry)
    champion = registry.verified(CHAMPION) if CHAMPION in registry.aliases() else None
    drift = None if champion is None else registry.drift(champion.digest)
    base = _base_of(base_name or settings.base, champion)
    words = words_of(base, settings)
    rules, audit_key = Rules.load(tables.gate.rules_file), load_lotteries(tables.gate).key
    encoder = encoder_of(base, words, settings.max_length)
    stream = stream_of_cycle(base, unlabelled, tables, settings)
    with closing(Schemas(tables.kafka)) as schemas:
        snapshot = read_snapshot(tables.kafka, tables.topics.verdicts, schemas=schemas)
    sorted_ = sort(settle(snapshot.verdicts, tables.review.wrong_looks), settings)
    if not sorted_.learn:
        raise DataRefused(f"{tables.topics.verdicts} holds no verdict to learn from ({len(sorted_.flat)} are kept for the certificate)")
    findings = checked(sorted_.learn, sorted_.hold_out, settings)
    doubted = _doubted(_unread(registry, base, champion), words, sorted_, settings)
    flat = [  # held or not
        Labelled(each.content, each.is_right, weight=round(1 / each.propensity, 6), kind=each.kind) for each in sorted_.flat
    ]
    with workplace(settings) as work:
        known = _known_to(champion if base_name is None and settings.base is None else None, tables)
        learned = learn_from(base, encoder, doubted.records, [*sorted_.hold_out, *flat], stream, settings, work, known)
        say_if_none(learned.contrastive, settings)
        sample = sample_of(encoder, stream, rules)
        of_stream = learned.judged(sample or learned.train_set)
        p_stream = of_stream.p_chosen
        wanted = right_held_threshold(p_stream, settings.right_held_share)
        certificate = _certificate(learned, sorted_.flat, audit_key, p_stream, wanted.p_chosen, settings)
        threshold = _threshold(certificate, wanted)
        judged = Judged(learned.d_test, p_of(learned.d_test, learned.calibration), threshold.p_chosen)
        before = _judged_by(champion, learned.test_set.records, stream, rules) if champion is not None else None
        comparison = _compared(judged, before.judged, learned, sorted_.looks, settings) if before is not None else None
        step("trained")
        decision = _decided(champion, comparison)
        found = Found(sorted_, findings, doubted, snapshot, certificate, comparison, decision)
        report = report_of(learned, judged, before, p_stream, found)
        beside = stream_files(learned.evidence, None if sample is None else of_stream, threshold)
        version = _publish(registry, base, learned, beside, threshold, settings, snapshot, champion, report)
    step("published")
    promotion = conclude(registry, version, decision, step)
    if drift is not None:
        registry.answer_drift(drift)
    return Cycle(version, promotion, findings, certificate, comparison)


def as_fields(cycle: Cycle) -> dict[str, object]:
    """Return a cycle's outcome as plain values."""
    is_certified = isinstance(cycle.certificate, Certificate)
    return {
        "version": cycle.version.label,
        "digest": cycle.version.digest,
        "promoted": cycle.promotion.promoted,
        "why": cycle.promotion.why,
        "metrics": cycle.version.manifest.metrics,
        "data_counts": cycle.version.manifest.data_counts,
        "certificate": cycle.certificate._asdict() if is_certified else None,
        "certificate_reason": None if is_certified else cast(Refused, cycle.certificate).reason,
        "findings": [finding.sentence for finding in cycle.findings],
    }


def _base_of(name: str | None, champion: Version | None) -> Base:
    if name is not None:
        return load_base(name)
    if champion is None:
        raise ModelRefused("there is no champion to train on; set train.base or give --base")
    return _of_version(champion)


def _of_version(version: Version) -> Base:
    return load_base(str(version.directory))._replace(name=version.label, facts={"verdict_words": list(version.manifest.verdict_words)})


def _unread(registry: Registry, base: Base, champion: Version | None) -> Base | None:
    """Return what may judge verdicts: the base, or where that is the champion its last ancestor that no cycle has taught.

    A model that has learned from a verdict finds it probable, right or wrong. None where there is no such ancestor any more.
    """
    if champion is None or base.name != champion.label or not champion.manifest.verdict_offsets:
        return base
    version = champion
    while version.manifest.verdict_offsets:
        if version.manifest.parent is None:
            return None
        try:
            version = registry.resolve(version.manifest.parent)
        except VersionMissing:
            return None
    return _of_version(registry.verified(str(version.number)))


def _known_to(base: Version | None, tables: Any) -> frozenset[str]:
    """Return the texts of records that a version may have learned from: all that were answered when it was made. None is nobody."""
    if base is None or not base.manifest.verdict_offsets:
        return frozenset()
    until = {int(partition): after for partition, after in base.manifest.verdict_offsets.items()}
    with closing(Schemas(tables.kafka)) as schemas:
        answered = read_snapshot(tables.kafka, tables.topics.verdicts, until=until, schemas=schemas).verdicts
    said = [content for each in settle(answered) for content in (each.content, each.correction) if content is not None]
    return frozenset(map(text_of_content, said))


def _doubted(judge: Base | None, words: tuple[str, str], sorted_: Sorted, settings: TrainSettings) -> Doubted:
    """Look for verdicts that are probably mistakes, with a base that knows something of the stream and nothing of the verdicts."""
    if judge is None or not judge.has_head:
        why = "no version is left that no verdict has taught" if judge is None else f"{judge.name} has no head that knows the stream"
        print(f"noise: mistaken verdicts are not looked for: {why}", file=sys.stderr)  # noqa: T201
        return treat(sorted_.learn, None, settings.noise)
    encoder = encoder_of(judge, words, settings.max_length)
    encoded = encode_labelled(sorted_.learn, encoder, RENDERING)
    is_right = np.array([record.is_right for record in encoded.records], dtype=bool)
    probability = probability_of_verdicts(cast(PreTrainedModel, judge.model.eval()), encoder, encoded.ids, is_right, settings.seed)
    if probability is None:
        print(f"noise: mistaken verdicts are not looked for: {too_few(is_right)}", file=sys.stderr)  # noqa: T201
    else:
        probability = by_reviewer([sorted_.reviewers[place] for place in encoded.places], probability)
        probability = of_all(probability, encoded.places, sorted_.agreed)
    doubted = treat(sorted_.learn, probability, settings.noise)
    if doubted.suspects:
        count = len(doubted.suspects)
        print(f"noise: {count} of {len(encoded.records)} verdicts are doubtful ({settings.noise})", file=sys.stderr)  # noqa: T201
    return doubted


def _certificate(
    learned: Learned, flat: Sequence[Settled], audit_key: bytes, p_stream: np.ndarray, wanted: float, settings: TrainSettings
) -> Certificate | Refused:
    """Certify on the flat draws; one that the model cannot read does not pass, as the gate would hold it."""
    encoded = encode_labelled([Labelled(each.content, each.is_right) for each in flat], learned.scorer.encoder, RENDERING)
    p_flat = np.full(len(flat), -1.0)
    p_flat[encoded.places] = learned.p_of(encoded)
    is_wrong = np.array([each.counts_as_wrong for each in flat], dtype=bool)
    alike = drawn_alike([each.propensity for each in flat], [ticket(each.decision_id, "certificate", audit_key) for each in flat])
    return certify(p_flat[alike], is_wrong[alike], p_stream, settings.alpha, settings.delta, wanted)


def _threshold(certificate: Certificate | Refused, wanted: Threshold) -> Threshold:
    if isinstance(certificate, Refused):
        return wanted.model_copy(update={"reason": certificate.reason})
    said = f"at most {certificate.alpha:.2%} wrong among the passing"
    return Threshold(
        p_chosen=certificate.threshold,
        chosen_by=f"{said}, and {wanted.chosen_by}" if certificate.threshold <= wanted.p_chosen else f"the least strict with {said}",
        certified=True,
        **{name: value for name, value in certificate._asdict().items() if name != "threshold"},
    )


def _compared(judged: Judged, before: Judged, learned: Learned, looks: Looks, settings: TrainSettings) -> Comparison | None:
    """Compare on the hold-out alone: a champion chosen by the flat draws would take their independence from the next certificate.

    looks: how people came to the verdicts of the hold-out, which comes first among what was judged.
    """
    kept = np.array([place < len(looks.of_each) for place in learned.test_set.places], dtype=bool)
    mine, its = (Judged(each.d[kept], each.p_chosen[kept], each.threshold) for each in (judged, before))
    readable = looks.at(np.array(learned.test_set.places, dtype=int)[kept])
    return compare(mine, its, learned.test_is_right[kept], learned.test_weight[kept], settings.seed, readable)


def _decided(champion: Version | None, comparison: Comparison | None) -> dict[str, Any]:
    """Return what is decided of a version, and over which champion: whether it may take over does not depend on pins."""
    if champion is None:
        return {"promoted": True, "why": "the first version", "over": None}
    return {**may_promote(comparison)._asdict(), "over": champion.digest}


def _judged_by(version: Version, records: Sequence[Labelled], stream: list[str], rules: Rules) -> Before:
    """Return what the champion makes of the held-out records and of the stream, read as it reads them."""
    manifest = version.manifest
    scorer = load_scorer(version, pick_device("auto"), SCORE_TOKENS, "float32")  # as the new one is judged
    rendering, evidence = cast(Rendering, manifest.rendering), load_evidence(version.directory)
    encoded = encode_labelled(records, scorer.encoder, rendering)
    # what it cannot read it holds, as the gate does
    d, p = np.full(len(records), -np.inf), np.zeros(len(records))
    d[encoded.places] = d_with(scorer, evidence, encoded)
    p[encoded.places] = p_of(d[encoded.places], manifest.calibration)
    sample = sample_of(scorer.encoder, stream, rules, rendering)
    p_stream = np.zeros(0) if sample is None else p_of(d_with(scorer, evidence, sample), manifest.calibration)
    return Before(Judged(d, p, manifest.threshold.p_chosen), p_stream)


def _publish(
    registry: Registry,
    base: Base,
    learned: Learned,
    files: dict[str, str],
    threshold: Threshold,
    settings: TrainSettings,
    snapshot: Snapshot,
    champion: Version | None,
    report: Report,
) -> Version:
    records = [*learned.train_set.records, *learned.test_set.records]
    facts = Facts(
        base.name, settings.method, RENDERING, learned.calibration, threshold, learned.metrics,
        settings.model_dump(mode="json", exclude={"work_directory"}), digest_of_data(records),
        {**learned.counts, "flat": len(report.p_flat), "suspects": len(report.suspects)},
        None if champion is None else champion.label, {str(partition): after for partition, after in sorted(snapshot.offsets.items())},
        snapshot.digest,
    )  # fmt: skip
    beside = report_files(report, registry.name) | files
    return publish(registry, learned.saved, facts, beside)
