"""What a record may do to a terminal: nothing. What a settings printout gives away: no secret."""

import io
import json
from collections import Counter, deque
from pathlib import Path

import pytest
from rich.console import Console

import stream.score_file
from demo.view import LiveView
from foundation.settings import as_toml
from foundation.terminal import as_shown
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings
from stream.decide import Calibration
from stream.judge import Judge
from stream.rules import Rules
from stream.score_file import as_row, judge_values
from tests.conftest import shown_on_a_terminal

NASTY = "[/b] [red]x \x1b[2J\x1b]0;owned\x07 :smile: \u202egnp.exe \\[/x] 北京 \x00\x9b1m\r\n"


def test_no_byte_of_a_record_moves_a_terminal() -> None:
    shown = shown_on_a_terminal(as_shown(NASTY))
    assert not {c for c in shown if not c.isprintable() and c != "\n"}
    for kept in ("[/b] [red]x", "\\x1b[2J", ":smile:", "\\u202e", "\\[/x]", "北京", "\\x00", "\\x9b"):
        assert kept in shown


def test_the_table_of_winnow_score(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr(stream.score_file, "Console", lambda: console)
    values = [NASTY.encode(), b'{"phone": "ddee", "a": NaN}', b"\xff", b""]
    rows = [as_row(*each) for each in judge_values(values, Judge(GateSettings(), Rules(), None))]
    stream.score_file._print_table(rows, "winnow@1", 0.5)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "winnow@1, clean from p_chosen 0.500000" in shown
    for word in ("clean", "quarantine", "rule:not-finite", "dead-letter", "undecodable", "empty", "[/b] [red]x \\x1b[2J"):
        assert word in shown
    assert "\x1b" not in shown


def test_the_demos_view() -> None:
    view = LiveView.__new__(LiveView)
    view._counts = Counter({"clean": 90, "quarantine": 8, "dead-letter": 2})
    view._held = deque([("rule:telephone", "", NASTY), ("model", "0.194", "北京")])
    lines = shown_on_a_terminal(view._picture(200, 12.3)).splitlines()
    assert lines[0].strip("━╸╺ ") == "", "the bar has a line of its own"
    assert lines[1].split("   ") == ["clean 90", "quarantine 8", "dead letter 2", "to come 100", "12 records/s"]
    assert "0.194" in "".join(lines)
    assert "\x1b" not in "".join(lines)


def test_rows_have_the_contracts_fields() -> None:
    [row] = [as_row(*each) for each in judge_values([b'{"a": 1}'], Judge(GateSettings(), Rules(), None))]
    assert list(row) == ["record", "reward_right", "reward_wrong", "p_chosen", "p_rejected", "route", "reason"]
    assert row["record"] == {"a": 1}
    assert json.dumps(row)
    assert Calibration().p_chosen(0.0) == 0.5


def test_a_printout_of_the_settings_holds_no_password(tmp_path: Path) -> None:
    extra = {"sasl.password": "hush1", "ssl.key.password": "hush2", "sasl.username": "gate", "security.protocol": "SASL_SSL"}
    shown = as_toml(
        {
            "kafka": KafkaSettings(extra=extra),
            "review": ReviewSettings(database_url="postgresql+psycopg://me:hush3@db.local/winnow"),
        }
    )
    assert "hush" not in shown
    assert '"sasl.username" = "gate"' in shown
    assert "postgresql+psycopg://me:********@db.local/winnow" in shown
