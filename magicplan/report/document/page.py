"""A report as data: what it says, in which order. Terminal, Markdown and HTML are drawn from it.

Every text may come from a file, so nothing here is markup: each writer escapes for its own form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from magicplan.report.document.charts import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: the first column names things. `best` are rows to stand out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    best: frozenset[int] = frozenset()
    note: str = ""
    prose: bool = False
    """Columns hold words, not numbers: they wrap, and stand to the left."""
    narrows: bool = False
    """A terminal too narrow leaves the last columns out and says so; names stay whole."""
    first: int = 0
    """Rows that a terminal shows before it refers to the JSON; 0 for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure with how to read it; the writers that cannot draw give its table."""

    title: str
    reading: str
    figure: Figure
    quiet: bool = False
    """Left out of the terminal."""
    repeated: bool = False
    """What matters of it stands in a table beside it: drawn, and left out where it cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text in its own lines: a command or a file to copy, or a formula, which has no title. A quiet
    one is left out of the terminal."""

    title: str
    text: str
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets:
    """Sentences."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One number to see first, with its interval or what it means."""

    name: str
    value: str
    note: str = ""


Tone = Literal["good", "unsure", "bad", "plain"]
Block = Grid | Plot | Code | Bullets | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What a terminal shows of a page where not all is asked for: the verdict, the subject, the
    `facts` and the blocks, the less important of which are left out where the screen is full, and
    in a line what the numbers rest on."""

    facts: tuple[Fact, ...]
    blocks: tuple[Block, ...]
    rests_on: str
    again: bool = False
    """Whether it stands again below all the rest, which is long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One answer: the verdict in a sentence, the numbers to see first, the parts."""

    title: str
    verdict: str
    tone: Tone = "plain"
    subject: str = ""
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    brief: Brief | None = None
