"""The first screen of a page: what fits 24 lines, the verdict first and how to see more last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from magicplan.report.document.page import Block, Brief, Fact, Page

LINES = 24
"""Lines of a terminal as small as they come."""
MORE = "--full shows everything, --json every number."


def plain(text: str) -> str:
    """A text that cannot move the cursor or change colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def first_screen(
    page: Page,
    brief: Brief,
    console: Console,
    draw: Callable[[Block, Console], None],
    more: str = MORE,
) -> None:
    """Print a page's verdict, its numbers, as many of its blocks as fit, and how to see more.

    `draw` prints a block, `more` is the last line. What is left out first are blocks but the first,
    then the subject, then the last numbers, and the first block at last.
    """
    for subject, facts, blocks in _ever_less(page.subject, brief):
        text = _drawn(page, brief, (subject, facts, blocks), console, draw)
        text += f"{more}\n" if more else ""
        if _lines(text, console.width) < LINES:  # a line is the prompt's
            break
    console.out(text, end="", highlight=False)


Shown = tuple[str, tuple[Fact, ...], tuple[Block, ...]]
LEAST_FACTS = 4


def _ever_less(subject: str, brief: Brief) -> Iterator[Shown]:
    """Subject, numbers and blocks, ever fewer of them."""
    facts, blocks = brief.facts, brief.blocks
    for count in range(len(blocks), 0, -1):
        yield subject, facts, blocks[:count]
    for count in range(len(facts), LEAST_FACTS - 1, -1):
        yield "", facts[:count], blocks[:1]
    yield subject, facts, ()
    yield "", facts[:LEAST_FACTS], ()


def _lines(text: str, width: int) -> int:
    """Lines that a text takes on a terminal, which wraps long ones."""
    return sum(max(1, math.ceil(len(line) / width)) for line in text.splitlines())


def _drawn(
    page: Page,
    brief: Brief,
    shown: Shown,
    console: Console,
    draw: Callable[[Block, Console], None],
) -> str:
    subject, facts, blocks = shown
    with console.capture() as drawn:
        draw(page.verdict, console)
        if subject:
            draw(subject, console)
        if facts:
            console.print(_facts(facts, console.width))
        for block in blocks:
            draw(block, console)
        draw(f"Rests on {brief.rests_on}." if brief.rests_on else "", console)
    lines = [line for line in drawn.get().splitlines() if line.strip()]
    wide = [line.rstrip() for line in lines]
    return "".join(f"{line}\n" for line in wide)


def _facts(facts: tuple[Fact, ...], width: int) -> Table:
    """A line a number: its name, its value, and of its note the clauses that fit."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("name", "value"):
        wide = max(len(getattr(fact, name)) for fact in facts)
        table.add_column(no_wrap=True, min_width=wide)
    table.add_column(no_wrap=True, overflow="ellipsis")
    room = width - sum(max(len(getattr(f, name)) for f in facts) + 2 for name in ("name", "value"))
    for fact in facts:
        cells = (fact.name, fact.value, _clauses(fact.note, room))
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _clauses(note: str, room: int) -> str:
    """As many clauses of a note as fit."""
    found = ""
    for clause in note.split("; "):
        longer = f"{found}; {clause}" if found else clause
        if len(longer) > room:
            break
        found = longer
    return found
