"""How long does a browser take to open an HTML report, all figures drawn, and how large is it?

Opens the file several times in headless Chromium, each time as if for the first time. Prints the
wall time from the start of the navigation to the last figure drawn, and the processor time of the
page's own thread, which a busy machine leaves alone; beside it the same page without its figures.
Goals: 2 seconds, 6 MB.

    python benchmarks/html_report.py report.html [more.html ...]
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

RUNS, GOAL_SECONDS, GOAL_BYTES = 7, 2.0, 6e6
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DRAWN = """() => new Promise(done => { const root = document.documentElement;
  const look = () => 'drawn' in root.dataset ? done(performance.now()) : setTimeout(look, 1);
  look(); })"""


def opened(browser: Any, path: Path, script: str) -> list[tuple[float, float]]:
    """Wall and processor seconds of every run, the first left out."""
    found = []
    for _ in range(RUNS + 1):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri(), wait_until="commit")
        wall = page.evaluate(script) / 1e3
        metrics = session.send("Performance.getMetrics")["metrics"]
        own = next(m["value"] for m in metrics if m["name"] == "ThreadTime")
        found.append((wall, own))
        context.close()
    return found[1:]


def without_figures(text: str) -> str:
    """The page without its last two scripts: the library and what draws with it."""
    return "<script>".join(text.split("<script>")[:-2]) + "</body></html>"


def main(paths: list[Path]) -> None:
    """One line a file."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for path in paths:
            text = path.read_text(encoding="utf-8")
            bare = Path(folder) / "bare.html"
            bare.write_text(without_figures(text), encoding="utf-8")
            loaded = "() => new Promise(done => addEventListener('load', done(performance.now())))"
            (plain, _) = map(statistics.median, zip(*opened(browser, bare, loaded), strict=True))
            times, own = zip(*opened(browser, path.resolve(), DRAWN), strict=True)
            size, middle = len(text.encode()), statistics.median(times)
            met = middle <= GOAL_SECONDS and size <= GOAL_BYTES
            print(
                f"{path.name:20} {size / 1e6:.2f} MB, {text.count('data-plot=')} figures drawn in "
                f"{middle:.2f} s, worst of {RUNS} {max(times):.2f} s, processor "
                f"{statistics.median(own):.2f} s (text alone {plain:.2f} s): goal "
                f"{'met' if met else 'missed'}"
            )
        browser.close()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
