"""One training on several processes of this machine, one for each GPU: started by torchrun, gradients averaged by DDP.

Enters: what reward.py takes. Leaves: what it returns. The pairs and the base go through the working directory as JSON
and safetensors, so that every process has the same; `python -m trainer.processes JOB` is one of them.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any, cast

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from foundation import logs
from foundation.errors import ModelRefused
from trainer.bases import Base
from trainer.config import TrainSettings
from trainer.pairs import Pair
from trainer.reward import Trained, train_reward

_TRAINER = "WINNOW_TRAINER_PROCESS"


def train(base: Base, pairs: Sequence[Pair], held_out: Sequence[Pair], settings: TrainSettings, work: Path) -> Trained:
    """Train in this process or, by `train.processes`, in several. Raises DataRefused, ModelRefused."""
    count = settings.processes or max(1, torch.cuda.device_count())
    if count == 1 or not pairs:
        return train_reward(base, pairs, held_out, settings, work)
    job = work / "job"
    job.mkdir()
    base.model.save_pretrained(job / "base")
    base.tokenizer.save_pretrained(job / "base")
    for name, some in (("pairs", pairs), ("held_out", held_out)):
        with (job / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in some)
    (job / "settings.json").write_text(settings.model_dump_json())
    _run(count, job)
    said = json.loads((job / "trained.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(job / "model", dtype=torch.float32)
    model.config.pad_token_id = base.tokenizer.pad_token_id
    adapter = Path(said["adapter"]) if said["adapter"] is not None else None
    losses = [(int(step), float(loss)) for step, loss in said["losses"]]
    return Trained(cast(PreTrainedModel, model).eval(), said["metrics"], adapter, losses)


def _run(count: int, job: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--nnodes", "1", "--nproc-per-node", str(count), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *place, "-m", "trainer.processes", str(job)],
        stdout=subprocess.DEVNULL,  # stdout carries results
        env={"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", **os.environ, _TRAINER: str(os.getpid())},
        check=False,
    )
    if done.returncode != 0:
        raise ModelRefused(
            f"a training on {count} processes (train.processes) failed with exit status {done.returncode}; it said why above"
        )


def _end_with_the_trainer(process: int) -> None:
    """Leave when the trainer is gone, however it went: torchrun would go on for hours, for nobody."""
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


def _pairs(path: Path) -> list[Pair]:
    with path.open() as file:
        return [Pair(*json.loads(line)) for line in file]


def main() -> None:
    """Train as one of several processes; the first writes the model and what was measured."""
    logs.quiet_libraries()
    Thread(target=_end_with_the_trainer, args=(int(os.environ[_TRAINER]),), daemon=True).start()
    job = Path(sys.argv[1])
    settings = TrainSettings.model_validate_json((job / "settings.json").read_text())
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        job / "base", dtype=torch.float32, attn_implementation="sdpa" if torch.cuda.is_available() else "eager"
    )
    base = Base("job", model, AutoTokenizer.from_pretrained(job / "base"), has_head=True, unlabelled=None, facts={})
    rank = os.environ["RANK"]
    work = job / rank
    work.mkdir()
    trained = train_reward(base, _pairs(job / "pairs.jsonl"), _pairs(job / "held_out.jsonl"), settings, work)
    if rank == "0":
        trained.model.save_pretrained(job / "model")
        adapter = None if trained.adapter is None else str(trained.adapter)
        said = {"metrics": trained.metrics, "losses": trained.losses, "adapter": adapter}
        (job / "trained.json").write_text(json.dumps(said))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
