"""What ``report.html`` does in a browser: ``pytest -m browser``, with Playwright and a Chromium (its own, or apt's)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import both_records, make_facts, many_classes, transfer, with_classes, with_examples

from robbench.report.html import report_html
from robbench.report.rows import group_records

pytestmark = pytest.mark.browser

RECORDS = with_examples(
    [
        *both_records(make_facts("pgd", "mnist"), [4] * 40, 100.0),
        *both_records(make_facts("standard", "emnist"), [1] * 40, 5.0),
        *both_records(make_facts("pgd", "emnist"), [3] * 36 + [-1] * 4, 400.0),
        *transfer(1, [2] * 32 + [-1] * 8),
        *(record for k in range(2, 8) for record in transfer(k, [1] * (42 - k) + [-1] * (k - 2), 10.0 * k)),
    ]
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of eleven models."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_html(group_records(RECORDS), title="A study"), encoding="utf-8")
    return path


@pytest.fixture(params=[1280, 390])
def page(browser: Any, path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report at two widths, without a network; nothing may be asked for, complained of or thrown."""
    page = browser.new_context(viewport={"width": request.param, "height": 844}, offline=True).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
    page.set_default_timeout(5_000)
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    page.context.close()


def column(table: Any, number: int) -> list[str]:
    """The shown texts of a column."""
    return [cell.inner_text() for cell in table.locator(f"tbody tr:visible td:nth-child({number})").all()]


def test_nothing_reaches_past_the_screen(page: Any) -> None:
    """The page does not scroll sideways, and the recommendation is on the first screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.get_by_text("PGD EMNIST").first.bounding_box()["y"] < 300


def test_a_click_sorts(page: Any) -> None:
    """By the figure, the largest first, and the other way with a second click; names from the first letter."""
    table = page.locator("table").first
    head = table.locator("th").nth(5)
    head.click()
    assert column(table, 6) == ["400", "70.0", "60.0", "50.0", "40.0", "30.0", "20.0", "10.0", "5.00"]
    head.click()
    assert column(table, 6)[0] == "5.00"
    table.locator("th").first.click()
    assert column(table, 1)[0].startswith("PGD")


def test_a_filter_shows_the_rows_with_its_words(page: Any) -> None:
    """In its name, all of them, whatever their case."""
    page.locator("input.filter").first.fill("tl 3")
    assert column(page.locator("table").first, 1) == ["TL#3"]
    page.locator("input.filter").first.fill("")
    assert len(column(page.locator("table").first, 1)) == 9


def test_a_dot_says_its_value(page: Any) -> None:
    """Under the pointer; and nothing beside it."""
    page.locator(".first svg circle:not(.near)").last.hover()
    tip = page.locator("#tip")
    assert "median p* " in tip.inner_text()
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_the_best_within_limits(page: Any) -> None:
    """The most robust model that is accurate and cheap enough, or none."""
    said = page.locator("output")
    assert said.inner_text() == "most robust: PGD EMNIST"
    page.locator("input[name=seconds]").fill("100")
    assert said.inner_text() == "most robust: TL#1"
    page.locator("input[name=accuracy]").fill("99")
    assert said.inner_text() == "most robust: Standard EMNIST"
    page.locator("input[name=seconds]").fill("1")
    assert said.inner_text() == "no model is within these limits"


def test_classes_stay_named(browser: Any, tmp_path: Path) -> None:
    """Scrolled down and to the right, the class and the model of a cell are still seen; sorting leaves the mean on top."""
    records = with_classes(RECORDS, many_classes(47))
    path = tmp_path / "report.html"
    path.write_text(report_html(group_records(records), title="A study"), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(path.as_uri())
    page.locator("summary", has_text="every class of EMNIST").click()
    box, table = page.locator(".tall").first, page.locator(".heat").first
    box.evaluate("box => { box.scrollTop = 400; box.scrollLeft = 150; }")
    frame = box.bounding_box()
    assert table.locator("tbody td:first-child").nth(12).bounding_box()["x"] == pytest.approx(frame["x"], abs=1)
    assert table.locator("thead").bounding_box()["y"] == pytest.approx(frame["y"], abs=1)
    table.locator("th").nth(3).click()
    assert (table.locator("thead td").first.inner_text(), column(table, 1)[0]) == ("balanced accuracy", "c46")
    page.close()


def test_dark_and_on_paper(page: Any) -> None:
    """Dark where the reader's system is, white with everything unfolded on paper."""
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == "rgb(22, 24, 27)"
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.locator("details:not([open])").count() == 0
