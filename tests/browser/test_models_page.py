"""The model page in real Chromium with two versions: report, threshold slider, promotion, rollback, axe on the filled page."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings, TopicSettings
from tests.browser.serving import served
from tests.browser.test_page import PHONE, axe, picture
from tests.debian import chromium
from tests.integration.reviewing import a_report, gates_in_shadow, published

pytestmark = [pytest.mark.browser, pytest.mark.integration]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    url = str(tmp_path / "registry")
    published(url, tmp_path, "one")
    published(url, tmp_path, "two", a_report())
    found = Registry(RegistrySettings(url=url))
    found.promote("1")
    found.point("challenger", "2", "not worse than the champion, but pinned")
    return found


@pytest.fixture
def url(kafka: KafkaSettings, topics: TopicSettings, tmp_path: Path, registry: Registry) -> Iterator[str]:
    settings = RegistrySettings(url=str(registry.root))
    with gates_in_shadow("winnow@2") as gates:
        review = ReviewSettings(database_url=f"sqlite:///{tmp_path}/review.sqlite3", port=0, gate_metrics=gates)
        with served(SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=settings)) as address:
            yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(locale="zh-CN", timezone_id="Asia/Shanghai", viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: dialog.accept())
    yield opened
    context.close()
    assert said == [], "the browser complained"


def open_report(page: Page, url: str, language: str) -> None:
    page.goto(f"{url}/models?lang={language}")
    page.wait_for_selector("#versions tbody tr")
    page.locator("#versions tbody tr").first.locator("button").first.click()
    page.wait_for_selector("#report svg")


def test_the_slider_says_what_another_threshold_would_do(page: Page, url: str) -> None:
    open_report(page, url, "en")
    picture(page, "models-en")
    assert "winnow@2 · records scored: 200 · would pass instead of being held: 6 (3.00 %)" in page.locator("#shadows").inner_text()
    output = page.locator("#report output")
    before = output.inner_text()
    assert before.startswith("threshold 0.600:")
    page.locator("#report input[type=range]").focus()
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    assert output.inner_text().startswith("threshold 0.650:")
    assert output.inner_text() != before
    assert axe(page) == []
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert axe(page) == []
    picture(page, "models-phone")
    tops = page.evaluate("[...document.querySelectorAll('.figures tr')[1].children].map((cell) => cell.offsetTop)")
    assert len(set(tops)) == 1, "the figures of one row stand beside each other on a phone too"
    open_report(page, url, "zh")
    picture(page, "models-zh-phone")


def test_promote_roll_back_and_unpin_with_a_broken_version_beside(page: Page, url: str, registry: Registry) -> None:
    open_report(page, url, "en")
    row = page.locator("#versions tbody tr").first
    row.get_by_role("button", name="Promote").click()
    page.wait_for_function("() => document.querySelector('#versions tbody th').textContent.includes('champion')")
    assert registry.aliases()["champion"] == 2
    (registry.root / "versions" / "2" / "manifest.json").write_text("{")
    page.reload()
    page.wait_for_selector("#versions tbody tr")
    assert "cannot be read" in page.locator("#versions tbody tr").first.inner_text()
    assert axe(page) == []
    page.get_by_role("button", name="Roll back").click()
    page.wait_for_selector("#pinned button")
    picture(page, "models-rolled-back")
    assert registry.aliases()["champion"] == 1
    page.get_by_role("button", name="Unpin").click()
    page.wait_for_function("() => document.getElementById('pinned').textContent === ''")
    assert registry.is_pinned() is False
