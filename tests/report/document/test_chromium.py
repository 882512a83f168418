"""Reports in a real browser: drawn, silent, readable at two widths, in two themes, by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magicplan.report.document import html
from magicplan.report.document.page import Page
from magicplan.report.pages import pages_of
from tests.report.documents import documents

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright to drive a browser"
)
pytest.importorskip("jinja2", reason="needs the report extra")
pytest.importorskip("vl_convert", reason="needs the report extra")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on the PATH"),
]
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # no sandbox: containers and CI run as root, and the page is our own
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


def report(name: str, folder: Path) -> Path:
    """The HTML of a document, written once."""
    path = folder / f"{name}.html"
    if not path.exists():
        source = folder / f"{name}.json"
        source.write_text(documents()[name], encoding="utf-8")
        path.write_text(html.render(tuple(pages_of(source))), encoding="utf-8")
    return path


class Opened:
    """A page with everything it complained about or asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=60_000)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


UNDRAWN = """() => [...document.querySelectorAll('.plot')].filter(box => {
  const marks = box.querySelectorAll('svg .mark-symbol path, svg .mark-rect path');
  const size = box.getBoundingClientRect();
  return !box.querySelector('svg') || marks.length === 0 || size.height < 100 || size.width < 150;
}).map(box => box.id)"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDER = """() => [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll, pre, svg'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + '#' + e.id)"""
SMALL = """() => [...document.querySelectorAll('p, li, td, th, dd, summary, button, .plot text')]
  .filter(e => e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 9)
  .map(e => e.textContent)"""


LUMINANCE = """([ink, paper]) => { const l = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [l(ink), l(paper)]; return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }"""
INKS = """() => [...document.querySelectorAll('p, li, td, th, dt, summary, button, h1, h2, nav a')]
  .filter(e => !e.closest('.plot')).map(e => { let box = e, paper = 'rgba(0, 0, 0, 0)';
    while (box && paper.endsWith(', 0)')) { paper = getComputedStyle(box).backgroundColor;
      box = box.parentElement; }
    return [getComputedStyle(e).color, paper]; })"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_plan_is_drawn_silent_and_fits(
    browser: Any, folder: Path, width: int, scheme: str
) -> None:
    path = report("plan", folder)
    with Opened(browser, path, width, scheme) as opened:
        assert opened.complaints == []
        assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [
            path.as_uri()
        ]
        assert opened.ask("() => document.querySelectorAll('.plot').length") >= 8
        assert opened.ask(UNDRAWN) == []
        assert opened.ask(OVERFLOW) <= 0
        assert opened.ask(WIDER) == []
        assert opened.ask(SMALL) == []
        for pair in {tuple(pair) for pair in opened.ask(INKS)}:
            assert opened.page.evaluate(LUMINANCE, list(pair)) >= 4.5, pair  # WCAG 2.2 AA
        labels = opened.page.locator(".plot text").all_text_contents()
        assert any("<script>" in label for label in labels), labels
        assert opened.page.locator(".plot svg a").count() == 0


def test_every_schema_is_drawn_silent_and_fits(browser: Any, folder: Path) -> None:
    """All in one report, on a narrow screen."""
    pages: list[Page] = []
    for name, text in documents().items():
        source = folder / f"{name}.json"
        source.write_text(text, encoding="utf-8")
        pages += pages_of(source)
    path = folder / "all.html"
    path.write_text(html.render(tuple(pages)), encoding="utf-8")
    with Opened(browser, path, 390) as opened:
        assert opened.complaints == []
        assert opened.ask("() => document.querySelectorAll('article').length") == len(documents())
        assert opened.ask(UNDRAWN) == []
        assert opened.ask(OVERFLOW) <= 0


SETTLED = """() => [...document.querySelectorAll('.plot')].every(box => {
  const drawing = JSON.parse(document.querySelector(`[data-plot=${box.id}]`).textContent);
  const wide = Math.max(box.clientWidth, drawing.usermeta.least_width);
  return Math.abs(box.querySelector('svg').getBoundingClientRect().width - wide) < 3;
})"""
AXIS_INK = "() => getComputedStyle(document.querySelector('.plot .role-axis-label text')).fill"


def test_plots_follow_the_theme_and_the_window(browser: Any, folder: Path) -> None:
    with Opened(browser, report("plan", folder)) as opened:
        light = opened.ask(AXIS_INK)
        opened.page.emulate_media(color_scheme="dark")
        opened.page.wait_for_function(f"ink => ({AXIS_INK})() !== ink", arg=light)
        opened.page.emulate_media(color_scheme="light")
        opened.page.wait_for_function(f"ink => ({AXIS_INK})() === ink", arg=light)
        opened.page.emulate_media(media="print")
        opened.page.emulate_media(media="screen")
        for width in (900, 500, 1300):
            opened.page.set_viewport_size({"width": width, "height": 900})
            opened.page.wait_for_timeout(200)  # a drag is one new drawing, a moment after its end
            opened.page.wait_for_function(SETTLED)
            assert opened.ask(UNDRAWN) == []
            assert opened.ask(OVERFLOW) <= 0
        assert opened.complaints == []


def test_a_plot_answers_the_mouse(browser: Any, folder: Path) -> None:
    with Opened(browser, report("hopeless", folder)) as opened:
        plot = opened.page.locator(".plot").filter(has=opened.page.locator(".mark-rect")).first
        plot.scroll_into_view_if_needed()
        plot.locator(".mark-rect.role-mark path").first.hover(force=True)
        hover = opened.page.locator("#vg-tooltip-element.visible")
        hover.wait_for()
        assert "weights" in hover.inner_text()


def test_the_keyboard_reaches_everything_and_copies(browser: Any, folder: Path) -> None:
    with Opened(browser, report("plan", folder)) as opened:
        opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
        reached = 0
        for _ in range(400):
            opened.page.keyboard.press("Tab")
            if opened.ask("() => document.activeElement.tagName") == "BODY":
                break
            reached += 1
        wanted = "() => document.querySelectorAll('a, button, summary, .scroll, pre').length"
        closed = "() => document.querySelectorAll('details .scroll, details a').length"
        assert reached >= opened.ask(wanted) - opened.ask(closed)
        opened.page.locator("button[data-copy]").first.focus()
        opened.page.keyboard.press("Enter")
        opened.page.wait_for_selector("#said:has-text('Copied')", state="attached")
        assert opened.ask("() => navigator.clipboard.readText()").startswith("vllm serve")
        opened.page.locator("figure > details summary").first.focus()
        opened.page.keyboard.press("Enter")
        assert opened.ask("() => document.querySelector('figure > details').open")
        assert opened.page.locator(".plot .vega-embed > svg:not([aria-hidden])").count() == 0
        unnamed = (
            "() => [...document.querySelectorAll('button')].filter(b => !b.textContent.trim() "
        )
        assert opened.ask(unnamed + "&& !b.getAttribute('aria-label')).length") == 0


def test_paper_is_light_and_without_controls(browser: Any, folder: Path) -> None:
    with Opened(browser, report("plan", folder), scheme="dark") as opened:
        on_screen = opened.ask(AXIS_INK)
        opened.page.emulate_media(media="print")
        assert opened.ask("() => getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert opened.ask(AXIS_INK) != on_screen
        for hidden in ("nav", "button[data-copy]"):
            assert not opened.page.locator(hidden).first.is_visible()
        assert opened.page.pdf().startswith(b"%PDF")
        opened.page.emulate_media(media="screen")
        opened.page.wait_for_function(f"ink => ({AXIS_INK})() === ink", arg=on_screen)


def test_without_scripts_the_tables_remain(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report("hopeless", folder).as_uri())
    assert "figures are not drawn" in page.inner_text("noscript")
    page.locator("figure > details summary").first.click()
    assert page.locator("details[open] table").count() == 1
    context.close()
