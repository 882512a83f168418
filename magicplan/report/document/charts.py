"""What a figure says, as numbers only; `plotting` draws it and `tables` writes the same as text.

Values are in SI units or plain ratios; a `Scale` names the unit, so that an axis, a hover box and
a table cell agree. None stands for what is not known or does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from magicplan.units import human_bytes, human_count, human_flops, human_seconds, human_tokens

Unit = Literal["seconds", "bytes", "tokens", "count", "ratio", "percent", "share", "usd", "flops"]


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
    """Values over batch (rows) and context (columns).

    A line is a name, contexts and batches, in the units of the scales (None: no such point).
    """

    x: Scale
    y: Scale
    value: Scale
    columns: Numbers
    rows: Numbers
    values: tuple[Numbers, ...]
    """[row][column]"""
    texts: tuple[tuple[str, ...], ...]
    """Short, to be written into the cells."""
    details: tuple[tuple[str, ...], ...] = ()
    """What the table and a hover box add to every cell."""
    middle: float | None = None
    lines: tuple[tuple[str, Numbers, Numbers], ...] = ()

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """Texts with their details, on one line each."""
        details = self.details or tuple(("",) * len(row) for row in self.texts)
        return tuple(
            tuple(
                ", ".join(p for p in (t.replace("\n", ", "), d) if p)
                for t, d in zip(*row, strict=True)
            )
            for row in zip(self.texts, details, strict=True)
        )


Figure = Chart | Bars | HeatMap


def show(value: float | str | None, unit: Unit = "count") -> str:
    """A value as text with its unit; a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value < 0 and unit not in ("percent", "share"):
        return "-" + show(-value, unit)
    return _WRITERS[unit](value)


def _usd(value: float) -> str:
    if 0 < value < 0.1:
        return f"${value:.3g}"
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}"


def _tokens(value: float) -> str:
    return human_tokens(int(value)) if value == int(value) else human_count(value)


_WRITERS = {
    "seconds": human_seconds,
    "bytes": human_bytes,
    "tokens": _tokens,
    "count": human_count,
    "ratio": lambda value: f"{value:.2f}x",
    "percent": lambda value: f"{value:.1f} %",
    "share": lambda value: f"{value:.0%}",
    "usd": _usd,
    "flops": human_flops,
}


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
