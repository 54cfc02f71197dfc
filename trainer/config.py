"""The trainer's settings table: [train]."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from foundation.settings import Table


class TrainSettings(Table):
    """How verdicts become a model version."""

    verdict_words: tuple[str, str] = ("正确", "错误")
    """The assistant's answer for a right and for a wrong record; belongs to the model version."""
    method: Literal["full", "lora"] = "full"
    """Train all weights, or a LoRA of rank `lora_rank` with the reward head."""
    lora_rank: Annotated[int, Field(ge=1)] = 32
    """Rank of the LoRA matrices."""
    lora_alpha: Annotated[int, Field(ge=1)] = 16
    """Scale of the LoRA matrices."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Pairs per device and step."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the pairs."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Steps whose gradients are added up before the weights move."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Unset means by size: 3e-4 below 20 million parameters, else 1e-5 as TRL's reward script, 1e-4 with LoRA."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Longest chat in tokens; longer records are left out of training and held by the gate, counted both times."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """Training processes on this machine, each with `batch_size` pairs a step; unset means one for each GPU, one without."""
    gradient_checkpointing: bool = False
    """Trade time for memory while training."""
    eval_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluate on the held-out pairs every so many steps; 0 evaluates at the end only."""
    center_rewards: Annotated[float, Field(ge=0)] = 0.01
    """TRL's center_rewards_coefficient: keeps rewards near 0; cannot change d."""
    seed: int = 0
    """Seed of order, initialisation and contrastive pairs."""
    contrastive_per_verdict: Annotated[float, Field(ge=0)] = 6.0
    """Contrastive pairs from unlabelled records mixed in per verdict; verdicts alone destroy what the starter learned."""
    evidence: bool = True
    """Publish with a version what the unlabelled stream says of its own values, as counts; false leaves the model's text alone to judge."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of records, chosen by a hash of the record, that no model text is trained on.

    Where they are too few to calibrate with, `winnow train --data` weighs what other records say with them, too, once they have been
    measured.
    """
    cold_hold_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the unlabelled records that a model without verdicts holds."""
    right_held_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Expected share of the stream's right records that a trained model's threshold may hold, by its own calibrated P.

    Where a certificate needs a stricter threshold, that one is taken.
    """
    base: str | None = None
    """What every retraining starts from: starter directory, local model directory or hub name; unset trains the champion on."""
    unlabelled: str | None = None
    """FILE or topic:NAME whose records are corrupted for contrastive pairs; unset means the starter's own, in a cycle without one the
    latest of `topics.records`."""
    noise: Literal["review", "smooth", "flip", "drop"] = "review"
    """What happens to verdicts that the others make improbable: left out till another reviewer agrees, softened, turned round, dropped."""
    most_weight: Annotated[float, Field(ge=1)] = 4.0
    """Most that one verdict may count: drawn records count 1/propensity up to this."""
    check: Literal["refuse", "warn"] = "refuse"
    """What an error of the data-set check does: refuse the training, or be said and no more."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Share of wrong records among those that pass which a certificate rules out."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Probability that a certificate is mistaken."""
    retrain_verdicts: Annotated[int, Field(ge=1)] = 100
    """`--watch` trains again after so many new verdicts."""
    retrain_hours: Annotated[float, Field(gt=0)] = 24.0
    """`--watch` trains again after so many hours, if there is any new verdict."""
    drift_verdicts: Annotated[int, Field(ge=1)] = 50
    """`--watch` trains again after so many new verdicts, if that is fewer, where drift has been seen."""
    drift_delta: Annotated[float, Field(gt=0, lt=1)] = 0.002
    """How probable a false alarm may be when ADWIN looks whether audited records have become wrong more often."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9465
    """Port of `--watch`'s /metrics, /livez and /readyz; 0 turns them off."""
    metrics_bind: str = "127.0.0.1"
    """Address that they listen on."""
    work_directory: Path | None = None
    """Where training writes while it works; unset means a temporary directory that is removed."""

    @field_validator("verdict_words")
    @classmethod
    def _words_differ(cls, words: tuple[str, str]) -> tuple[str, str]:
        if not all(words) or words[0] == words[1]:
            raise ValueError("the two verdict words must be given and differ")
        return words
