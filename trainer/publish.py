"""A trained model -> a version in the registry: files written aside, reloaded in a fresh process, then published.

The process takes seconds to start, so it looks at the files while what else belongs to the version is worked out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from foundation.errors import FingerprintDiffers
from model_registry.manifest import Calibration, Fingerprint, Manifest, Threshold, files_of
from model_registry.registry import Registry, Version
from stream.encode import Encoder
from stream.score import Scorer

FINGERPRINT_TEXTS = 8
_RELOAD_TOLERANCE = 1e-3
_RELOAD_SECONDS = 1_800


class Facts(NamedTuple):
    """What the manifest says beside the weights."""

    base: str
    method: str
    rendering: str
    calibration: Calibration
    threshold: Threshold
    metrics: dict[str, float]
    settings: dict[str, Any]
    data_digest: str | None = None
    data_counts: dict[str, int] | None = None
    parent: str | None = None
    verdict_offsets: dict[str, int] | None = None
    verdict_digest: str | None = None


class Saved(NamedTuple):
    """A model's files, what they must give again, and the look of a fresh process at them, which raises FingerprintDiffers."""

    directory: Path
    encoder: Encoder
    eos_id: int | None
    fingerprint: Fingerprint
    reloaded: Future[None]


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, scorer: Scorer, work: Path, adapter: Path | None = None) -> Saved:
    """Write a model's files below `work` and let a fresh process see whether its rewards come back."""
    directory = work / "prepared"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if adapter is not None:
        adapter.rename(directory / "adapter")
    encoder = scorer.encoder
    texts = fingerprint_texts(encoder, tokenizer)
    rewards = scorer.rewards([ids or [] for ids in encoder.encode(texts)])
    fingerprint = Fingerprint(texts=texts, rewards=tuple((float(a), float(b)) for a, b in rewards))
    asked = {"directory": str(directory), "words": encoder.words, "encoding": encoder.encoding, "max_length": encoder.max_length}
    thread = ThreadPoolExecutor(1)
    reloaded = thread.submit(_reload, asked | {"texts": texts}, rewards)
    thread.shutdown(wait=False)
    return Saved(directory, encoder, cast(int | None, tokenizer.eos_token_id), fingerprint, reloaded)


def publish(registry: Registry, saved: Saved, facts: Facts, beside: Mapping[str, str] = MappingProxyType({})) -> Version:
    """Publish what has been saved, if the fresh process had the same rewards; no alias points at it yet.

    `beside` are texts kept with the weights by file name, such as the training report. Raises FingerprintDiffers.
    """
    saved.reloaded.result()
    for name, text in beside.items():
        (saved.directory / name).write_text(text, encoding="utf-8")
    manifest = Manifest(
        name=registry.name,
        base=facts.base,
        method=cast(Any, facts.method),
        parent=facts.parent,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict_words=saved.encoder.words,
        rendering=facts.rendering,
        encoding=saved.encoder.encoding,
        pad_id=saved.encoder.pad_id,
        eos_id=saved.eos_id,
        max_length=saved.encoder.max_length,
        calibration=facts.calibration,
        threshold=facts.threshold,
        fingerprint=saved.fingerprint,
        metrics=facts.metrics,
        settings=facts.settings,
        data_digest=facts.data_digest,
        data_counts=facts.data_counts or {},
        verdict_offsets=facts.verdict_offsets or {},
        verdict_digest=facts.verdict_digest,
        files=files_of(saved.directory),
    )
    return registry.publish(saved.directory, manifest)


def fingerprint_texts(encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return texts drawn from the vocabulary itself, so that nobody's record is kept in a bundle."""
    random = Random(0)
    usable = [i for i in range(len(tokenizer)) if i not in encoder.control_ids]
    texts = []
    for number in range(FINGERPRINT_TEXTS):
        length = min(encoder.max_record_tokens // 2, 4 + 8 * number)
        text = str(tokenizer.decode(random.choices(usable, k=max(1, length)), skip_special_tokens=True))
        texts.append(text.replace("\ufffd", "").strip() or "a")
    return tuple(texts)


def _reload(asked: dict[str, object], rewards_B2: np.ndarray) -> None:
    """Load what was saved where nothing of this process helps: an unsaved reward head shows here. Raises FingerprintDiffers."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.reload_check"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            timeout=_RELOAD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise FingerprintDiffers(f"the saved model was not loaded again within {_RELOAD_SECONDS} s") from error
    if done.returncode != 0:
        raise FingerprintDiffers(f"the saved model cannot be loaded again: {done.stderr.strip().splitlines()[-1:]}")
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    worst = float(np.abs(found - rewards_B2).max())
    if not worst <= _RELOAD_TOLERANCE:
        raise FingerprintDiffers(
            f"the saved model gives other rewards in a fresh process: they differ by {worst:.4g}, the limit is {_RELOAD_TOLERANCE}"
        )
