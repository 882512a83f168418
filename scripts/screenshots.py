"""Pictures of an HTML report as people see it: two widths, light and dark, and on paper.

python scripts/screenshots.py report.html pictures/
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main(report: Path, folder: Path) -> None:
    """Write one PNG a width and scheme, and a PDF."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for width in WIDTHS:
            for scheme in SCHEMES:
                page = browser.new_page(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                page.goto(report.resolve().as_uri())
                page.wait_for_selector("html[data-drawn]")
                path = folder / f"{report.stem}-{width}-{scheme}.png"
                page.screenshot(path=path, full_page=True)
                print(path)
        page.pdf(path=folder / f"{report.stem}.pdf")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
