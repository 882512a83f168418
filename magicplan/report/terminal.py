"""What every terminal report shares: the console, a plain table, a section title, notes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


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
