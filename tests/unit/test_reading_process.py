"""Stages 1 to 3b elsewhere: the same readings, whatever comes in, whatever happens to the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from demo.run import RULES
from demo.twins import take
from stream import reading_process
from stream.config import GateSettings
from stream.encode import Encoder
from stream.judge import reader_of
from stream.read import Reader, Readings
from stream.reading_process import ReadingProcess
from stream.records import Content
from stream.render import render
from stream.rules import Rules
from tests.conftest import WORDS
from trainer.weigh import weigh

ODD = [
    None,
    b"",
    b"\xff",
    b'{"a": NaN}',
    b'{"a": 1, "a": 2}',
    b"[" * 70,
    b'{"phone": "ddee"}',
    "\ufeffa  b\u3000 c".encode(),
    b"x" * 99_999,
]


@pytest.fixture(scope="module")
def parts(starter_directory: Path) -> SimpleNamespace:
    encoder = Encoder(AutoTokenizer.from_pretrained(starter_directory / "reward"), WORDS, "chat@1", 512)
    stream = [render(Content(True, {"phone": f"1380000{number:04}", "a": number % 7})) for number in range(80)]
    weighed = weigh(stream, stream, [], 0)
    assert weighed is not None
    model = SimpleNamespace(rendering="fields@1", scorer=SimpleNamespace(encoder=encoder), evidence=weighed.evidence)
    settings, rules = GateSettings(), Rules.load(RULES)
    here = reader_of(settings, rules, model)  # type: ignore[arg-type]
    return SimpleNamespace(settings=settings, rules=rules, model=model, here=here)


def process_of(parts: SimpleNamespace) -> ReadingProcess:
    return ReadingProcess(parts.settings, parts.rules, parts.model, parts.here)


class Nobody(Reader):
    """Stands where the gate itself would read: then the process has failed."""

    def __init__(self) -> None:
        super().__init__("auto", Rules())

    def read(self, values: Sequence[bytes | None]) -> Readings:
        raise AssertionError(f"the process did not read {len(values)} records")


def process_alone(parts: SimpleNamespace) -> ReadingProcess:
    return ReadingProcess(parts.settings, parts.rules, parts.model, Nobody())


def same(one: Readings, other: Readings) -> bool:
    numbers = zip(one.encoded, other.encoded, strict=True)
    return (
        one[:3] == other[:3]
        and all(np.array_equal(mine, theirs) for mine, theirs in numbers)
        and np.array_equal(one.evidence_K, other.evidence_K)
    )


def test_it_reads_as_the_reader_does(parts: SimpleNamespace) -> None:
    elsewhere = process_alone(parts)
    values = [*ODD, *(twin.value for twin in take(300, 3))]
    assert same(elsewhere.read(values), parts.here.read(values))
    assert len(set(elsewhere.read(values).evidence_K.tolist())) > 3, "what other records say comes with the ids"
    assert same(elsewhere.read([]), parts.here.read([]))
    assert same(elsewhere.read([None]), parts.here.read([None]))
    assert same(elsewhere.read([b"y" * 3_000_000]), parts.here.read([b"y" * 3_000_000]))


def test_without_a_model_only_rules_are_read(parts: SimpleNamespace) -> None:
    elsewhere = ReadingProcess(parts.settings, parts.rules, None, Nobody())
    readings = elsewhere.read(ODD)
    assert readings.asked == []
    assert same(readings, reader_of(parts.settings, parts.rules, None).read(ODD))


def test_two_threads_get_their_own_answers(parts: SimpleNamespace) -> None:
    elsewhere = process_alone(parts)
    batches = [[f"record {number} {place}".encode() for place in range(50 + number)] for number in range(40)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(elsewhere.read, batches))
    assert all(same(readings, parts.here.read(batch)) for readings, batch in zip(found, batches, strict=True))


def test_a_killed_process_loses_nothing_and_is_replaced(
    parts: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = process_of(parts)
    first = pid_of(elsewhere)
    os.kill(first, signal.SIGKILL)
    assert same(elsewhere.read(ODD), parts.here.read(ODD))
    assert "the gate reads itself" in caplog.text
    caplog.clear()
    assert same(elsewhere.read(ODD), parts.here.read(ODD))
    assert elsewhere.line is not None
    assert not elsewhere.line.is_open, "another one is not started at once"
    monkeypatch.setattr(elsewhere, "_not_before", 0.0)
    monkeypatch.setattr(elsewhere, "_here", Nobody())
    assert same(elsewhere.read(ODD), parts.here.read(ODD))
    assert pid_of(elsewhere) != first
    assert caplog.text == ""


def test_a_stopped_process_does_not_stop_the_gate(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_ANSWER_SECONDS", 1)
    elsewhere = process_of(parts)
    stopped = pid_of(elsewhere)
    os.kill(stopped, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        batches = [[b"x" * 4_000] * 500, ODD]  # more than a socket holds, and less
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(elsewhere.read, batches))
        assert time.monotonic() - begun < 20
        assert all(same(readings, parts.here.read(batch)) for readings, batch in zip(found, batches, strict=True))
    finally:
        os.kill(stopped, signal.SIGKILL)


def test_an_answer_to_another_question_is_not_taken(parts: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = process_of(parts)
    assert elsewhere.line is not None
    late = [b"late"]
    reading_process.send(elsewhere.line._batches, np.array([99, 1, 1], dtype=np.int32), reading_process._lengths_of(late), b"late")
    assert same(elsewhere.read([b"mine", b"too"]), parts.here.read([b"mine", b"too"]))
    assert "answer to batch [99]" in str(caplog.records[0].__dict__["detail"])


def test_the_process_ends_when_nobody_has_it(parts: SimpleNamespace) -> None:
    elsewhere = process_of(parts)
    pid = pid_of(elsewhere)
    del elsewhere
    wait_until_gone(pid)


def changed_meanwhile(path: Path) -> Rules:
    """Return rules whose file says something else by now."""
    path.write_text('[[rule]]\nname = "a"\ncheck = "printable"\n')
    rules = Rules.load(path)
    path.write_text('[[rule]]\nname = "b"\ncheck = "printable"\n')
    return rules


def test_where_the_rules_changed_meanwhile_the_gate_reads_by_its_own(
    parts: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = changed_meanwhile(tmp_path / "rules.toml")
    here = reader_of(parts.settings, rules, None)
    elsewhere = ReadingProcess(parts.settings, rules, None, here)
    assert "has changed since it was read" in str(caplog.records[0].__dict__["detail"])
    assert same(elsewhere.read(ODD), here.read(ODD))


def test_one_process_reads_for_what_is_in_service_and_for_what_follows_it(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = process_alone(parts)
    values = [*ODD, *(twin.value for twin in take(300, 3))]
    changed = SimpleNamespace(rendering="fields@1", scorer=parts.model.scorer, evidence=parts.model.evidence.scaled(0.5))
    rules = Rules()
    second = ReadingProcess(parts.settings, rules, changed, Nobody(), first)  # type: ignore[arg-type]
    assert pid_of(second) == pid_of(first)
    second_here = reader_of(parts.settings, rules, changed)  # type: ignore[arg-type]
    assert not same(second_here.read(values), parts.here.read(values))
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda each: each.read(values), [first, second] * 10))
    assert all(same(one, parts.here.read(values)) for one in found[::2])
    assert all(same(one, second_here.read(values)) for one in found[1::2])
    del first
    third = ReadingProcess(parts.settings, parts.rules, parts.model, Nobody(), second)
    assert pid_of(third) == pid_of(second), "the process outlives the first that had it"
    assert same(third.read(values), parts.here.read(values))
    del second
    assert same(third.read(values), parts.here.read(values))
    assert third.line is not None
    with pytest.raises((EOFError, OSError)):  # the process ends by asking for what it has forgotten
        third.line.read(1, values)
    monkeypatch.setattr(third, "_not_before", 0.0)
    assert same(third.read(values), parts.here.read(values))


def test_a_reader_is_added_while_batches_are_read(parts: SimpleNamespace) -> None:
    first = process_alone(parts)
    batches = [[f"record {number} {place}".encode() for place in range(200)] for number in range(60)]
    with ThreadPoolExecutor(3) as threads:
        found = threads.map(first.read, batches)
        others = [ReadingProcess(parts.settings, Rules(), parts.model, Nobody(), first) for _ in range(3)]
        assert all(same(readings, parts.here.read(batch)) for readings, batch in zip(found, batches, strict=True))
    assert {pid_of(each) for each in others} == {pid_of(first)}


def test_a_killed_process_that_two_had_loses_nothing_for_either(parts: SimpleNamespace) -> None:
    first = process_of(parts)
    second = ReadingProcess(parts.settings, Rules(), parts.model, reader_of(parts.settings, Rules(), parts.model), first)
    os.kill(pid_of(first), signal.SIGKILL)
    for each, rules in ((first, parts.rules), (second, Rules()), (second, Rules())):
        assert same(each.read(ODD), reader_of(parts.settings, rules, parts.model).read(ODD))


def test_another_tokenizer_gets_a_process_of_its_own(parts: SimpleNamespace) -> None:
    first = ReadingProcess(parts.settings, parts.rules, None, Nobody())
    second = ReadingProcess(parts.settings, parts.rules, parts.model, Nobody(), first)
    assert pid_of(second) != pid_of(first)
    assert same(second.read(ODD), parts.here.read(ODD))


def test_a_reader_that_cannot_be_built_leaves_the_other_one_reading(
    parts: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = changed_meanwhile(tmp_path / "rules.toml")
    first = process_alone(parts)
    here = reader_of(parts.settings, rules, parts.model)
    second = ReadingProcess(parts.settings, rules, parts.model, here, first)
    assert "has changed since it was read" in str(caplog.records[0].__dict__["detail"])
    assert same(second.read(ODD), here.read(ODD))
    assert same(first.read(ODD), parts.here.read(ODD))


def test_it_ends_with_a_gate_that_is_killed() -> None:
    script = """
import sys, time
from stream.config import GateSettings
from stream.judge import reader_of
from stream.reading_process import ReadingProcess
from stream.rules import Rules
elsewhere = ReadingProcess(GateSettings(), Rules(), None, reader_of(GateSettings(), Rules(), None))
print(elsewhere.line._end.peek()[2][1].pid, flush=True)
time.sleep(60)
"""
    gate = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with gate:
        assert gate.stdout is not None
        pid = int(gate.stdout.readline())
        gate.kill()
    wait_until_gone(pid)


def pid_of(elsewhere: ReadingProcess) -> int:
    assert elsewhere.line is not None
    alive = elsewhere.line._end.peek()
    assert alive is not None
    return int(alive[2][1].pid)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)
