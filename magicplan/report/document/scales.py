"""Axes and colour scales of figures as plotly.js wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from magicplan.report.document.charts import Numbers, Scale, show

SUFFIX = {"percent": " %", "ratio": "x", "seconds": "s", "bytes": "B"}


def axis(scale: Scale, values: Sequence[float | None]) -> dict[str, Any]:
    """Ticks of a logarithmic or token axis are chosen here: few decades would show none."""
    found: dict[str, Any] = {"title": {"text": scale.title, "standoff": 12}, "automargin": True}
    found |= {
        "gridcolor": "var(--grid)",
        "linecolor": "var(--grid)",
        "zerolinecolor": "var(--grid)",
    }
    found |= {"tickformat": "~s", "ticksuffix": SUFFIX.get(scale.unit, "")}
    found |= {"tickprefix": "$"} if scale.unit == "usd" else {}
    known = [value for value in values if value and value > 0]
    if scale.unit == "tokens" or scale.log:
        ticks = _powers(known) if scale.unit == "tokens" else _round_values(known)
        found |= {"tickvals": ticks, "ticktext": [show(tick, scale.unit) for tick in ticks]}
    return found | ({"type": "log"} if scale.log else {})


def _powers(values: Sequence[float]) -> list[float]:
    """Powers of two, or of four over a wide range, that span the values."""
    if not values:
        return []
    first, last = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return [2.0**k for k in range(first, last + 1, 1 if last - first <= 7 else 2)]


def _round_values(values: Sequence[float]) -> list[float]:
    """Powers of ten around the values, with more between them over few decades."""
    if not values:
        return []
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(values) / min(values)
    steps = (
        (1.0,) if span > 100 else (1.0, 2.0, 5.0) if span > 5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    )
    return [float(f"{step}e{power}") for power in range(first - 1, last + 1) for step in steps]


def colours(low: float, high: float, middle: float | None) -> list[list[Any]]:
    """From little to much; with a middle, losses and gains in two colours that meet there."""
    if middle is None:
        return [[0, "var(--neutral)"], [1, "var(--gain)"]]
    at = (middle - low) / (high - low)
    return [[0, "var(--loss)"], [at, "var(--neutral)"], [1, "var(--gain)"]]


def places(scale: Scale, ticks: Numbers) -> dict[str, Any]:
    count = len(ticks)
    return {
        "title": {"text": scale.title, "standoff": 12}, "automargin": True,
        "showgrid": False, "zeroline": False,
        "range": [-0.5, count - 0.5], "tickvals": list(range(count)),
        "ticktext": [show(tick, scale.unit) for tick in ticks],
    }  # fmt: skip


def position(value: float, ticks: Numbers) -> float | None:
    """Where a value lies between ticks, in steps of one, logarithmic; None half a step outside.

    Ticks that do not rise from above zero have no places between them.
    """
    known = [math.log(tick) for tick in ticks if tick and tick > 0]
    rising = len(known) == len(ticks) and all(a < b for a, b in pairwise(known))
    if len(known) < 2 or not rising or value <= 0:
        return None
    at = math.log(value)
    for index, (left, right) in enumerate(pairwise(known)):
        if at <= right or index == len(known) - 2:
            place = index + (at - left) / (right - left)
            return place if -0.5 <= place <= len(known) - 0.5 else None
    return None
