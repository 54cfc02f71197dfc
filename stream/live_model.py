"""The model in service: verify, load, check the fingerprint, warm up.

Enters: a registry and a reference. Leaves: a LiveModel whose digest is that of what was loaded, not of what was asked for.
Source of the rule: law 6.
"""

import time
from typing import NamedTuple, cast

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from foundation.errors import FingerprintDiffers, ModelRefused
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decide import Calibration
from stream.encode import Encoder, Encoding
from stream.render import Rendering
from stream.score import Scorer

_WARM_UP_RECORDS = 32


class LiveModel(NamedTuple):
    """A loaded, verified, warm model and what belongs to it."""

    label: str
    digest: str
    scorer: Scorer
    rendering: Rendering
    calibration: Calibration
    threshold: float
    records_per_second: float


def load_live_model(version: Version, settings: GateSettings) -> LiveModel:
    """Load a version whose files have been verified. Raises ModelRefused when its head or fingerprint is not as published."""
    device = pick_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    scorer = load_scorer(version, device, settings.batch_tokens)
    check_fingerprint(version, scorer)
    manifest = version.manifest
    threshold = manifest.threshold.p_chosen if settings.threshold is None else settings.threshold
    return LiveModel(
        version.label,
        version.digest,
        scorer,
        cast(Rendering, manifest.rendering),
        Calibration(manifest.calibration.temperature, manifest.calibration.bias),
        round(threshold, 6),
        warm_up(scorer),
    )


def pick_device(wanted: str) -> torch.device:
    """Return the device of the setting `gate.device`; `auto` is the GPU if there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_scorer(version: Version, device: torch.device, batch_tokens: int) -> Scorer:
    """Load weights and tokenizer of a version, in float32 on a CPU and bfloat16 on a GPU."""
    manifest = version.manifest
    try:
        tokenizer = AutoTokenizer.from_pretrained(version.directory)
        model = AutoModelForSequenceClassification.from_pretrained(
            version.directory,
            dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
            attn_implementation="sdpa",
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"{version.label} cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    if model.config.num_labels != 1:
        raise ModelRefused(f"{version.label} has {model.config.num_labels} outputs; a reward model has one")
    encoder = Encoder(tokenizer, manifest.verdict_words, cast(Encoding, manifest.encoding), manifest.max_length)
    if encoder.pad_id != manifest.pad_id:
        raise ModelRefused(f"{version.label}: the tokenizer pads with {encoder.pad_id}, the manifest says {manifest.pad_id}")
    return Scorer(cast(PreTrainedModel, model.to(device).eval()), encoder, batch_tokens)


def fingerprint_rewards(scorer: Scorer, texts: tuple[str, ...]) -> np.ndarray:
    """Return rewards_N2 of the fingerprint texts."""
    return scorer.rewards([ids if ids is not None else [] for ids in scorer.encoder.encode(texts)])


def check_fingerprint(version: Version, scorer: Scorer) -> None:
    """Compare p of the fingerprint texts with what was recorded at publishing. Raises FingerprintDiffers."""
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


def warm_up(scorer: Scorer) -> float:
    """Run the longest record the model takes and a usual batch, and return the records per second of the latter."""
    encoder = scorer.encoder
    token = next(i for i in range(len(encoder.control_ids) + 256) if i not in encoder.control_ids)
    longest = min(encoder.max_record_tokens, max(1, scorer.budget_tokens - encoder.template.shared_overhead_tokens))
    scorer.rewards([[token] * longest])
    usual = [[token] * min(80, encoder.max_record_tokens)] * _WARM_UP_RECORDS
    scorer.rewards(usual)
    begun = time.perf_counter()
    scorer.rewards(usual)
    return _WARM_UP_RECORDS / max(1e-6, time.perf_counter() - begun)
