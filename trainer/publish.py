"""A trained model -> a version in the registry: files written aside, reloaded in a fresh process, then published."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
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


class Facts(NamedTuple):
    """What the manifest says beside the weights."""

    base: str
    method: str
    words: tuple[str, str]
    rendering: str
    encoding: str
    calibration: Calibration
    threshold: Threshold
    metrics: dict[str, float]
    settings: dict[str, Any]
    data_digest: str | None = None
    data_counts: dict[str, int] | None = None
    parent: str | None = None
    verdict_offsets: dict[str, int] | None = None
    verdict_digest: str | None = None


def publish(
    registry: Registry,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    facts: Facts,
    work: Path,
    adapter: Path | None = None,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> Version:
    """Save, check in a fresh process that the rewards come back, and publish; no alias points at it yet.

    `beside` are texts kept with the weights by file name, such as the training report. Raises FingerprintDiffers.
    """
    prepared = work / "prepared"
    model.save_pretrained(prepared)
    tokenizer.save_pretrained(prepared)
    if adapter is not None:
        adapter.rename(prepared / "adapter")
    for name, text in beside.items():
        (prepared / name).write_text(text, encoding="utf-8")
    texts = fingerprint_texts(scorer.encoder, tokenizer)
    rewards = scorer.rewards([ids or [] for ids in scorer.encoder.encode(texts)])
    _check_in_fresh_process(prepared, facts, scorer.encoder.max_length, texts, rewards)
    manifest = Manifest(
        name=registry.name,
        base=facts.base,
        method=cast(Any, facts.method),
        parent=facts.parent,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict_words=facts.words,
        rendering=facts.rendering,
        encoding=facts.encoding,
        pad_id=scorer.encoder.pad_id,
        eos_id=tokenizer.eos_token_id,
        max_length=scorer.encoder.max_length,
        calibration=facts.calibration,
        threshold=facts.threshold,
        fingerprint=Fingerprint(texts=texts, rewards=tuple((float(a), float(b)) for a, b in rewards)),
        metrics=facts.metrics,
        settings=facts.settings,
        data_digest=facts.data_digest,
        data_counts=facts.data_counts or {},
        verdict_offsets=facts.verdict_offsets or {},
        verdict_digest=facts.verdict_digest,
        files=files_of(prepared),
    )
    return registry.publish(prepared, manifest)


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


def _check_in_fresh_process(prepared: Path, facts: Facts, max_length: int, texts: tuple[str, ...], rewards: np.ndarray) -> None:
    """Load what was saved where nothing of this process helps, and compare: an unsaved reward head shows here."""
    asked = {"directory": str(prepared), "words": facts.words, "encoding": facts.encoding, "max_length": max_length, "texts": texts}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.reload_check"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        raise FingerprintDiffers(f"the saved model cannot be loaded again: {done.stderr.strip().splitlines()[-1:]}")
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    worst = float(np.abs(found - rewards).max())
    if not worst <= _RELOAD_TOLERANCE:
        raise FingerprintDiffers(
            f"the saved model gives other rewards in a fresh process: they differ by {worst:.4g}, the limit is {_RELOAD_TOLERANCE}"
        )
