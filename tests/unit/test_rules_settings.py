"""Rules and settings: what they catch, and the one sentence they refuse with."""

from pathlib import Path

import pytest

from commands.shared import tables
from demo.run import RULES
from foundation.errors import SettingInvalid
from foundation.settings import as_toml, documented, load
from stream.decode import decode_value
from stream.rules import CHECKS, Rules


def broken(rules: Rules, value: str) -> list[str]:
    [violations] = rules.check([decode_value(value.encode(), "auto")])
    return [violation.rule for violation in violations]


RIGHT = '{"name":"a","address":"b","postcode":"100102","phone":"010-62345678","longitude":116.4,"latitude":39.9}'


def test_the_demo_rules() -> None:
    rules = Rules.load(RULES)
    assert broken(rules, RIGHT) == []
    assert broken(rules, RIGHT.replace("010-62345678", "ddee")) == ["telephone"]
    assert broken(rules, RIGHT.replace("100102", "1001")) == ["postcode"]
    assert broken(rules, RIGHT.replace("39.9", "116.4")) == ["twin-schema"]
    assert broken(rules, RIGHT.replace('"name":"a",', "")) == ["twin-schema"]
    assert broken(rules, "张三,北京<|im_end|>,联系电话:138") == ["control-text"]
    assert rules.digest is not None
    assert rules.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (
            "telephone-cn",
            ["13812345678", "010-62345678", "0755-8601234", "02062345678"],
            ["1381234567", "ddee", "", None, "0755-1", "a" * 50],
        ),
        ("postcode-cn", ["100102", 518000], ["10010", "1001022", "91010O", None]),
        ("longitude", [116.4, "-180"], [181, "x", None, float("nan")]),
        ("latitude", [39.9, "-90"], [90.1, [], {}]),
        ("not-blank", ["x", 0], ["", "  ", None]),
        ("no-control-text", ["a < b | c > d", "1<2"], ["<|im_end|>", "</s>", "[INST] x"]),
        ("printable", ["ok\n\t", "中文"], ["\x00", "\x1b[31m", "\ufffd"]),
    ],
)
def test_named_checks(check: str, good: list[object], bad: list[object]) -> None:
    holds, _ = CHECKS[check]
    assert all(holds(value) for value in good)
    assert not any(holds(value) for value in bad)


def test_a_runaway_pattern_does_not_run_away(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "p"\nfield = "x"\nschema = { pattern = "^(a+)+$" }\n')
    assert broken(Rules.load(path), '{"x": "' + "a" * 50_000 + 'b"}') == ["p"]


def test_a_huge_integer_does_not_stop_a_schema(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "p"\nschema = { type = "object" }\n')
    assert broken(Rules.load(path), '{"x": ' + "9" * 4000 + "}") in ([], ["p"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rule]]\nname="a"\n', "needs exactly one of schema, schema_file and check"),
        ('[[rule]]\nname="a"\ncheck="phone"\n', "'phone' is no named check"),
        ('[[rule]]\nname="a"\nschema={type="strin"}\n', "not a usable JSON Schema"),
        ('[[rule]]\nname="a"\ncheck="printable"\nseverity="fatal"\n', "severity"),
        ('[[rule]]\nname="a"\ncheck="printable"\n[[rule]]\nname="a"\ncheck="printable"\n', "names the rule a twice"),
        ('[[rules]]\nname="a"\n', "no part of a rules file"),
        ("x", "cannot be read"),
        ('[rule]\nname="a"\n', "rules are [[rule]] tables"),
        ("rule=3\n", "rules are [[rule]] tables"),
        ('rule=["a"]\n', "rules are [[rule]] tables"),
        ('[[rule]]\nname="a"\nchek="printable"\n', "rule 'a': chek: is no part of a rule; the nearest is check"),
        ('[[rule]]\nname="a"\ncheck="printable"\n[[rule]]\ncheck="printable"\n', "rule number 2: name: Field required"),
        ('[[rule]]\nname="a"\nschema_file="none.json"\n', "none.json"),
    ],
)
def test_bad_rules_are_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(SettingInvalid) as caught:
        Rules.load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_come_from_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "winnow.toml"
    path.write_text('[gate]\nthreshold = 0.25\ngroup = "g"\n[kafka.extra]\n"linger.ms" = "1"\n')
    environment = {"WINNOW_GATE__THRESHOLD": "0.75", "WINNOW_DATA": "ignored", "WINNOW_TRAIN__VERDICT_WORDS": "1,0", "PATH": ""}
    found = load(path, tables(), environment)
    assert found["gate"].threshold == 0.75  # type: ignore[attr-defined]
    assert found["gate"].group == "g"  # type: ignore[attr-defined]
    assert found["kafka"].extra == {"linger.ms": "1"}  # type: ignore[attr-defined]
    assert found["train"].verdict_words == ("1", "0")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("[gate]\nthreshhold = 1", {}, "gate.threshhold is no setting; the nearest is gate.threshold"),
        ("[gat]\nx = 1", {}, "[gat] in"),
        ("[gate]\nthreshold = 1.5", {}, "gate.threshold = 1.5"),
        ('[gate]\nmode = "obsrve"', {}, "gate.mode = 'obsrve'"),
        ("", {"WINNOW_GATE__MODUS": "observe"}, "WINNOW_GATE__MODUS is no setting; the nearest is WINNOW_GATE__MODE"),
        ('[kafka.extra]\n"enable.auto.commit" = "true"', {}, "enable.auto.commit belongs to winnow"),
        ('[train]\nverdict_words = ["a", "a"]', {}, "verdict words"),
        ("x =", {}, "not valid TOML"),
        ('[topics]\nclean = "twin.records"', {}, "[topics]: topics.records = twin.records: two topics have this name"),
        ('[topics]\nclean = "bad topic!"', {}, "[topics]: topics.clean = 'bad topic!': Kafka's topics have letters"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(tmp_path: Path, text: str, environment: dict[str, str], said: str) -> None:
    path = tmp_path / "winnow.toml"
    path.write_text(text)
    with pytest.raises(SettingInvalid) as caught:
        load(path, tables(), environment)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("", {"WINNOW_KAFKA__EXTRA": "sasl.password=geheim"}),
        ('[kafka.extra]\n"sasl.password" = ["geheim"]', {}),
        ('[kafka]\nextra = [["sasl.password", "geheim"]]', {}),
    ],
)
def test_a_refused_setting_shows_no_password(tmp_path: Path, text: str, environment: dict[str, str]) -> None:
    path = tmp_path / "winnow.toml"
    path.write_text(text)
    with pytest.raises(SettingInvalid, match="kafka.extra") as caught:
        load(path, tables(), environment)
    assert "geheim" not in str(caught.value)


def test_one_underscore_is_said_to_be_ignored(caplog: pytest.LogCaptureFixture) -> None:
    load(None, tables(), {"WINNOW_GATE_MODE": "observe", "WINNOW_CACHE": "cache", "WINNOW_GATE_HOUSE": "1"})
    assert [(r.ignored, r.setting) for r in caplog.records] == [("WINNOW_GATE_MODE", "WINNOW_GATE__MODE")]  # type: ignore[attr-defined]


def test_types_and_limits_are_written_for_people() -> None:
    kinds = {name: kind for name, kind, _, _ in documented(tables())}
    assert kinds["gate.max_poll_records"] == "int ≥ 1, ≤ 100000"
    assert kinds["gate.threshold"] == "float ≥ 0, ≤ 1 or unset"
    assert kinds["gate.mode"] == '"enforce" or "observe" or "rules"'
    assert kinds["train.work_directory"] == "path or unset"
    assert not [kind for kind in kinds.values() if "[" in kind or "typing" in kind]


def test_every_setting_is_documented_and_shown_settings_load_again(tmp_path: Path) -> None:
    assert all(meaning for _, _, _, meaning in documented(tables()))
    found = load(None, tables(), {})
    path = tmp_path / "shown.toml"
    path.write_text(as_toml(found))
    assert load(path, tables(), {}) == found
