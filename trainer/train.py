"""`winnow train` and `winnow registry import`: a base and labelled records -> a published version.

Steps, top to bottom: read the data, split it by a hash of each record, mix in contrastive pairs, train with TRL,
save, measure on the held-out part, calibrate, choose a threshold, publish. Without data the base's own head is published.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from foundation.aside import held, sweep
from foundation.errors import DataRefused, ModelRefused, SettingInvalid
from model_registry.manifest import Calibration, Threshold
from model_registry.registry import Registry, Version
from stream.decode import decode_value
from stream.drift import BASELINE_FILE, Baseline
from stream.encode import ENCODINGS, Encoder, Encoding
from stream.evidence import EVIDENCE_FILE, Evidence
from stream.live_model import pick_device
from stream.render import Rendering
from stream.rules import Rules
from stream.score import Scorer, refuse_windows
from trainer.balance import MOST_LEARNED, balanced, heard_in_verdicts
from trainer.bases import Base, encoder_of, load_base
from trainer.calibrate import auroc_of, cold_threshold, fit, right_held_threshold
from trainer.check import Finding, check
from trainer.config import TrainSettings
from trainer.datasets import UNSEEN_SHARE, Labelled, digest_of_data, is_held_out, is_unseen, read_labelled
from trainer.edits import edits_of
from trainer.learned import SCORE_TOKENS, Learned, OfStream, d_of, d_with, judged_stream
from trainer.pairs import RENDERING, Encoded, contrastive_pairs, encode_labelled, rendered, text_of_content, verdict_pairs, wrong_of
from trainer.processes import train
from trainer.promote import announce
from trainer.publish import Facts, publish, save
from trainer.report import report_files, report_of_data
from trainer.unlabelled import say_if_none, unlabelled_of
from trainer.weigh import said_of, weigh

MOST_SCORED, FEWEST_UNSEEN = 2_000, 100
FEW_HELD_OUT = 100
"""Of more held-out verdicts the evidence learns next to nothing."""
_WORK = "winnow-train-"


class Ground(NamedTuple):
    """What a training stands on: where it publishes, what it starts from, how records are read, and the unlabelled stream."""

    registry: Registry
    base: Base
    words: tuple[str, str]
    rules: Rules
    encoder: Encoder
    stream: list[str]


def with_options(settings: TrainSettings, options: Mapping[str, Any]) -> TrainSettings:
    """Return the settings with the command line's options over them. Raises SettingInvalid naming the option."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return TrainSettings.model_validate({**settings.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingInvalid(f"--{name.replace('_', '-')} {given.get(name)}: {first['msg']}") from error


def train_and_publish(tables: Any, settings: TrainSettings, base_name: str, data: str | None, unlabelled: str | None) -> Version:
    """Train on `data`, or take the base's own head without it, and publish. Raises DataRefused, ModelRefused."""
    registry = Registry(tables.registry)
    registry.versions()  # a bucket that does not answer is refused before the training, not after it
    base = load_base(base_name)
    words = words_of(base, settings)
    rules = Rules.load(tables.gate.rules_file)
    encoder = encoder_of(base, words, settings.max_length)
    stream = unlabelled_of(base, unlabelled or settings.unlabelled, tables)
    ground = Ground(registry, base, words, rules, encoder, stream)
    with workplace(settings) as work:
        version = _publish_cold(ground, settings, work) if data is None else _publish_trained(ground, settings, data, work)
    announce(registry, version)
    return version


def learn_from(
    base: Base,
    encoder: Encoder,
    learn: list[Labelled],
    test: list[Labelled],
    stream: list[str],
    settings: TrainSettings,
    work: Path,
    known: frozenset[str] = frozenset(),
    *,
    is_measured_once: bool = False,
) -> Learned:
    """Train on `learn` with contrastive pairs from the stream mixed in, save, measure on `test`, calibrate. Raises DataRefused.

    known: texts of records that the base has learned from. is_measured_once: no certificate and no comparison of this training uses
    `test`, so that where it is small the evidence is weighed with it, too, after it has been measured without: of few verdicts a fifth is
    much.
    """
    refuse_windows(base.model, encoder.max_length)
    train_set = encode_labelled(learn, encoder, RENDERING)
    test_set = encode_labelled(test, encoder, RENDERING)
    # audit draws that no training may see are among them; what people call wrong is not drawn as right
    kept = {text_of_content(record.content) for record in [*test, *[each for each in learn if not each.is_right]]}
    whole = rendered(stream, RENDERING)
    share = max(settings.held_out_share, UNSEEN_SHARE)
    free = [record for record in whole if record.text not in kept and not is_held_out(record.text, share)]
    edits = edits_of(wrong_of(train_set), free, settings.seed)
    contrast = contrastive_pairs(
        free, encoder, round(len(train_set.ids) * settings.contrastive_per_verdict), settings.seed, list(edits.values())
    )
    judged_alike = [pair._replace(weight=1.0) for pair in verdict_pairs(test_set, encoder)]  # whatever they stand for
    fresh = [place for place, shown in enumerate(train_set.shown) if shown.text not in known][:MOST_LEARNED]
    before = _d_before(base, encoder, [train_set.ids[place] for place in fresh])
    trained = train(base, [*verdict_pairs(train_set, encoder), *contrast], judged_alike, settings, work)
    scorer = scorer_of(trained.model, encoder)
    saved = save(trained.model, base.tokenizer, scorer, work, trained.adapter)
    evidence, by_balance = None, Calibration()
    weighed = weigh(whole, free, said_of(train_set), settings.seed, edits) if settings.evidence else None
    if weighed is not None:
        # held-out verdicts decide a promotion, and draws certify: neither may help to choose what is served
        verdicts = None if before is None else heard_in_verdicts(before, fresh, weighed, train_set)
        found = balanced(scorer, weighed, whole, settings.seed, verdicts)
        evidence, by_balance = found.loud(weighed.evidence), found.calibration
    d_test = d_with(scorer, evidence, test_set)
    is_right = np.array([record.is_right for record in test_set.records], dtype=bool)
    weight = np.array([record.weight for record in test_set.records])
    metrics = dict(trained.metrics)
    if is_right.any() and not is_right.all():
        metrics["auroc"] = round(auroc_of(d_test, is_right, weight), 6)
    fitted = fit(d_test, is_right, weight)
    is_too_few = fitted == Calibration()
    # without a calibration what is loud would be as good as sure, and equal to six digits
    calibration = measured_with = by_balance if is_too_few else fitted
    if is_measured_once and evidence is not None and len(test_set.ids) < FEW_HELD_OUT:
        learned_from = said_of(train_set)
        again = weigh(whole, free, [*learned_from, *said_of(test_set)], settings.seed, edits)
        if again is not None:
            as_before = again._replace(left_out=again.left_out[: len(learned_from)])
            if is_too_few:  # else what calibrates must still be of what it was measured with
                verdicts = None if before is None else heard_in_verdicts(before, fresh, as_before, train_set)
                found = balanced(scorer, again, whole, settings.seed, verdicts)
                calibration = found.calibration
            evidence = found.loud(again.evidence)
    return Learned(trained, scorer, train_set, test_set, len(contrast), d_test, measured_with, calibration, metrics, saved, evidence)


def scorer_of(model: PreTrainedModel, encoder: Encoder) -> Scorer:
    """Return what scores a model in its own precision, on the GPU if there is one."""
    return Scorer(model.eval(), encoder, SCORE_TOKENS, device=pick_device("auto"))


def _d_before(base: Base, encoder: Encoder, ids: list[list[int]]) -> np.ndarray | None:
    """Return raw d of records before they are learned; None where the base has no head."""
    return d_of(scorer_of(base.model, encoder), ids) if base.has_head and ids else None


def checked(learn: list[Labelled], held_out: list[Labelled], settings: TrainSettings) -> list[Finding]:
    """Say on stderr what is odd about labelled records. Raises DataRefused where training on them would teach nothing, or cheat."""
    records = [*learn, *held_out]
    texts = [text_of_content(record.content) for record in records]
    findings = check(texts, [record.is_right for record in records], [False] * len(learn) + [True] * len(held_out))
    for finding in findings:
        print(f"{finding.name}: {finding.sentence}", file=sys.stderr)  # noqa: T201
    refused = next((finding for finding in findings if finding.is_error), None)
    if refused is not None and settings.check == "refuse":
        raise DataRefused(f'{refused.sentence}; train.check = "warn" trains all the same')
    return findings


def _publish_trained(ground: Ground, settings: TrainSettings, data: str, work: Path) -> Version:
    registry, base, words, rules, encoder, stream = ground
    labelled = read_labelled(data, words)
    share = settings.held_out_share
    test = [record for record in labelled if is_held_out(text_of_content(record.content), share)]
    learn = [record for record in labelled if not is_held_out(text_of_content(record.content), share)]
    if not learn:
        raise DataRefused(f"{data}: all {len(labelled)} records fall into the held-out part; give more records")
    findings = checked(learn, test, settings)
    learned = learn_from(base, encoder, learn, test, stream, settings, work, is_measured_once=True)
    say_if_none(learned.contrastive, settings)
    sample = sample_of(encoder, stream, rules)
    of_stream = learned.judged(sample or learned.train_set)
    threshold = right_held_threshold(of_stream.p_chosen, settings.right_held_share)
    digest = digest_of_data(labelled)
    report = report_of_data(learned, threshold, of_stream.p_chosen, findings, digest)
    facts = Facts(
        base.name, settings.method, RENDERING, learned.calibration, threshold, learned.metrics,
        settings.model_dump(mode="json", exclude={"work_directory"}), digest, learned.counts,
    )  # fmt: skip
    beside = report_files(report, registry.name)
    beside |= stream_files(learned.evidence, None if sample is None else of_stream, threshold)
    return publish(registry, learned.saved, facts, beside)


def _publish_cold(ground: Ground, settings: TrainSettings, work: Path) -> Version:
    """Publish a head that no verdict has touched: a gate with zero verdicts."""
    registry, base, words, rules, encoder, stream = ground
    if not base.has_head:
        raise ModelRefused(f"{base.name} has no trained reward head; give labelled records with --data")
    scorer = scorer_of(base.model, encoder)
    sample = sample_of(encoder, stream, rules)
    if sample is None:
        raise DataRefused("without --data the threshold needs unlabelled records; give --unlabelled FILE or topic:NAME")
    saved = save(base.model, base.tokenizer, scorer, work)
    shown = rendered(stream, RENDERING)
    evidence, calibration = None, Calibration()
    free = [record for record in shown if not is_unseen(record.text)]
    weighed = weigh(shown, free, [], settings.seed) if settings.evidence else None
    if weighed is not None:
        found = balanced(scorer, weighed, shown, settings.seed)
        evidence, calibration = found.loud(weighed.evidence), found.calibration
    of_stream = judged_stream(scorer, evidence, sample, calibration)
    threshold = cold_threshold(of_stream.p_chosen, settings.cold_hold_share)
    facts = Facts(
        base.name, "starter", RENDERING, calibration, threshold, {},
        settings.model_dump(mode="json", exclude={"work_directory"}), None, {"unlabelled": len(sample.ids)},
    )  # fmt: skip
    beside = stream_files(evidence, of_stream, threshold)
    return publish(registry, saved, facts, beside)


def import_checkpoint(tables: Any, settings: TrainSettings, directory: Path, template: str) -> Version:
    """Adopt a one-output checkpoint as a version: read as stock TRL read it, not calibrated. Raises ModelRefused."""
    if not directory.is_dir():
        raise SettingInvalid(f"{directory} is no directory; give the one that holds the checkpoint")
    encodings = {name.partition("@")[0]: name for name in ENCODINGS}
    if template not in encodings:
        raise SettingInvalid(f"--template {template} is not one of {', '.join(encodings)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForSequenceClassification.from_pretrained(directory, dtype="float32", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"{directory} cannot be imported: {str(error).splitlines()[0][:300]}") from error
    if model.config.num_labels != 1:
        raise ModelRefused(f"{directory} has {model.config.num_labels} outputs; a reward model has one")
    longest = min(settings.max_length, model.config.max_position_embeddings)
    encoder = Encoder(tokenizer, settings.verdict_words, cast(Encoding, encodings[template]), longest)
    threshold = Threshold(p_chosen=0.5, chosen_by="the middle", reason="imported, no verdicts seen")
    facts = Facts(str(directory.name), "imported", "raw@1", Calibration(), threshold, {}, {})
    registry = Registry(tables.registry)
    with workplace(settings) as work:
        version = publish(registry, save(model, tokenizer, scorer_of(model, encoder), work), facts)
    announce(registry, version)
    return version


def words_of(base: Base, settings: TrainSettings) -> tuple[str, str]:
    """Return the words of the settings, which must be those that the head of a starter or of a version was trained with."""
    said = base.facts.get("verdict_words")
    if said is not None and tuple(cast(list[str], said)) != settings.verdict_words:
        raise SettingInvalid(
            f"train.verdict_words = {'/'.join(settings.verdict_words)}, but {base.name} was made with {'/'.join(cast(list[str], said))}"
        )
    return settings.verdict_words


def sample_of(encoder: Encoder, stream: list[str], rules: Rules, rendering: Rendering = RENDERING) -> Encoded | None:
    """Return an even sample of what no training has read of the stream, of all of it where that is little; None without a readable one.

    What a gate's rules hold never comes before its model, and is no part of it.
    """
    unseen = [content for content in stream if is_unseen(text_of_content(content))]
    drawn = unseen if len(unseen) >= FEWEST_UNSEEN else stream
    step = max(1, len(drawn) // MOST_SCORED)
    free = [content for content in drawn[::step] if not _is_held_by(rules, content)]
    sample = encode_labelled([Labelled(content, True) for content in free], encoder, rendering)
    return sample if sample.ids else None


def _is_held_by(rules: Rules, content: str) -> bool:
    [violations] = rules.check([decode_value(content.encode("utf-8", "replace"), "auto")])
    return any(violation.is_error for violation in violations)


def stream_files(evidence: Evidence | None, of_stream: OfStream | None, threshold: Threshold) -> dict[str, str]:
    """Return what a version keeps of its stream, by file name: evidence, and the baseline of what passes.

    of_stream None: there was none, and what people were asked about is no picture of it.
    """
    found: dict[str, Evidence | Baseline | None] = {EVIDENCE_FILE: evidence}
    if of_stream is not None:
        passing = np.flatnonzero(of_stream.p_chosen >= threshold.p_chosen)
        baseline = Baseline.of([of_stream.shown[place] for place in passing], of_stream.d[passing].tolist(), threshold.p_chosen)
        found[BASELINE_FILE] = baseline
    return {name: each.text for name, each in found.items() if each is not None}


@contextmanager
def workplace(settings: TrainSettings) -> Iterator[Path]:
    """Give a directory to work in that is gone afterwards, and remove those of trainings that were killed."""
    if settings.work_directory is not None:
        settings.work_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=settings.work_directory) as directory, held(Path(directory)):
        sweep(Path(directory).parent, f"{_WORK}*")
        yield Path(directory)
