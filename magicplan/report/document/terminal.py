"""A page on a terminal: the verdict first, then numbers, tables and sentences within the width."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.first_screen import first_screen, plain
from magicplan.report.document.page import Block, Bullets, Code, Grid, Page, Plot


def stdout() -> Console:
    """The console that answers go to."""
    return Console(highlight=False, emoji=False, markup=False)


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


def _text(text: str, style: str = "") -> Text:
    return Text(plain(text), style=style)


def render(page: Page, console: Console, *, full: bool = True) -> None:
    """Print a page, the verdict first; not `full`, what of it fits a screen."""
    if page.brief is not None and not full:
        first_screen(page, page.brief, console, _block)
        return
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
            console.print(_text(section.title, style="bold"))
            for block in blocks:
                _block(block, console)
    if page.brief is not None and page.brief.again:
        console.print()
        first_screen(page, page.brief, console, _block, more="")


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
        shown = textwrap.fill(
            plain(line), console.width - 1, initial_indent="- ", subsequent_indent="  "
        )
        console.print(Text(shown))


@_block.register
def _(block: Code, console: Console) -> None:
    """Unwrapped, so that what is copied is one line; a formula stands in."""
    if block.title:
        console.print(_text(f"{block.title}:"))
        console.print(_text(block.text), soft_wrap=True)
    else:
        console.print(_text(textwrap.indent(block.text, "    ")), soft_wrap=True)


@_block.register
def _(block: Grid, console: Console) -> None:
    title = plain(block.title)
    shown = block.rows[: block.first or None]
    parts = _side_by_side(block, console.width)
    for columns in parts[:1] if block.narrows else parts:
        table = _table(block, columns, title)
        for index, row in enumerate(shown):
            style = "bold green" if index in block.best else None
            table.add_row(*(_text(row[i]) for i in columns), style=style)
        with _as_wide(console, _wide(block)[0] if block.narrows else 0):
            console.print(table)
        title = ""
    if block.narrows and len(parts) > 1:
        out = ", ".join(block.columns[i] for columns in parts[1:] for i in columns[1:])
        console.print(_text(f"Left out for want of width: {out}; --json has all."))
    if len(shown) < len(block.rows):
        console.print(_text(f"{len(block.rows) - len(shown)} more rows: --json has all."))
    if block.note:
        console.print(_text(block.note))


def _table(block: Grid, columns: list[int], title: str) -> Table:
    """An open table: the first column names things, numbers stand to the right."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    table.show_header = any(block.columns)
    for index, at in enumerate(columns):
        right = not block.prose and index > 0
        name = plain(block.columns[at])
        justify: Literal["right", "left"] = "right" if right else "left"
        whole = right or (block.narrows and index == 0)
        table.add_column(name, justify=justify, no_wrap=whole, min_width=NARROWEST)
    return table


@contextmanager
def _as_wide(console: Console, least: int) -> Iterator[None]:
    """The console as wide as a name, where it is narrower: a name is never cut."""
    width = console.width
    console.width = max(width, least)
    yield
    console.width = width


NARROWEST = 4
"""Characters that a column has at least."""
NAME_WIDTH = 24
"""Characters from which the names of rows may wrap."""


def _wide(block: Grid) -> list[int]:
    """Characters that each column takes in the rows shown, with the space beside it."""
    rows = (block.columns, *block.rows[: block.first or None])
    return [
        max(NARROWEST, *(len(line) for row in rows for line in row[i].split("\n"))) + 3
        for i in range(len(block.columns))
    ]


def _side_by_side(block: Grid, width: int) -> list[list[int]]:
    """Columns of each table that fits the width, names of rows first in all of them."""
    every = list(range(len(block.columns)))
    if block.prose or not every:
        return [every]
    wide = _wide(block)
    left = width - (wide[0] if block.narrows else min(wide[0], NAME_WIDTH))
    found: list[list[int]] = [[0]]
    for column in every[1:]:
        used = sum(wide[i] for i in found[-1][1:])
        if (found[-1] != [0] or block.narrows) and used + wide[column] > left:
            found.append([0])
        found[-1].append(column)
    return found


@_block.register
def _(block: Plot, console: Console) -> None:
    _block(grid_of(block), console)
