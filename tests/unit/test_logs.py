"""Logs: a line that repeats itself is said seldom, and another one at once."""

import logging

from foundation.logs import Seldom


def line(text: str, **extra: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, **extra})


def test_what_repeats_is_said_seldom() -> None:
    seldom = Seldom(60)
    assert [seldom.filter(line(f"connect failed after {n} ms")) for n in range(3)] == [True, False, False]
    assert seldom.filter(line("revoked"))
    assert seldom.filter(line("refused", detail="a"))
    assert seldom.filter(line("refused", detail="b"))
    assert all(Seldom(0).filter(line("again")) for _ in range(2))
