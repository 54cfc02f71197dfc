"""Small versions of bench/model.py and bench/addresses.py: the judgement is far from chance after a few dozen steps."""

from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from bench import judgement
from bench.addresses import DATA, data_directory, run
from bench.model import flips
from bench.table import Table, never_asked
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


def spoiled_readings(records: int) -> Table:
    """A table one record in six of which has another unit or none at all."""
    clean = [(f"S{row % 7}", f"{20 + row % 9}.{row % 10}", "°C", f"2026-11-{row % 27 + 1:02}") for row in range(records)]
    cells = [(*row[:2], "K" if place // 6 % 2 else "", row[3]) if place * 7 % 6 == 0 else row for place, row in enumerate(clean)]
    wrong_RC = np.array([[one != other for one, other in zip(*rows, strict=True)] for rows in zip(cells, clean, strict=True)])
    return Table(("station", "value", "unit", "day"), cells, wrong_RC)


def test_a_short_table_with_few_verdicts_has_one_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judgement.run(spoiled_readings(120), 3, 0, 0.1, "winnow", tmp_path)
    assert found["verdicts"] == 3
    assert found["auroc"] is not None
    assert found["auroc_prequential"] is None
    stages = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if " read, " in line]
    assert stages == ["120 records"]


def test_a_table_is_read_as_a_stream(tmp_path: Path) -> None:
    """What was learned when a record came depends on none that comes later and on none that nobody is asked about."""
    table, held = spoiled_readings(300), never_asked(300, 0)
    later = [row if place < 180 and not held[place] else ("?", "?", "?", "?") for place, row in enumerate(table.cells)]
    read, found = [], []
    for name, each in (("as it is", table), ("others changed", table._replace(cells=later))):
        place = tmp_path / name
        place.mkdir()
        found.append(judgement.run(each, 20, 0, 0.2, "random", place))
        read.append([(place / "1" / what).read_bytes() for what in ("past.txt", "verdicts.jsonl")])
    assert read[0] == read[1]
    as_it_is = found[0]
    assert as_it_is["verdicts"] == 20
    assert as_it_is["auroc"] > 0.9
    assert as_it_is["auroc_prequential"] > 0.5
    assert as_it_is["field_hit_rate"] > 0.5
    assert 0 < as_it_is["ap"] <= 1
    assert as_it_is["baselines"]["gradient_boosting_past"] is not None
    assert as_it_is["baselines"]["flag_everything"] == 0.5
