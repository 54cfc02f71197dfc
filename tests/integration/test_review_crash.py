"""The small version of `make bench-review`: no acknowledged verdict is lost or repeated when the service is killed."""

from pathlib import Path

import pytest

from bench.review import durability
from stream.config import TopicSettings

pytestmark = pytest.mark.integration


def test_an_acknowledged_verdict_survives_the_service(bootstrap: str, topics: TopicSettings, tmp_path: Path, database_url: str) -> None:
    found = durability(bootstrap, topics, tmp_path, records=400, kills=4, reviewers=6, database_url=database_url)
    wrong = ("acknowledged_not_once", "events_repeated", "answered_by_two", "releases_missing", "releases_repeated", "releases_unasked")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["acknowledged"] >= 390
