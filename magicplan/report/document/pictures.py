"""The figures of a page as one PNG or SVG, drawn by vl-convert without a browser or a network."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from magicplan.errors import MissingExtra, UsageError
from magicplan.report.document.page import Page, Plot
from magicplan.report.document.vega.drawing import WIDTH, draw

GAP = 24
"""Pixels around and between the figures."""
SHARP = 2
"""Dots of a PNG a pixel."""
FONT = "Liberation Sans, DejaVu Sans, sans-serif"


def check(path: Path) -> None:
    """Raise UsageError for another ending than .png or .svg, MissingExtra without vl-convert."""
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--figure {path}: expected a file ending in .png or .svg")
    _converter()


def write(page: Page, path: Path, *, option: str = "--figure") -> None:
    """All figures of a page, one below the other. Raises UsageError where there are none or where
    the file cannot be written, MissingExtra without vl-convert."""
    check(path)
    plots = plots_of(page)
    if not plots:
        raise UsageError(f"{option} {path}: {page.title!r} has no figure")
    svg = _stacked(page.title, [_svg(plot) for plot in plots])
    content = _converter().svg_to_png(svg, scale=SHARP) if path.suffix == ".png" else svg.encode()
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise UsageError(f"{option} {path}: cannot be written ({problem.strerror})") from None


def plots_of(page: Page) -> list[Plot]:
    """The figures of a page, in their order."""
    return [b for s in page.sections for b in s.blocks if isinstance(b, Plot)]


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise MissingExtra("a picture", "report") from None
    return vl_convert


def _svg(plot: Plot) -> str:
    spec = draw(plot.figure)
    spec["width"] = max(WIDTH, spec["usermeta"]["least_width"])
    spec["title"] = {"text": plot.title}
    spec["config"] = spec["config"] | {"font": FONT}
    return str(_converter().vegalite_to_svg(spec))


def _stacked(title: str, parts: list[str]) -> str:
    """Drawings under a title in one, their colours looked up in the light style of the page."""
    across, down, inside = 0.0, 2.5 * GAP, []
    for number, part in enumerate(parts):
        own = re.sub(r'\bid="', f'id="f{number}-', part)
        own = own.replace("url(#", f"url(#f{number}-").replace('href="#', f'href="#f{number}-')
        size = [float(re.search(rf'<svg[^>]*\s{name}="([\d.]+)', own)[1])  # type: ignore[index]
                for name in ("width", "height")]  # fmt: skip
        inside.append(own.replace("<svg", f'<svg x="{GAP}" y="{down:g}"', 1))
        across, down = max(across, size[0] + 2 * GAP), down + size[1] + GAP
    name = (
        f'<text x="{GAP}" y="{1.6 * GAP:g}" font-family="{FONT}" font-size="17" '
        f'font-weight="bold" fill="var(--ink)">{escape(title)}</text>'
    )
    whole = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{across:g}" height="{down:g}" viewBox="0 0 {across:g} {down:g}">'
        f'<rect width="100%" height="100%" fill="var(--surface)"/>{name}{"".join(inside)}</svg>'
    )
    colours = _colours()
    return re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: colours.get(found[1], "#000"), whole)


def _colours() -> dict[str, str]:
    """The light style's colours by name."""
    sheet = (files("magicplan.report.document") / "templates" / "report.css").read_text("utf-8")
    return dict(re.findall(r"(--[a-z0-9-]+):\s*(#[0-9a-fA-F]+)", sheet[: sheet.index("}")]))
