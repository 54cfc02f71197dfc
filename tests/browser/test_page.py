"""The page in real Chromium: one key decides, malicious records stay text, the phone and the screen reader are served."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings, TopicSettings
from tests.browser.serving import served
from tests.debian import chromium
from tests.integration.conftest import send, wait_until
from tests.integration.reviewing import events, held, released
from tests.integration.test_review_doubts import a_cycle
from tests.pinned import npm_packages

pytestmark = [pytest.mark.browser, pytest.mark.integration]

AXE = "axe-core@4.10.3"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def tables(kafka: KafkaSettings, topics: TopicSettings, tmp_path: Path) -> SimpleNamespace:
    review = ReviewSettings(database_url=f"sqlite:///{tmp_path}/review.sqlite3", second_share=0.0, port=0)
    registry = RegistrySettings(url=str(tmp_path / "registry"))
    return SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=registry)


@pytest.fixture
def url(tables: SimpleNamespace) -> Iterator[str]:
    with served(tables) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:  # the page goes before its service does
    context = browser.new_context(locale="zh-CN", timezone_id="Asia/Shanghai", viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    context.close()
    unexpected = [text for text in said if "status of 422" not in text]  # a refused correction is an answer, not a fault
    assert unexpected == [], "the browser complained"


def picture(page: Page, name: str) -> None:
    """Keep a picture where WINNOW_PICTURES says, to be looked at."""
    place = os.environ.get("WINNOW_PICTURES")
    if place:
        page.screenshot(path=str(Path(place) / f"{name}.png"), full_page=True)


def twin(n: int) -> bytes:
    fields = {
        "name": "北京云帆科技有限公司",
        "address": "北京市朝阳区和平路12号",
        "postcode": "100020",
        "phone": f"1381234{n:04d}",
        "temperature": 21.5,
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def leave_dialog(page: Page) -> None:
    """Press Escape as a person would: Chromium drops a key that comes within a few milliseconds of a closing dialog."""
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('dialog[open]')")
    page.wait_for_timeout(150)


def decision_shown(page: Page) -> str:
    return page.locator("main h2").first.inner_text()


def axe(page: Page) -> list[Any]:
    """Return what axe finds wrong with the page; its script comes from npm and is run by the test, not by the page."""
    script = npm_packages("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found["violations"]]


def test_a_hundred_records_with_one_key_each(page: Page, url: str, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, twin(n), p=0.3) for n in range(100)])
    page.goto(url)
    page.wait_for_selector("main table")
    page.wait_for_function("() => document.getElementById('count-open').textContent !== '–'")
    picture(page, "review-zh")
    assert page.locator("tr.suspect th").first.inner_text().startswith("phone")
    times = []
    for n in range(100):
        before = decision_shown(page) if page.locator("main h2").count() else ""
        begun = time.perf_counter()
        page.keyboard.press("1" if n % 4 else "2")
        page.wait_for_function(
            "(before) => { const h = document.querySelector('main h2'); return !h || h.textContent !== before; }", arg=before
        )
        times.append(time.perf_counter() - begun)
    page.wait_for_selector(".nothing")
    wait_until(lambda: len(events(tables)) == 100, 60)
    said = events(tables)
    assert len({event["decision_id"] for event in said}) == 100
    assert sum(event["verdict"] == "right" for event in said) == 75
    assert len(released(tables, 75)) == 75
    assert sorted(times)[94] < 1.0
    page.wait_for_function("() => document.getElementById('count-done').textContent === '100'")
    assert page.locator("#count-mine_today").inner_text() == "100"


def test_a_refusal_speaks_the_language_of_the_page(page: Page, url: str, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, twin(0))])
    page.goto(url + "/?lang=zh")
    page.wait_for_selector("main table")
    page.keyboard.press("3")
    page.wait_for_selector("#correct-dialog[open]")
    page.click("#correct-dialog button[type=submit]")
    page.wait_for_function("() => document.getElementById('correct-said').textContent === '更正与原记录相同,请回答“正确”'")
    picture(page, "refused-zh")
    leave_dialog(page)


def test_what_a_training_doubts_waits_for_another_person(page: Page, url: str, tables: SimpleNamespace, tmp_path: Path) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, twin(n), p=0.3) for n in range(4)])
    page.goto(url)
    page.wait_for_selector("main table")
    for n in range(3):
        before = decision_shown(page)
        page.keyboard.press("1" if n % 2 else "2")
        page.wait_for_function("(before) => document.querySelector('main h2').textContent !== before", arg=before)
    wait_until(lambda: len(events(tables)) == 3, 60)
    a_cycle(tables, tmp_path, "one", [event["decision_id"] for event in events(tables)[:2]])
    page.wait_for_function("() => document.getElementById('count-doubted').textContent === '2'", timeout=90_000)
    assert page.locator("#count-open").inner_text() == "2", "the two are open again, beside the one that is shown"
    assert decision_shown(page) == "in:1:3", "who has answered is not asked again"
    picture(page, "doubted-zh")


def test_undo_note_correct_skip_and_history_from_the_keyboard(page: Page, url: str, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, twin(n)) for n in range(4)])
    page.goto(url + "/?lang=en&order=age")
    page.wait_for_selector("main table")
    assert decision_shown(page) == "in:1:0"
    picture(page, "review-en")
    page.keyboard.press("n")
    page.keyboard.type("seen on site")
    leave_dialog(page)
    page.keyboard.press("1")
    page.wait_for_function("() => document.querySelector('main h2').textContent === 'in:1:1'")
    wait_until(lambda: len(events(tables)) == 1, 30)
    page.wait_for_function("() => document.getElementById('said').textContent.includes('released to clean')")
    page.keyboard.press("u")
    page.wait_for_function("() => document.querySelector('main h2').textContent === 'in:1:0'")
    assert "already on clean" in page.locator("main").inner_text()
    page.keyboard.press("h")
    page.wait_for_selector("#list-dialog[open] li")
    assert "seen on site" in page.locator("#list").inner_text()
    leave_dialog(page)
    picked = page.locator(".pick").nth(1)
    picked.focus()
    page.keyboard.press("Enter")
    assert picked.get_attribute("aria-pressed") == "true"
    field = picked.inner_text()
    picture(page, "review-picked")
    page.keyboard.press("2")
    page.wait_for_function("() => document.getElementById('said').textContent.includes('not taken back')")
    shown = decision_shown(page)
    page.keyboard.press("3")
    page.wait_for_selector("#correct-dialog[open]")
    page.fill("#correction", "{broken")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => document.getElementById('correct-said').textContent.includes('cannot be read')")
    page.fill("#correction", twin(99).decode())
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => !document.getElementById('correct-dialog').open")
    assert decision_shown(page) != shown
    skipped = decision_shown(page)
    page.keyboard.press("s")
    page.wait_for_function("(before) => document.querySelector('main h2')?.textContent !== before", arg=skipped)
    wait_until(lambda: len(events(tables)) == 3, 30)
    said = [(event["verdict"], event["field"]) for event in events(tables) if event["decision_id"] == "in:1:0"]
    assert said == [("right", None), ("wrong", field)], "a marked field goes with its own verdict alone"
    assert sorted(m.value() for m in released(tables, 2)) == sorted([twin(0), twin(99)])


def test_a_malicious_record_is_text_and_nothing_more(page: Page, url: str, tables: SimpleNamespace) -> None:
    evil = {
        "script": "<script>window.owned = 1</script>",
        "image": '"><img src=x onerror="window.owned = 1">',
        "<b>key</b>": "{{ 7 * 7 }} ${7*7}",
        "rtl": "safe\u202egnp.exe\u2066\u200f",
        "ansi": "\x1b[31mred\x1b]0;title\x07",
        "long": "x" * 1_000_000,
    }
    attack = {"winnow.suspect": '[["<img src=x onerror=window.owned=1>",0.9]]', "winnow.model": "<script>window.owned=1</script>"}
    records = [held(0, json.dumps(evil).encode(), **attack), held(1, b"</script><script>window.owned=1</script>", reason="rule:<i>x</i>")]
    send(tables.kafka, tables.topics.quarantine, records)
    page.goto(url + "/?order=age")
    page.wait_for_selector("main table")
    picture(page, "malicious")
    text = page.locator("main").inner_text()
    assert "<script>window.owned = 1</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert "U+202E" in text
    assert "U+001B" in text
    assert page.locator("main img, main script, main b b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.keyboard.press("h")
    page.wait_for_selector("#list-dialog[open]")
    leave_dialog(page)
    page.keyboard.press("2")
    page.wait_for_function("() => document.querySelector('main h2').textContent === 'in:1:1'")
    page.keyboard.press("2")
    page.wait_for_selector(".nothing")
    wait_until(lambda: len(events(tables)) == 2, 30)
    assert page.evaluate("window.owned") is None


def test_a_phone_and_a_screen_reader_find_their_way(browser: Browser, url: str, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, twin(n)) for n in range(3)])
    send(tables.kafka, tables.topics.audit, [held(9, twin(9), audit=True)])
    context = browser.new_context(viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("main table")
    picture(page, "review-phone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert axe(page) == []
    page.goto(url + "/?source=audit")
    page.wait_for_selector(".blind")
    assert "P(" not in page.locator("main").inner_text()
    picture(page, "audit-phone")
    page.tap("[data-act=wrong]")
    page.wait_for_selector(".nothing")
    assert axe(page) == []
    page.goto(url + "/?lang=en")
    page.wait_for_selector("main table")
    page.tap("[data-act=help]")
    page.wait_for_selector("#list-dialog[open]")
    assert axe(page) == []
    page.goto(url + "/models")
    page.wait_for_selector("#versions p")
    assert axe(page) == []
    context.close()


def test_leaving_the_page_gives_the_records_back(page: Page, url: str, tables: SimpleNamespace, browser: Browser) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, twin(n)) for n in range(2)])
    other = browser.new_page()
    other.goto(url)
    other.wait_for_selector("main table")
    page.goto(url)
    page.wait_for_selector(".nothing")
    other.close(run_before_unload=False)
    other = browser.new_page()
    other.goto(url + "/models")
    page.wait_for_selector("main table", timeout=20_000)
    other.close()
