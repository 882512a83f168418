"""A page as a piece of HTML for a notebook's cell: what a terminal shows, with tables as tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from html import escape

from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.page import Bullets, Code, Grid, Page, Plot


def fragment(page: Page) -> str:
    """The verdict, the numbers to see first and every table, each text escaped."""
    return "\n".join(_page(page))


def _page(page: Page) -> Iterator[str]:
    yield f"<p><b>{escape(page.verdict)}</b></p>"
    if page.subject:
        yield f"<p>{escape(page.subject)}</p>"
    if page.facts:
        rows = tuple((fact.name, fact.value, fact.note) for fact in page.facts)
        yield _block(Grid(columns=("", "", ""), rows=rows))
    for section in page.sections:
        blocks = [block for block in section.blocks if not getattr(block, "quiet", False)]
        shown = [block for block in blocks if not getattr(block, "repeated", False)]
        if shown:
            yield f"<details><summary>{escape(section.title)}</summary>"
            yield from map(_block, shown)
            yield "</details>"


@singledispatch
def _block(block: object) -> str:
    return f"<p>{escape(str(block))}</p>"


@_block.register
def _(block: Bullets) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block.lines)}</ul>"


@_block.register
def _(block: Code) -> str:
    return f"<p>{escape(block.title)}</p><pre>{escape(block.text)}</pre>"


@_block.register
def _(block: Grid) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in block.columns)
    rows = ("".join(f"<td>{_cell(cell)}</td>" for cell in row) for row in block.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    note = f"<p>{escape(block.note)}</p>" if block.note else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _cell(text: str) -> str:
    return escape(text).replace("\n", "<br>")


@_block.register
def _(block: Plot) -> str:
    return _block(grid_of(block))
