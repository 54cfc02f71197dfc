"""Small versions of bench/model.py and bench/addresses.py: the judgement is far from chance after a few dozen steps."""

from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from bench.addresses import DATA, data_directory, run
from bench.model import flips
from demo.summary import evaluate
from demo.twins import UNREADABLE, take
from model_registry.config import RegistrySettings
from stream.config import GateSettings, KafkaSettings
from trainer.config import TrainSettings
from trainer.make_starter import make_starter
from trainer.train import train_and_publish

pytestmark = pytest.mark.integration


@pytest.mark.skipif(not (data_directory() / DATA).is_file(), reason=f"{DATA} is not in ../shared/data or WINNOW_DATA")
def test_real_addresses(tmp_path: Path) -> None:
    found = run(data_directory() / DATA, None, 40, 50, 0, tmp_path)
    assert found["steps"] == 40
    assert found["auroc"] > 0.6


def test_twins_and_appended_control_text(tmp_path: Path) -> None:
    twins = take(2_500, 3)
    source = tmp_path / "twins.jsonl"
    source.write_bytes(b"\n".join(twin.value for twin in twins[:1_500] if twin.truth.kind != UNREADABLE) + b"\n")
    registry = RegistrySettings(url=str(tmp_path / "registry"))
    tables = SimpleNamespace(kafka=KafkaSettings(), gate=GateSettings(), registry=registry, train=TrainSettings(cold_hold_share=0.2))
    make_starter(tables, str(source), tmp_path / "starter", None, 80, 0, 1_500)
    cold = train_and_publish(tables, tables.train, str(tmp_path / "starter"), None, None)
    assert evaluate(cold, GateSettings(), twins[1_500:]).auroc > 0.65
    turned = flips(cold, GateSettings(), twins, Random(0))
    assert turned["held"] > 30
    # both counts are chance; three standard deviations of a difference of two counts
    assert turned["control"] <= turned["ordinary"] + 3 * (2 * max(turned["ordinary"], 1)) ** 0.5
