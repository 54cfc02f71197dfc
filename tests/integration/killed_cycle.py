"""A cycle that is killed where the test says: `python -m tests.integration.killed_cycle TABLES STEP`, tables as JSON."""

import json
import os
import signal
import sys
from types import SimpleNamespace

from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings, TopicSettings
from trainer.config import TrainSettings
from trainer.cycle import run_cycle

TABLES = {
    "kafka": KafkaSettings, "topics": TopicSettings, "gate": GateSettings, "registry": RegistrySettings, "train": TrainSettings,
    "review": ReviewSettings,
}  # fmt: skip


def main() -> None:
    """Run one cycle and die by SIGKILL at the named step."""
    given = json.loads(sys.argv[1])
    tables = SimpleNamespace(**{name: table.model_validate(given[name]) for name, table in TABLES.items()})

    def step(what: str) -> None:
        if what == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

    run_cycle(tables, tables.train, tables.train.base, None, step)


if __name__ == "__main__":
    main()
