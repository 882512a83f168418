"""A report as Markdown that any renderer reads: pipe tables, fenced commands, figures as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import singledispatch

from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.page import Bullets, Code, Grid, Page, Plot


def render(pages: tuple[Page, ...]) -> str:
    """The whole text, ending in a newline."""
    return "\n".join(line for page in pages for line in _page(page)).rstrip("\n") + "\n"


def escape(text: str) -> str:
    """Text that stays text: no HTML, link, emphasis, table cell or line break comes out of it."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", safe).replace("\r", " ").replace("\n", "<br>")


def _page(page: Page) -> Iterator[str]:
    yield from (f"# {escape(page.title)}", "", f"**{escape(page.verdict)}**", "")
    if page.subject:
        yield from (escape(page.subject), "")
    if page.facts:
        rows = tuple((fact.name, fact.value, fact.note) for fact in page.facts)
        yield from _block(Grid(columns=("", "", ""), rows=rows, prose=True))
    for section in page.sections:
        yield from (f"## {escape(section.title)}", "")
        for block in section.blocks:
            yield from _block(block)


@singledispatch
def _block(block: object) -> Iterator[str]:
    yield from (escape(str(block)), "")


@_block.register
def _(block: Bullets) -> Iterator[str]:
    yield from (f"- {escape(line)}" for line in block.lines)
    yield ""


@_block.register
def _(block: Code) -> Iterator[str]:
    runs = [len(run) for run in re.findall("`+", block.text)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    yield from (f"{escape(block.title)}:", "") if block.title else ()
    yield from (fence, block.text.rstrip("\n"), fence, "")


@_block.register
def _(block: Grid) -> Iterator[str]:
    if block.title:
        yield from (f"### {escape(block.title)}", "")
    yield _row(block.columns)
    yield _row(["---" if block.prose or not i else "---:" for i in range(len(block.columns))])
    for index, row in enumerate(block.rows):
        cells = [escape(cell) for cell in row]
        yield _row([f"**{c}**" if c and index in block.best else c for c in cells])
    yield ""
    if block.note:
        yield from (escape(block.note), "")


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


@_block.register
def _(block: Plot) -> Iterator[str]:
    if not block.repeated:
        yield from _block(grid_of(block))
        yield from _block(block.reading)
