"""What cannot work is refused at boot, in one sentence, with the documented exit code, and nothing is consumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.config import KafkaSettings, TopicSettings
from tests.integration.conftest import read_all, send, winnow

pytestmark = pytest.mark.integration


def refused(done: object, code: int, said: str) -> None:
    assert done.returncode == code, done.stderr  # type: ignore[attr-defined]
    [sentence] = done.stderr.strip().splitlines()  # type: ignore[attr-defined]
    assert said in sentence
    assert done.stdout == ""  # type: ignore[attr-defined]


def test_missing_topic(kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]) -> None:
    send(kafka, topics.records, [{"value": b"x"}])
    path = write_config(mode="rules")
    path.write_text(path.read_text().replace(f'"{topics.quarantine}"', '"no.such.topic"'))
    refused(winnow("gate", "--config", path), 3, "topic no.such.topic does not exist")
    assert read_all(kafka, topics.clean) == []


def test_missing_alias(write_config: Callable[..., Path]) -> None:
    refused(winnow("gate", "--config", write_config(model="challenger-nine")), 4, "has no alias 'challenger-nine'")


def test_tampered_checkpoint(tmp_path: Path, registry_url: str, write_config: Callable[..., Path]) -> None:
    copy = tmp_path / "registry"
    shutil.copytree(registry_url, copy)
    weights = copy / "versions" / "1" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    path = write_config()
    path.write_text(path.read_text().replace(registry_url, str(copy)))
    refused(winnow("gate", "--config", path), 4, "versions/1/model.safetensors has changed since it was published")
    refused(winnow("registry", "verify", "champion", "--config", path), 4, "model.safetensors has changed")


def test_a_model_that_scores_otherwise_than_published(tmp_path: Path, registry_url: str, write_config: Callable[..., Path]) -> None:
    import re

    copy = tmp_path / "registry"
    shutil.copytree(registry_url, copy)
    manifest = copy / "versions" / "1" / "manifest.json"
    manifest.write_text(re.sub(r'("rewards": \[\s*\[\s*)[-0-9.e]+', r"\g<1>9.0", manifest.read_text()))
    path = write_config()
    path.write_text(path.read_text().replace(registry_url, str(copy)))
    refused(winnow("gate", "--config", path), 4, "does not score as it did when it was published")


def test_unreachable_broker(write_config: Callable[..., Path], kafka: KafkaSettings) -> None:
    path = write_config(mode="rules")
    path.write_text(path.read_text().replace(kafka.bootstrap_servers, "127.0.0.1:1").replace("= 5\n", "= 2\n"))
    refused(winnow("gate", "--config", path), 3, "no broker answered at kafka.bootstrap_servers = 127.0.0.1:1")


def test_a_setting_that_is_none(write_config: Callable[..., Path]) -> None:
    refused(winnow("gate", "--config", write_config(modl="x")), 2, "gate.modl is no setting; the nearest is gate.model")


def test_usage() -> None:
    assert winnow("gate", "--until-idl", "3").returncode == 2


def test_a_file_is_judged_by_rules_alone_and_what_is_missing_is_named(tmp_path: Path) -> None:
    rules, config, records = tmp_path / "rules.toml", tmp_path / "winnow.toml", tmp_path / "records.jsonl"
    rules.write_text('[[rule]]\nname = "phone"\nfield = "phone"\nschema = { pattern = "^[0-9]+$" }\n')
    config.write_text(f'[gate]\nmode = "rules"\nrules_file = "{rules}"\n[registry]\nurl = "{tmp_path / "none"}"\n')
    records.write_text('{"phone": "123"}\n{"phone": "ddee"}\n')
    done = winnow("score", str(records), "--config", config)
    assert [json.loads(line)["reason"] for line in done.stdout.splitlines()] == ["rules", "rule:phone"], done.stderr
    assert winnow("config", "check", "--config", config).returncode == 0
    refused(winnow("score", str(tmp_path / "nofile.jsonl"), "--config", config), 5, "there is no file")
    refused(winnow("registry", "import", str(tmp_path / "nodir"), "--config", config), 2, "nodir is no directory")
    listed = winnow("registry", "list", "--config", config)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "no versions in registry.url" in listed.stderr
    rules.write_text("[rule]\nname = 3\n")
    refused(winnow("config", "check", "--config", config), 2, "rules are [[rule]] tables")
    config.write_text('[review]\nbind = "0.0.0.0"\n')
    refused(winnow("config", "check", "--config", config), 2, "review.bind = 0.0.0.0 is reachable from outside")
    for table, name in (("gate", "audit_key_file"), ("serve", "token_file")):
        config.write_text(f'[{table}]\n{name} = "{tmp_path / "nokey"}"\n')
        refused(winnow("config", "check", "--config", config), 2, f"{table}.{name}")
