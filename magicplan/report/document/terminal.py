"""What every terminal report shares: the console, a plain table, a section title, notes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.page import Block, Bullets, Code, Grid, Page, Plot


def stdout() -> Console:
    """The console that answers go to."""
    return Console(highlight=False, emoji=False, markup=False)


def table(*columns: str, title: str = "", numeric: bool = True) -> Table:
    """An open table: the first column names things, the rest are right-aligned numbers."""
    grid = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for index, name in enumerate(columns):
        right = numeric and index > 0
        grid.add_column(name, justify="right" if right else "left", no_wrap=right, min_width=4)
    return grid


def cell_tables(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Cells by batch and context under a title, as many contexts side by side as the console is
    wide; a cell may have several lines."""
    console.print(Text(title, style="bold"))
    texts = [*columns, *(cell for _, cells in rows for cell in cells)]
    wide = max(len(line) for text in texts for line in text.split("\n")) + 3
    first = max(5, *(len(name) for name, _ in rows)) + 2
    block = max(1, (console.width - first) // wide)
    for start in range(0, len(columns), block):
        grid = table("batch", *columns[start : start + block])
        for name, cells in rows:
            grid.add_row(name, *cells[start : start + block])
        console.print(grid)


def notes(console: Console, title: str, lines: Iterable[str]) -> None:
    """A titled list of sentences, wrapped under their dashes."""
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text(wrapped(line, console)))


def wrapped(line: str, console: Console) -> str:
    """A sentence under its dash, within the width."""
    return textwrap.fill(line, console.width - 1, initial_indent="- ", subsequent_indent="  ")


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on stderr where that is a terminal, for what takes seconds; the callable moves it by
    one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def print_json(document: dict[str, Any]) -> None:
    """Exactly one JSON document on stdout."""
    Console(soft_wrap=True).print(
        json.dumps(document, indent=2, allow_nan=False), markup=False, highlight=False
    )


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
    title = _plain(block.title)
    for columns in _side_by_side(block, console.width):
        names = [_plain(block.columns[i]) for i in columns]
        grid = table(*names, title=title, numeric=not block.prose)
        grid.show_header = any(block.columns)
        for index, row in enumerate(block.rows):
            cells = [_text(_line(row[i])) for i in columns]
            grid.add_row(*cells, style="bold green" if index in block.best else None)
        console.print(grid)
        title = ""
    if block.note:
        console.print(_text(block.note))


def _line(cell: str) -> str:
    return cell.replace("\n", ", ")


NAME_WIDTH = 24
"""Characters from which the names of rows may wrap."""


def _side_by_side(block: Grid, width: int) -> list[list[int]]:
    """Columns of each table that fits the width, names of rows first in all of them."""
    every = list(range(len(block.columns)))
    if block.prose or not every:
        return [every]
    wide = [
        max(len(_line(text)) for text in (block.columns[i], *(row[i] for row in block.rows))) + 3
        for i in every
    ]
    left = width - min(wide[0], NAME_WIDTH)
    found: list[list[int]] = [[0]]
    for column in every[1:]:
        used = sum(wide[i] for i in found[-1][1:])
        if found[-1] != [0] and used + wide[column] > left:
            found.append([0])
        found[-1].append(column)
    return found


@_block.register
def _(block: Plot, console: Console) -> None:
    _block(grid_of(block), console)
