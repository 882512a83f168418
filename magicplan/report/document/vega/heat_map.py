"""Heat maps over batch and context as Vega-Lite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from magicplan.report.document.charts import HeatMap, Numbers, Scale
from magicplan.report.document.vega.parts import (
    BARE,
    COLOURS,
    Spec,
    layer,
    named,
    nominal,
    quantity,
    tooltip,
)
from magicplan.units import show

DASHES = ([1, 0], [6, 4], [2, 3])
STRONGEST = 0.65
"""Opacity of a heat map's strongest cell, on which text stays readable."""


def draw_heat_map(figure: HeatMap) -> Spec:
    """Cells on whole positions, so that any spacing of batches and contexts stays readable."""
    rows = list(_cells(figure))
    x = _places("x", figure.x, figure.columns)
    y = _places("y", figure.y, figure.rows)
    edges = {
        "x": x | {"field": "left"}, "x2": {"field": "right"},
        "y": y | {"field": "bottom"}, "y2": {"field": "top"},
    }  # fmt: skip
    named = list(dict.fromkeys(name for row in figure.classes for name in row if name))
    colours = [f"var(--s{index % COLOURS + 1})" for index in range(len(named))]
    legend = {"symbolOpacity": 0.5, "orient": "bottom"}
    coloured = {"scale": {"domain": named, "range": colours}, "legend": legend}
    classes: Spec = coloured if named else BARE
    look = {"color": nominal("colour", **classes), "opacity": quantity("strength", **BARE)}
    told = tooltip(("where", "at"), ("text", figure.value.title), ("more", "also"))
    cell = {"type": "rect", "stroke": "var(--surface)", "strokeWidth": 2}
    text = {"type": "text", "fontSize": 11, "lineBreak": "\n", "color": "var(--ink)"}
    layers = [
        layer(cell, rows, edges | look | {"tooltip": told}),
        *_lines(figure, x, y),
    ]
    tall = max((t.count("\n") + 1 for line in figure.texts for t in line), default=1)
    for count in range(1, tall + 1):
        some = [row for row in rows if row["shown"].count("\n") + 1 == count]
        middle = {"baseline": "middle", "lineHeight": 13, "dy": -6.5 * (count - 1)}
        layers += (
            [layer(text | middle, some, {"x": x, "y": y, "text": nominal("shown")})] if some else []
        )
    wide = max((len(p) for line in figure.texts for t in line for p in t.split("\n")), default=4)
    least = 90 + len(figure.columns) * max(40, 6 * wide + 8)
    height = max(34, 14 * tall + 10) * max(1, len(figure.rows))
    found: Spec = {"height": height, "layer": layers, "usermeta": {"least_width": least}}
    return found | {"resolve": {"legend": {"color": "independent"}}}


def _cells(figure: HeatMap) -> Iterator[dict[str, Any]]:
    """A row a cell: its edges, its colour and how strong that is, its texts."""
    known = [v for row in figure.values for v in row if v is not None]
    middle = figure.middle
    low, high = min(known, default=0.0), max(known, default=1.0)
    for r, values in enumerate(figure.values):
        for c, value in enumerate(values):
            if figure.classes:
                colour, strength = figure.classes[r][c] or "none", 0.5
            elif middle is None:
                span = (high - low) or 1.0
                colour = "var(--gain)"
                strength = (
                    0.0 if value is None else 0.08 + (STRONGEST - 0.08) * (value - low) / span
                )
            else:
                far = max(abs(high - middle), abs(low - middle), 0.05 * abs(middle)) or 1.0
                away = 0.0 if value is None else (value - middle) / far
                colour = "var(--gain)" if away >= 0 else "var(--loss)"
                strength = STRONGEST * abs(away)
            yield {
                "x": c, "y": r, "left": c - 0.5, "right": c + 0.5, "bottom": r - 0.5,
                "top": r + 0.5, "colour": colour, "strength": 0.0 if value is None else strength,
                "shown": figure.texts[r][c],
                "text": figure.texts[r][c].replace("\n", ", "),
                "more": figure.details[r][c].replace("\n", ", ") if figure.details else "",
                "where": f"{figure.y.title} {show(figure.rows[r], figure.y.unit)}, "
                f"{figure.x.title} {show(figure.columns[c], figure.x.unit)}",
            }  # fmt: skip


def _lines(figure: HeatMap, x: Spec, y: Spec) -> Iterator[Spec]:
    """Lines over the cells at which something changes; one that has a single place is a point."""
    names = [name for name, _, _ in figure.lines]
    rows = [
        {"name": name, "x": position(context, figure.columns), "y": position(batch, figure.rows)}
        for name, contexts, batches in figure.lines
        for context, batch in zip(contexts, batches, strict=True)
        if context is not None and batch is not None
    ]
    rows = [row | {"order": at} for at, row in enumerate(rows) if None not in row.values()]
    if not rows:
        return
    dashes = [DASHES[index % len(DASHES)] for index in range(len(names))]
    look = {"x": x, "y": y, "tooltip": tooltip(("name", "line"))}
    dashed = nominal(
        "name",
        scale={"domain": names, "range": dashes},
        legend={"symbolStrokeColor": "var(--ink)", "symbolSize": 300},
    )
    line = {"type": "line", "color": "var(--ink)", "strokeWidth": 2}
    yield layer(line, rows, look | {"strokeDash": dashed, "order": quantity("order")})
    yield layer({"type": "point", "filled": True, "size": 25, "color": "var(--ink)"}, rows, look)


def _places(channel: str, scale: Scale, ticks: Numbers) -> Spec:
    count = len(ticks)
    axis = {
        "values": list(range(count)), "grid": False,
        "labelExpr": named([show(tick, scale.unit) for tick in ticks]),
    }  # fmt: skip
    ends = {"domain": [-0.5, max(count, 1) - 0.5], "nice": False, "zero": False}
    return quantity(channel, title=scale.title, scale=ends, axis=axis)


def position(value: float, ticks: Numbers) -> float | None:
    """The place of a value between ticks, which stand one apart, by logarithms; None for a value
    more than half a step outside.

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
