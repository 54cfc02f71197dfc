"""TRL's RewardTrainer on ready-made ids, both chats of a pair in one pass: all weights, or a LoRA with the reward head.

Enters: a base and pairs. Leaves: the trained model, LoRA merged in, and TRL's evaluation on the held-out pairs.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import RewardConfig

from foundation.errors import DataRefused
from trainer.bases import Base
from trainer.config import TrainSettings
from trainer.one_pass import OnePassRewardTrainer, PairCollator
from trainer.pairs import Pair, as_columns

# transformers renamed it; where there are both, the old name warns
_CHECKPOINTING = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in RewardConfig.__dataclass_fields__)
SMALL_PARAMETERS = 20_000_000


class Bar(TrainerCallback):
    """A progress bar on stderr with the loss; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("reward model"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("train", total=None, loss="")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar."""
        self._bar.start()
        self._bar.update(self._task, total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the last loss and accuracy."""
        if logs and "loss" in logs:
            self._bar.update(self._task, loss=f"loss {float(logs['loss']):.3f}, accuracy {float(logs.get('accuracy', 0)):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the bar away."""
        self._bar.stop()


class Trained(NamedTuple):
    """The model as it will serve, what TRL measured, where a LoRA's own files are (None for full training), (step, loss)."""

    model: PreTrainedModel
    metrics: dict[str, float]
    adapter: Path | None
    losses: list[tuple[int, float]]


def learning_rate_for(settings: TrainSettings, model: PreTrainedModel) -> float:
    """Return the set rate, or one by size: small starters move fast, pre-trained models as TRL's script does."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_PARAMETERS:
        return 3e-4
    return 1e-4 if settings.method == "lora" else 1e-5


def train_reward(base: Base, pairs: Sequence[Pair], held_out: Sequence[Pair], settings: TrainSettings, work: Path) -> Trained:
    """Train on pairs and evaluate on held-out ones; progress on stderr. Raises DataRefused when there is no pair."""
    if not pairs:
        raise DataRefused("there is no pair to train on: every record is unreadable, too long or held out")
    on_gpu = torch.cuda.is_available()
    config = RewardConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=learning_rate_for(settings, base.model),
        max_length=None,
        **{_CHECKPOINTING: settings.gradient_checkpointing},
        center_rewards_coefficient=settings.center_rewards or None,
        eval_strategy="steps" if settings.eval_steps and held_out else "no",
        eval_steps=settings.eval_steps or None,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        seed=settings.seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        report_to="none",
        logging_steps=10,
        disable_tqdm=True,
    )
    lora = None
    if settings.method == "lora":
        # SEQ_CLS keeps and saves the reward head; with CAUSAL_LM it would stay random and unsaved (trl#578)
        lora = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, task_type="SEQ_CLS", target_modules="all-linear")
    trainer = OnePassRewardTrainer(
        model=base.model,
        args=config,
        train_dataset=Dataset.from_dict(as_columns(pairs)),
        eval_dataset=Dataset.from_dict(as_columns(held_out)) if held_out else None,
        processing_class=base.tokenizer,
        data_collator=PairCollator(base.tokenizer.pad_token_id),
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which carries results
    trainer.add_callback(Bar())
    trainer.train()
    measured: dict[str, Any] = trainer.evaluate() if held_out else {}
    metrics: dict[str, float] = {name: float(measured[name]) for name in ("eval_accuracy", "eval_loss") if name in measured}
    model = trainer.model
    adapter = None
    if isinstance(model, PeftModel):
        adapter = Path(tempfile.mkdtemp(dir=work)) / "adapter"
        model.save_pretrained(str(adapter))
        model = model.merge_and_unload()
    losses = [(int(line["step"]), round(float(line["loss"]), 6)) for line in trainer.state.log_history if "loss" in line]
    return Trained(cast(PreTrainedModel, model).eval(), metrics, adapter, losses)
