"""The model in service: verify, load, check the fingerprint, warm up.

Enters: a registry and a reference. Leaves: a LiveModel whose digest is that of what was loaded, not of what was asked for.
Source of the rule: law 6.
"""

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import NamedTuple, cast

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from foundation.errors import FingerprintDiffers, ModelRefused
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decide import Calibration
from stream.drift import Baseline, load_baseline
from stream.encode import Encoder, Encoding
from stream.evidence import Evidence, load_evidence
from stream.records import Content, Rewards
from stream.render import Rendered, Rendering, render
from stream.score import Scorer
from stream.tokenise import Ids

_WARM_UP_RECORDS = 32
_BUDGETS = {"cpu": (1_024, 2_048, 4_096, 8_192), "cuda": (8_192, 16_384, 32_768, 65_536)}  # tokens
_USUAL_TOKENS, _TRIES, _LONG_SECONDS, _BATCHES_IN_A_ROW = 64, 3, 0.5, 4
_SLOWER, _WORTH = 1.2, 1.05
# config.json names the class of the tokenizer
_OF_TOKENIZERS = re.compile(r"config\.json|.*token.*|vocab.*|merges.*|.*\.jinja|.*\.model")
_BREATH_SECONDS = 0.15
_MOST_D = 0.05  # nats: what a threshold was certified for must not drift where P is flat

log = logging.getLogger("winnow.model")


class LiveModel(NamedTuple):
    """A loaded, verified, warm model and what belongs to it."""

    label: str
    digest: str
    scorer: Scorer
    rendering: Rendering
    calibration: Calibration
    threshold: float
    records_per_second: float
    evidence: Evidence | None = None
    baseline: Baseline | None = None
    created_seconds: float = 0.0
    encoded_as: str = ""

    def d_of(self, contents: Sequence[Content]) -> list[float | None]:
        """Return raw d of records with what other records say of them, None of one that is longer than the model's maximum."""
        return d_of_shown(self.scorer, self.evidence, [render(content, self.rendering) for content in contents])


def load_aside(
    version: Callable[[], Version], settings: GateSettings, like: LiveModel | None = None, prepare: Callable[[], None] = lambda: None
) -> LiveModel:
    """Verify and load in a thread that is gone afterwards; `prepare` runs in it first. Raises what `version` and the loading raise.

    OpenMP keeps a pool for every thread that has computed. With more of them than cores its threads sleep and wake instead of
    spinning, and every batch takes a sixth longer; so only the thread that judges may have one. A process that ends does not wait
    for the thread.
    """
    found: Future[LiveModel] = Future()

    def load() -> None:
        try:
            prepare()
            found.set_result(load_live_model(version(), settings, like))
        except BaseException as error:  # noqa: BLE001 - it is raised where the model is waited for
            found.set_exception(error)

    threading.Thread(target=load, name="load", daemon=True).start()
    return found.result()


def load_live_model(version: Version, settings: GateSettings, like: LiveModel | None = None) -> LiveModel:
    """Load a version whose files have been verified. Raises ModelRefused when its head or fingerprint is not as published.

    like: the model in service; one of the same shape runs as that does, so that a swap measures nothing beside live batches, and one
    with the same tokenizer encodes by that, since building a large one keeps the interpreter from the batches for a second.
    """
    device = pick_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoded_as = _encoding_of(version)
    encoder = like.scorer.encoder if like is not None and like.encoded_as == encoded_as else None
    breathe = partial(time.sleep, 0.0 if like is None else _BREATH_SECONDS)  # what holds the interpreter is spread over several batches
    breathe()
    scorer = load_scorer(version, device, settings.batch_tokens, settings.precision, encoder)
    breathe()
    if like is not None and like.scorer.is_shaped_as(scorer):
        scorer, records_per_second = _run_as(version, scorer, like, settings.precision), like.records_per_second
    else:
        scorer = _fastest(version, scorer, settings, like)
        if like is None and not settings.threads and scorer.device.type == "cpu":
            torch.set_num_threads(fastest_threads(scorer))
        records_per_second = warm_up(scorer)
    scorer.let_go()
    breathe()
    evidence = load_evidence(version.directory)
    breathe()
    manifest = version.manifest
    threshold = manifest.threshold.p_chosen if settings.threshold is None else settings.threshold
    return LiveModel(
        version.label,
        version.digest,
        scorer,
        cast(Rendering, manifest.rendering),
        Calibration(manifest.calibration.temperature, manifest.calibration.bias),
        round(threshold, 6),
        records_per_second,
        evidence,
        load_baseline(version.directory),
        datetime.fromisoformat(manifest.created).timestamp(),
        encoded_as,
    )


def d_of_shown(scorer: Scorer, evidence: Evidence | None, shown: Sequence[Rendered]) -> list[float | None]:
    """Return raw d of rendered records with what other records say of them, None of one longer than the model's maximum."""
    return [None if rewards is None else rewards.d for rewards in rewards_of_shown(scorer, evidence, shown)]


def rewards_of_shown(scorer: Scorer, evidence: Evidence | None, shown: Sequence[Rendered]) -> list[Rewards | None]:
    """Return both rewards of rendered records as headers hold them, None of one longer than the model's maximum."""
    encoded = scorer.encoder.encode([record.text for record in shown])
    fitting = [place for place, ids in enumerate(encoded) if ids is not None]
    found: list[Rewards | None] = [None] * len(shown)
    if fitting:
        rewards_B2 = scorer.rewards([encoded[place] or [] for place in fitting])
        for place, (right, wrong) in zip(fitting, rewards_B2.tolist(), strict=True):
            found[place] = Rewards(right, wrong)
    if evidence is not None:
        said_B = evidence.of_all([shown[place] for place in fitting])
        for place, said in zip(fitting, said_B.tolist(), strict=True):
            found[place] = cast(Rewards, found[place]).with_evidence(said, evidence.most_text)
    return found


def _encoding_of(version: Version) -> str:
    """Return what says how a version encodes records: equal for two of them only if their encoders do the same."""
    manifest = version.manifest
    files = {name: digest for name, digest in manifest.files.items() if _OF_TOKENIZERS.fullmatch(name)}
    return json.dumps([files, manifest.verdict_words, manifest.encoding, manifest.max_length, manifest.pad_id], sort_keys=True)


def _run_as(version: Version, scorer: Scorer, like: LiveModel, wanted: str) -> Scorer:
    """Return the scorer in the precision and with the budget of another model, in its own precision where `auto` fails in the other."""
    found = scorer.in_precision(like.scorer.precision)
    if wanted != "auto":
        _refuse_other_precision(version, found, wanted)
        check_fingerprint(version, found)
    elif not _holds(version, found):
        found = scorer.in_precision(torch.float32)
        check_fingerprint(version, found)
    found.budget_tokens = like.scorer.budget_tokens
    return found


def pick_device(wanted: str) -> torch.device:
    """Return the device of the setting `gate.device`; `auto` is the GPU if there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_scorer(
    version: Version, device: torch.device, batch_tokens: int | None, precision: str = "auto", encoder: Encoder | None = None
) -> Scorer:
    """Load weights and tokenizer of a version, by `auto` in float32 on a CPU and bfloat16 on a GPU. Raises ModelRefused.

    encoder: where one of the same tokenizer files, words and lengths has been built already.
    """
    manifest = version.manifest
    try:
        if encoder is None:
            tokenizer = AutoTokenizer.from_pretrained(version.directory)
        model = AutoModelForSequenceClassification.from_pretrained(
            version.directory,
            dtype=torch.float32,  # a GPU's bfloat16 weights are rounded once, with the norms folded in
            attn_implementation="sdpa",
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"{version.label} cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    if model.config.num_labels != 1:
        raise ModelRefused(f"{version.label} has {model.config.num_labels} outputs; a reward model has one")
    if encoder is None:
        encoder = Encoder(tokenizer, manifest.verdict_words, cast(Encoding, manifest.encoding), manifest.max_length)
    if encoder.pad_id != manifest.pad_id:
        raise ModelRefused(f"{version.label}: the tokenizer pads with {encoder.pad_id}, the manifest says {manifest.pad_id}")
    tokens, first = budgets(device, batch_tokens)[-1], torch.float32 if device.type == "cpu" or precision == "float32" else torch.bfloat16
    return Scorer(cast(PreTrainedModel, model.eval()), encoder, tokens, first, device)


def _fastest(version: Version, scorer: Scorer, settings: GateSettings, like: LiveModel | None) -> Scorer:
    """Return the scorer in the precision of the settings, or the fastest that holds the fingerprint; the first is the model's own.

    On the GPU of a model in service its budget is taken over: measuring would fill it beside live batches. Raises FingerprintDiffers,
    ModelRefused.
    """
    wanted, is_gpu = settings.precision, scorer.device.type != "cpu"
    if wanted != "auto":
        scorer = scorer.in_precision(getattr(torch, wanted))
        _refuse_other_precision(version, scorer, wanted)
    elif is_gpu and not _holds(version, scorer):
        scorer = scorer.in_precision(torch.float32)
    check_fingerprint(version, scorer)
    if is_gpu and like is not None and like.scorer.device == scorer.device:
        scorer.budget_tokens = like.scorer.budget_tokens
        return scorer
    try:
        scorer.budget_tokens, seconds = fastest_budget(scorer, settings.batch_tokens)
    except torch.OutOfMemoryError as error:
        tokens = scorer.budget_tokens
        raise ModelRefused(
            f"{version.label} does not fit the memory of {scorer.device} with batches of {tokens} tokens; set gate.batch_tokens to fewer"
        ) from error
    if wanted == "auto" and not is_gpu and has_bfloat16_products():
        other = scorer.in_precision(torch.bfloat16)
        if other.precision == scorer.precision or not _holds(version, other):
            return scorer
        other.budget_tokens, its_seconds = fastest_budget(other, settings.batch_tokens)
        if its_seconds < seconds:
            return other
    return scorer


def _refuse_other_precision(version: Version, scorer: Scorer, wanted: str) -> None:
    if scorer.precision != getattr(torch, wanted):
        raise ModelRefused(f"gate.precision = {wanted}, but {version.label} runs in {scorer.precision} alone; set it to auto")


def budgets(device: torch.device, most_tokens: int | None) -> list[int]:
    """Return the token budgets worth trying on a device, the largest last: `most_tokens` where it is set."""
    usual = _BUDGETS.get(device.type, _BUDGETS["cuda"])
    return list(usual) if most_tokens is None else [*(each for each in usual if each < most_tokens), most_tokens]


def fastest_budget(scorer: Scorer, most_tokens: int | None) -> tuple[int, float]:
    """Return the token budget that scores fastest, and its seconds per token; larger ones are not tried when one takes long.

    On a GPU, none is tried above the first that does not fit its memory. Raises torch.OutOfMemoryError when none fits.
    """
    found: list[tuple[float, int]] = []
    tried = budgets(scorer.device, most_tokens)
    if scorer.device.type != "cpu":  # kernels are compiled when they first run
        scorer.budget_tokens = tried[0]
        scorer.rewards(_usual_rows(scorer, tried[0]))
    for budget in tried:
        scorer.budget_tokens = budget
        # a GPU works on one batch while the next is prepared: several show what that gives
        rows = _usual_rows(scorer, budget if scorer.device.type == "cpu" else _BATCHES_IN_A_ROW * budget)
        try:
            taken = _least_seconds(scorer, rows)
        except torch.OutOfMemoryError:
            if not found:
                raise
            break
        found.append((taken / (len(rows) * len(rows[0])), budget))
        if taken > _LONG_SECONDS:
            break
    seconds, budget = min(found)
    if scorer.device.type != "cpu":  # where it is about as fast, a larger one leaves the rest of the gate more of the interpreter
        seconds, budget = max((each for each in found if each[0] <= _WORTH * seconds), key=itemgetter(1))
    return budget, seconds


def _least_seconds(scorer: Scorer, rows: list[Ids]) -> float:
    """Return the least that scoring took in a few tries; one that takes long is not repeated."""
    least = math.inf
    for _ in range(_TRIES):
        begun = time.perf_counter()
        scorer.rewards(rows)
        taken = time.perf_counter() - begun
        least = min(least, taken)
        if taken > _LONG_SECONDS:
            break
    return least


def fastest_threads(scorer: Scorer, seconds_of: Callable[[Scorer, list[Ids]], float] = _least_seconds) -> int:
    """Return how many threads score a usual batch fastest, the fewest where more give little: the rest of the gate needs cores too."""
    most = torch.get_num_threads()
    rows = _usual_rows(scorer, scorer.budget_tokens)
    found: list[tuple[int, float]] = []
    try:
        for threads in sorted({most, *(most >> halvings for halvings in range(1, most.bit_length()))}, reverse=True):
            torch.set_num_threads(threads)
            found.append((threads, seconds_of(scorer, rows)))
            if found[-1][1] > _SLOWER * min(seconds for _, seconds in found):
                break  # fewer will not be faster, and with a large model a try takes long
    finally:
        torch.set_num_threads(most)
    least = min(seconds for _, seconds in found)
    return min(threads for threads, seconds in found if seconds <= _WORTH * least)


def _usual_rows(scorer: Scorer, tokens: int) -> list[Ids]:
    """Return records of a usual length that fill a batch of so many tokens."""
    usual = min(_USUAL_TOKENS, scorer.encoder.max_record_tokens)
    return [np.full(usual, _plain_token(scorer), dtype=np.int32)] * max(
        1, tokens // (usual + scorer.encoder.template.shared_overhead_tokens)
    )


def _holds(version: Version, scorer: Scorer) -> bool:
    """Return whether the fingerprint holds in this precision, in P and, on a CPU and where P says little, in d.

    A large model's d moves by more in bfloat16, and a GPU without it takes ten times as long: there P alone decides.
    """
    try:
        check_fingerprint(version, scorer, _MOST_D if scorer.device.type == "cpu" else math.inf)
    except FingerprintDiffers as error:
        log.info("not scored in this precision", extra={"precision": str(scorer.precision), "detail": str(error)})
        return False
    return True


def has_bfloat16_products() -> bool:
    """Return whether this processor multiplies matrices in bfloat16 by instructions of its own."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - the only name torch has for it


def fingerprint_rewards(scorer: Scorer, texts: tuple[str, ...]) -> np.ndarray:
    """Return rewards_N2 of the fingerprint texts."""
    return scorer.rewards([ids if ids is not None else [] for ids in scorer.encoder.encode(texts)])


def check_fingerprint(version: Version, scorer: Scorer, most_d: float = math.inf) -> None:
    """Compare p of the fingerprint texts with what was recorded at publishing, and calibrated d by at most `most_d` nats.

    Raises FingerprintDiffers.
    """
    fingerprint = version.manifest.fingerprint
    found = fingerprint_rewards(scorer, fingerprint.texts)
    said = np.array(fingerprint.rewards, dtype=np.float32).reshape(-1, 2)
    calibration = Calibration(version.manifest.calibration.temperature, version.manifest.calibration.bias)
    for index, (now, then) in enumerate(zip(found[:, 0] - found[:, 1], said[:, 0] - said[:, 1], strict=True)):
        difference = abs(calibration.p_chosen(float(now)) - calibration.p_chosen(float(then)))
        if not difference <= fingerprint.tolerance_p:
            raise FingerprintDiffers(
                f"{version.label} does not score as it did when it was published: fingerprint text {index} differs by "
                f"{difference:.4f} in p_chosen, the limit is {fingerprint.tolerance_p}"
            )
        if not abs(float(now) - float(then)) / calibration.temperature <= most_d:
            raise FingerprintDiffers(f"calibrated d of fingerprint text {index} differs by more than {most_d} nats")


def warm_up(scorer: Scorer) -> float:
    """Run the longest record the model takes and a usual batch, and return the records per second of the latter."""
    encoder, token = scorer.encoder, _plain_token(scorer)
    scorer.rewards([[token] * encoder.max_record_tokens])
    usual = [[token] * min(80, encoder.max_record_tokens)] * _WARM_UP_RECORDS
    scorer.rewards(usual)
    begun = time.perf_counter()
    scorer.rewards(usual)
    return _WARM_UP_RECORDS / max(1e-6, time.perf_counter() - begun)


def _plain_token(scorer: Scorer) -> int:
    """Return an id that is no control token."""
    control = scorer.encoder.control_ids
    return next(i for i in range(len(control) + 256) if i not in control)
