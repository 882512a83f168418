"""What a figure says, as numbers only: `vega` draws it, `figure_tables` writes the same as text.

Values are in SI units or plain ratios; a `Scale` names the unit, so that an axis, a hover box and
a table cell agree. None stands for what is not known or does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from magicplan.units import Unit, show

Style = Literal["line", "edge", "front", "points", "faint", "best"]


Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis: what it shows, in which unit, linear or logarithmic."""

    title: str
    unit: Unit = "count"
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one name; `low` and `high` are an interval of y, `labels` name single points."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    labels: tuple[str, ...] = ()
    style: Style = "points"
    """Joined points; a bare line; a dashed one; single points; such that lost; the one chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series over two scales; `floor` and `wall` are marked values of y and x with their names."""

    x: Scale
    y: Scale
    series: tuple[Series, ...]
    floors: tuple[tuple[float, str], ...] = ()
    walls: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Stacked parts of every label, [part][label]; `totals` may carry an interval."""

    labels: tuple[str, ...]
    value: Scale
    parts: tuple[tuple[str, Numbers], ...]
    low: Numbers = ()
    high: Numbers = ()
    limits: Numbers = ()
    limit_name: str = ""
    stacked: bool = True
    faint: str = ""
    """The part that is no load: drawn as background."""

    @property
    def totals(self) -> Numbers:
        """Sum of the parts of every label."""
        columns = zip(*(values for _, values in self.parts), strict=True)
        return tuple(sum(v for v in column if v is not None) for column in columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Values over batch (rows) and context (columns), or a class a cell where `classes` are given.

    A line is a name, contexts and batches, in the units of the scales (None: no such point).
    """

    x: Scale
    y: Scale
    value: Scale
    columns: Numbers
    rows: Numbers
    values: tuple[Numbers, ...]
    """[row][column]; None where nothing fits."""
    texts: tuple[tuple[str, ...], ...]
    """What is written into each cell, on short lines."""
    details: tuple[tuple[str, ...], ...] = ()
    """What the table and a hover box add to every cell."""
    middle: float | None = None
    """The value at which losses end and gains begin."""
    lines: tuple[tuple[str, Numbers, Numbers], ...] = ()
    classes: tuple[tuple[str, ...], ...] = ()
    """The name of every cell's colour, [row][column]; "" where nothing fits."""
    says: str = ""
    """What the lines of a cell are, for the table."""

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """Texts with their details, a line each."""
        if not self.details:
            return self.texts
        return mapped(lambda *parts: "\n".join(filter(None, parts)), self.texts, self.details)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePanel:
    """A tree of drafted tokens: the parent of every node, -1 for the root, earlier than the node;
    the probability that each is accepted."""

    title: str
    parents: tuple[int, ...]
    weights: Numbers
    says: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Trees side by side, `across` in a row."""

    panels: tuple[TreePanel, ...]
    across: int


Figure = Chart | Bars | HeatMap | Trees


PARTS = {
    "linear": "linear layers", "attention": "attention", "collective": "collectives",
    "elementwise": "element-wise", "host": "host",
}  # fmt: skip
"""What a decode step spends its time on, by the name in its JSON."""


def mapped(
    write: Callable[..., str], *grids: tuple[tuple[Any, ...], ...]
) -> tuple[tuple[str, ...], ...]:
    """A text for every cell, from that cell of every grid."""
    return tuple(
        tuple(write(*cell) for cell in zip(*rows, strict=True)) for rows in zip(*grids, strict=True)
    )


def speedup_text(speedup: float | None, gamma: float | None) -> str:
    """What a cell of a speedup map says."""
    if speedup is None:
        return "no fit"
    return f"{show(speedup, 'ratio')}\nγ {gamma:.0f}" if gamma else "off"
