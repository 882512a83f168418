"""A report on a terminal: the verdict first, tables within the width, no figures."""

from __future__ import annotations

from functools import singledispatch

from rich.console import Console
from rich.text import Text

from magicplan.report.figure_tables import grid_of
from magicplan.report.page import Block, Bullets, Code, Grid, Page, Plot
from magicplan.report.terminal import notes, table, wrapped


def _plain(text: str) -> str:
    """Names from files cannot move the cursor or change colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _text(text: str, style: str = "") -> Text:
    return Text(_plain(text), style=style)


def render(page: Page, console: Console) -> None:
    """Print a page, the verdict first."""
    console.print(_text(page.verdict, style="bold"))
    if page.subject:
        console.print(_text(page.subject))
    if page.facts:
        rows = tuple((fact.name, fact.value, fact.note) for fact in page.facts)
        _block(Grid(columns=("", "", ""), rows=rows, prose=True), console)
    for section in page.sections:
        blocks = [block for block in section.blocks if not _left_out(block)]
        if blocks:
            console.print()
            _section(section.title, blocks, console)


def _section(title: str, blocks: list[Block], console: Console) -> None:
    if isinstance(blocks[0], Bullets):
        notes(console, title, map(_plain, blocks[0].lines))
        blocks = blocks[1:]
    else:
        console.print(_text(title, style="bold"))
    for block in blocks:
        _block(block, console)


def _left_out(block: Block) -> bool:
    if isinstance(block, Plot):
        return block.quiet or block.repeated
    return isinstance(block, Code) and block.quiet


@singledispatch
def _block(block: object, console: Console) -> None:
    console.print(_text(str(block)))


@_block.register
def _(block: Bullets, console: Console) -> None:
    for line in block.lines:
        console.print(_text(wrapped(line, console)))


@_block.register
def _(block: Code, console: Console) -> None:
    """Unwrapped, so that what is copied is one line."""
    console.print(_text(f"{block.title}:"))
    console.print(_text(block.text), soft_wrap=True)


@_block.register
def _(block: Grid, console: Console) -> None:
    grid = table(*map(_plain, block.columns), title=_plain(block.title), numeric=not block.prose)
    grid.show_header = any(block.columns)
    for index, row in enumerate(block.rows):
        cells = [_text(cell.replace("\n", ", ")) for cell in row]
        grid.add_row(*cells, style="bold green" if index in block.best else None)
    console.print(grid)
    if block.note:
        console.print(_text(block.note))


@_block.register
def _(block: Plot, console: Console) -> None:
    _block(grid_of(block), console)
