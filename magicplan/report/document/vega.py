"""Figures as Vega-Lite specifications: plain dictionaries that a browser or vl-convert draws.

Colours are names of the page's style sheet, which an SVG looks up by itself: one drawing serves
light, dark and paper. Names from files are data or JSON strings, never expressions.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

from magicplan.report.document.charts import (
    Bars,
    Chart,
    Figure,
    HeatMap,
    Numbers,
    Scale,
    TreePanel,
    Trees,
    show,
)
from magicplan.report.document.figure_tables import interval

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""The name of the language, which nothing fetches."""
COLOURS = 8
"""Series colours in the style sheet, `--s1` and on; a ninth series starts over."""
SHAPES = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down", "triangle-right")
DASHES = ([1, 0], [6, 4], [2, 3])
WIDTH = 760
"""Pixels across where nothing else is asked for."""
STRONGEST = 0.65
"""Opacity of a heat map's strongest cell, on which text stays readable."""
LABELS = {
    "seconds": "format(datum.value, '~s') + 's'",
    "bytes": "format(datum.value, '~s') + 'B'",
    "flops": "format(datum.value, '~s') + 'FLOP/s'",
    "ratio": "format(datum.value, '~g') + 'x'",
    "percent": "format(datum.value, '~g') + ' %'",
    "share": "format(datum.value, '~%')",
    "usd": "'$' + format(datum.value, ',~g')",
    "count": "abs(datum.value) < 1 ? format(datum.value, '~g') : format(datum.value, '~s')",
    "tokens": "datum.value >= 1048576 ? datum.value / 1048576 + 'm' : "
    "datum.value >= 1024 ? datum.value / 1024 + 'k' : datum.value + ''",
}
"""What an axis writes beside a tick, by its unit."""
_AXIS = {
    "gridColor": "var(--grid)", "domainColor": "var(--grid)", "tickColor": "var(--grid)",
    "labelColor": "var(--ink-2)", "titleColor": "var(--ink)", "labelFontSize": 12,
    "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 10, "labelLimit": 220,
    "labelOverlap": True,
}  # fmt: skip
CONFIG = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {
        "orient": "top", "title": None, "labelColor": "var(--ink)", "labelFontSize": 12,
        "labelLimit": 300, "symbolSize": 80, "columns": 4, "offset": 8, "symbolOpacity": 1,
    },
    "title": {"color": "var(--ink)", "anchor": "start", "fontSize": 14, "offset": 12},
}  # fmt: skip
Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def draw(figure: Figure) -> Spec:
    """A specification, safe to draw whatever the names in it are; `usermeta.least_width` is the
    narrowest, in pixels, at which its cells can be read."""
    found = _draw(figure)
    shared = {
        "$schema": SCHEMA,
        "width": WIDTH,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    return shared | {"usermeta": {"least_width": 260}, "config": CONFIG} | found


@singledispatch
def _draw(figure: object) -> Spec:
    raise TypeError(f"no drawing for {type(figure).__name__}")


def _layer(mark: Spec, rows: Rows, encoding: Spec) -> Spec:
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}


def _q(field: str, **more: Any) -> Spec:
    """A quantity to be placed; one without scale is taken as it stands."""
    return {"field": field, "type": "quantitative", **more}


def _n(field: str, **more: Any) -> Spec:
    return {"field": field, "type": "nominal", **more}


_BARE: Spec = {"scale": None, "legend": None}


def _tooltip(*fields: tuple[str, str]) -> list[Spec]:
    return [_n(field, title=title) for field, title in fields]


_ZOOM: Spec = {
    "name": "zoom",
    "select": {
        "type": "interval",
        "translate": "[mousedown, window:mouseup] > window:mousemove!",
        "zoom": "wheel![event.shiftKey]",
    },
    "bind": "scales",
}
"""Drag moves and Shift with the wheel zooms; fingers and the bare wheel scroll the page."""


@_draw.register
def _(figure: Chart) -> Spec:
    names = list(dict.fromkeys(series.name for series in figure.series))
    kept = {series.style: _rows(figure, series.style) for series in figure.series}
    colours = [_colour(figure, name, index) for index, name in enumerate(names)]
    shapes = [_shape(figure, name, index) for index, name in enumerate(names)]
    legend = {} if len(names) > 1 else None
    encoding: Spec = {
        "x": _axis("x", figure.x, [x for s in figure.series for x in s.x]),
        "y": _axis("y", figure.y, [y for s in figure.series for y in s.y]),
        "color": _n("series", scale={"domain": names, "range": colours}, legend=legend),
    }
    pointed = encoding | {
        "shape": _n("series", scale={"domain": names, "range": shapes}, legend=legend)
    }
    said = [("series", "series"), ("x_text", figure.x.title), ("y_text", figure.y.title)]
    if any(row["label"] for rows in kept.values() for row in rows):
        said.insert(1, ("label", "point"))
    if any(series.low for series in figure.series):
        said.append(("ends", "80 %"))
    tooltip = {"tooltip": _tooltip(*said)}
    layers: list[Spec] = []
    bands = [row for row in kept.get("line", []) if None not in (row["low"], row["high"])]
    if bands:
        band = {"y": encoding["y"] | {"field": "low"}, "y2": {"field": "high"}}
        layers.append(_layer({"type": "area", "opacity": 0.18}, bands, encoding | band))
    for style, dash in (("edge", [1, 0]), ("line", [1, 0]), ("front", [3, 3])):
        if kept.get(style):
            mark = {"type": "line", "strokeDash": dash, "strokeWidth": 2}
            layers.append(_layer(mark, kept[style], encoding))
    whiskers = [
        row
        for style in ("points", "front", "best")
        for row in kept.get(style, [])
        if row["low"] is not None and row["y"] is not None
    ]
    if whiskers:
        ends = [row | {"high": row["high"] or row["y"]} for row in whiskers]
        bar = {"y": encoding["y"] | {"field": "low"}, "y2": {"field": "high"}}
        layers.append(_layer({"type": "rule", "strokeWidth": 1.5}, ends, encoding | bar))
    for style, mark in _POINTS.items():
        if kept.get(style):
            layers.append(_layer({"type": "point", **mark}, kept[style], pointed | tooltip))
    layers += [_mark("y", *mark) for mark in figure.floors]
    layers += [_mark("x", *mark) for mark in figure.walls]
    if not any(kept.values()):
        layers.insert(0, _layer({"type": "point"}, [], {"x": encoding["x"], "y": encoding["y"]}))
    layers[0]["params"] = [_ZOOM]
    return {"height": 360, "layer": layers}


_POINTS: dict[str, Spec] = {
    "faint": {"size": 30, "opacity": 0.7, "strokeWidth": 1.2},
    "edge": {"size": 60, "opacity": 0},
    "line": {"size": 45, "filled": True, "opacity": 1},
    "points": {"size": 60, "filled": True, "opacity": 0.85},
    "front": {"size": 20, "filled": True, "opacity": 1},
    "best": {"size": 260, "filled": True, "opacity": 1},
}
"""How single points of each style look; those of an edge are seen by the mouse alone."""


def _rows(figure: Chart, style: str) -> Rows:
    """The points of all series of a style; what a logarithmic axis cannot show is left out."""
    return [
        {
            "series": series.name, "x": x, "y": y,
            "low": series.low[at] if series.low else None,
            "high": series.high[at] if series.high else None,
            "label": series.labels[at] if series.labels else "",
            "x_text": show(x, figure.x.unit), "y_text": show(y, figure.y.unit),
            "ends": interval(series.low, series.high, at, figure.y.unit),
        }
        for series in figure.series
        if series.style == style
        for at, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if not (figure.x.log and (x or 0) <= 0) and not (figure.y.log and (y or 1) <= 0)
    ]  # fmt: skip


def _colour(figure: Chart, name: str, index: int) -> str:
    styles = {series.style for series in figure.series if series.name == name}
    if styles & {"front", "faint"}:
        return "var(--ink-2)"
    return "var(--accent)" if "best" in styles else f"var(--s{index % COLOURS + 1})"


STAR = (
    "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31"
    "L-0.29,-0.4Z"
)


def _shape(figure: Chart, name: str, index: int) -> str:
    styles = {series.style for series in figure.series if series.name == name}
    if styles & {"front", "edge", "line"}:
        return "stroke" if styles & {"front", "edge"} else "circle"
    if "faint" in styles:
        return "M-0.7,-0.7L0.7,0.7M-0.7,0.7L0.7,-0.7"
    return STAR if "best" in styles else SHAPES[index % len(SHAPES)]


def _mark(channel: str, value: float, name: str) -> Spec:
    """A value of an axis across the whole figure, with its name at the start."""
    at = {"value": 4} if channel == "y" else {"value": 12}
    other = "x" if channel == "y" else "y"
    text = {"type": "text", "align": "left", "dx": 4, "dy": -6 if channel == "y" else 0}
    return {
        "data": {"values": [{"at": value, "name": name}]},
        "encoding": {channel: _q("at")},
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [2, 3], "color": "var(--ink-2)"}},
            {
                "mark": text | {"color": "var(--ink-2)", "fontSize": 12},
                "encoding": {"text": _n("name"), other: at},
            },
        ],
    }


def _axis(channel: str, scale: Scale, values: Sequence[float | None]) -> Spec:
    """Ticks of a logarithmic or token axis are chosen here: few decades would show none."""
    known = [value for value in values if value and value > 0]
    axis: Spec = {"labelExpr": LABELS[scale.unit]}
    if scale.unit == "tokens" or scale.log:
        axis["values"] = _powers(known) if scale.unit == "tokens" else _round_values(known)
    elif scale.unit == "count":
        axis["tickMinStep"] = 1
    kind: Spec = {"type": "log"} if scale.log else {"zero": False}
    return _q(channel, title=scale.title, axis=axis, scale=kind | {"padding": 12, "nice": False})


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


def _named(labels: Sequence[str]) -> str:
    """An expression that puts a label in the place of its number; several lines where it has."""
    lines = [label.split("\n") for label in labels]
    return f"{json.dumps(lines)}[datum.value]"


@_draw.register
def _(figure: Bars) -> Spec:
    """Lying bars, the first on top: long names wrap beside them, on a narrow screen too."""
    names = [name for name, _ in figure.parts]
    colours = [
        "var(--grid)" if name == figure.faint else f"var(--s{index % COLOURS + 1})"
        for index, name in enumerate(names)
    ]
    extra = ([figure.limit_name] if figure.limits else []) + (
        ["80 % interval"] if figure.low else []
    )
    scale = {
        "domain": names + extra,
        "range": colours + ["var(--bad)"] * bool(figure.limits) + ["var(--ink)"] * bool(figure.low),
    }
    legend = {} if len(names + extra) > 1 else None
    rows = [
        {"row": row, "part": name, "order": order, "value": value,
         "label": figure.labels[row], "text": show(value, figure.value.unit)}
        for order, (name, values) in enumerate(figure.parts)
        for row, value in enumerate(values)
    ]  # fmt: skip
    places = list(range(len(figure.labels)))
    labels = [textwrap.fill(label, 28, max_lines=2, placeholder="…") for label in figure.labels]
    y: Spec = {
        "field": "row", "type": "ordinal", "title": None,
        "scale": {"domain": places, "paddingInner": 0.35, "paddingOuter": 0.2},
        "axis": {"labelExpr": _named(labels), "domain": False, "ticks": False, "values": places},
    }  # fmt: skip
    x = _axis("x", figure.value, figure.totals) | {"field": "value"}
    x["scale"] = {"nice": True}
    colour = _n("part", scale=scale, legend=legend)
    encoding: Spec = {"y": y, "x": x | {"stack": "zero" if figure.stacked else None}}
    encoding |= {"color": colour, "order": _q("order")}
    if not figure.stacked:
        encoding["yOffset"] = {"field": "order", "type": "ordinal"}
    encoding["tooltip"] = _tooltip(("label", "bar"), ("part", "part"), ("text", figure.value.title))
    layers = [_layer({"type": "bar"}, rows, encoding)]
    if figure.low:
        layers += _whiskers(figure, y, x, colour)
    if figure.limits:
        ticks = [
            {"row": row, "value": value, "part": figure.limit_name,
             "text": show(value, figure.value.unit)}
            for row, value in enumerate(figure.limits)
        ]  # fmt: skip
        mark = {"type": "tick", "orient": "vertical", "thickness": 3}
        told = _tooltip(("part", "limit"), ("text", figure.value.title))
        layers.append(_layer(mark, ticks, {"y": y, "x": x, "color": colour, "tooltip": told}))
    thick = 44 if figure.stacked else 22 * max(1, len(names)) + 14
    return {"height": max(60, thick * len(places)), "layer": layers}


def _whiskers(figure: Bars, y: Spec, x: Spec, colour: Spec) -> list[Spec]:
    """The interval of the whole bar, at its end."""
    unit = figure.value.unit
    rows = [
        {"row": row, "value": low, "high": total if high is None else high,
         "part": "80 % interval", "text": interval(figure.low, figure.high, row, unit)}
        for row, (low, high, total) in enumerate(
            zip(figure.low, figure.high, figure.totals, strict=True)
        )
        if low is not None
    ]  # fmt: skip
    ends = {"y": y, "x": x, "x2": {"field": "high"}, "color": colour}
    ends["tooltip"] = _tooltip(("part", "part"), ("text", figure.value.title))
    caps = {"y": y, "color": colour}
    cap = {"type": "tick", "orient": "vertical", "thickness": 2, "size": 9}
    return [
        _layer({"type": "rule", "strokeWidth": 2}, rows, ends),
        _layer(cap, rows, caps | {"x": x}),
        _layer(cap, rows, caps | {"x": x | {"field": "high"}}),
    ]


@_draw.register
def _(figure: HeatMap) -> Spec:
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
    classes: Spec = (
        {"scale": {"domain": named, "range": colours}, "legend": {"symbolOpacity": 0.5}}
        if named else _BARE
    )  # fmt: skip
    look = {"color": _n("colour", **classes), "opacity": _q("strength", **_BARE)}
    told = _tooltip(("where", "at"), ("text", figure.value.title), ("more", "also"))
    cell = {"type": "rect", "stroke": "var(--surface)", "strokeWidth": 2}
    text = {"type": "text", "fontSize": 11, "lineBreak": "\n", "color": "var(--ink)"}
    layers = [
        _layer(cell, rows, edges | look | {"tooltip": told}),
        *_lines(figure, x, y),
    ]
    tall = max((t.count("\n") + 1 for line in figure.texts for t in line), default=1)
    for count in range(1, tall + 1):
        some = [row for row in rows if row["shown"].count("\n") + 1 == count]
        middle = {"baseline": "middle", "lineHeight": 13, "dy": -6.5 * (count - 1)}
        layers += (
            [_layer(text | middle, some, {"x": x, "y": y, "text": _n("shown")})] if some else []
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
    """Where something changes, over the cells; a single place is a point."""
    names = [name for name, _, _ in figure.lines]
    rows = [
        {"name": name, "x": position(context, figure.columns), "y": position(batch, figure.rows)}
        for name, contexts, batches in figure.lines
        for context, batch in zip(contexts, batches, strict=True)
        if context is not None and batch is not None
    ]
    rows = [row for row in rows if None not in row.values()]
    if not rows:
        return
    dashes = [DASHES[index % len(DASHES)] for index in range(len(names))]
    look = {"x": x, "y": y, "tooltip": _tooltip(("name", "line"))}
    dashed = _n(
        "name",
        scale={"domain": names, "range": dashes},
        legend={
            "symbolType": "M-1,0L1,0",
            "symbolStrokeColor": "var(--ink)",
            "symbolStrokeWidth": 2,
            "symbolSize": 400,
            "symbolFillColor": "transparent",
        },
    )
    line = {
        "type": "line",
        "color": "var(--ink)",
        "strokeWidth": 2,
        "point": {"size": 25, "color": "var(--ink)"},
    }
    yield _layer(line, rows, look | {"strokeDash": dashed, "order": {"value": None}})


def _places(channel: str, scale: Scale, ticks: Numbers) -> Spec:
    count = len(ticks)
    axis = {
        "values": list(range(count)), "grid": False,
        "labelExpr": _named([show(tick, scale.unit) for tick in ticks]),
    }  # fmt: skip
    ends = {"domain": [-0.5, max(count, 1) - 0.5], "nice": False, "zero": False}
    return _q(channel, title=scale.title, scale=ends, axis=axis)


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


FAINTEST = 0.01
"""Probability of being accepted below which all nodes of a tree share a colour."""


@_draw.register
def _(figure: Trees) -> Spec:
    """Each tree in a square of its own: leaves side by side, parents above their middle."""
    across = max(1, figure.across)
    down = max(1, math.ceil(len(figure.panels) / across))
    nodes: Rows = []
    edges: Rows = []
    titles: Rows = []
    for index, panel in enumerate(figure.panels):
        column, row = index % across, index // across
        titles.append({"x": column + 0.5, "y": row + 0.04, "title": f"{panel.title}\n{panel.says}"})
        at = [(column + 0.06 + 0.88 * x, row + 0.3 + 0.62 * y) for x, y in _tree_places(panel)]
        for node, parent in enumerate(panel.parents):
            weight = panel.weights[node] if node < len(panel.weights) else None
            nodes.append({
                "x": at[node][0], "y": at[node][1], "weight": max(weight or 0.0, FAINTEST),
                "strength": 0.12 + 0.88 * _share(weight), "text": show(weight, "share"),
                "tree": panel.title, "size": max(24, 110 - 2 * len(panel.parents)),
            })  # fmt: skip
            if parent >= 0:
                (x, y), (x2, y2) = at[parent], at[node]
                edges.append({"x": x, "y": y, "x2": x2, "y2": y2})
    x = _q("x", axis=None, scale={"domain": [0, across], "nice": False, "zero": False})
    y = _q("y", axis=None, scale={"domain": [down, 0], "nice": False, "zero": False})
    told = _tooltip(("tree", "tree"), ("text", "accepted"))
    look = {"opacity": _q("strength", **_BARE), "size": _q("size", **_BARE), "tooltip": told}
    title = {
        "type": "text",
        "baseline": "top",
        "fontSize": 11,
        "lineBreak": "\n",
        "color": "var(--ink)",
    }
    rule = {"type": "rule", "color": "var(--ink-2)", "opacity": 0.6}
    point = {
        "type": "point",
        "filled": True,
        "color": "var(--s1)",
        "stroke": "var(--ink-2)",
        "strokeWidth": 0.5,
    }
    layers = [
        _layer(rule, edges, {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}}),
        _layer(point, nodes, {"x": x, "y": y, **look}),
        _layer(title, titles, {"x": x, "y": y, "text": _n("title")}),
    ]
    return {"height": 210 * down, "layer": layers, "usermeta": {"least_width": 170 * across}}


def _share(weight: float | None) -> float:
    """Where a probability lies between the faintest and 1, in its logarithm."""
    return 1 - math.log(min(max(weight or 0.0, FAINTEST), 1.0)) / math.log(FAINTEST)


def _tree_places(panel: TreePanel) -> list[tuple[float, float]]:
    """Of every node the place across and down, from 0 to 1."""
    count = len(panel.parents)
    children: list[list[int]] = [[] for _ in range(count)]
    levels = [0] * count
    for node, parent in enumerate(panel.parents):
        if parent >= 0:
            children[parent].append(node)
            levels[node] = levels[parent] + 1
    across = [0.0] * count
    leaves = 0
    order, stack = [], [0] if count else []
    while stack:
        node = stack.pop()
        order.append(node)
        stack += reversed(children[node])
    for node in order:
        if not children[node]:
            across[node], leaves = float(leaves), leaves + 1
    for node in sorted(order, key=lambda node: -levels[node]):
        if children[node]:
            across[node] = sum(across[child] for child in children[node]) / len(children[node])
    wide, deep = max(leaves - 1, 1), max([*levels, 1])
    middle = 0.5 if leaves <= 1 else 0.0
    return [(x / wide + middle, level / deep) for x, level in zip(across, levels, strict=True)]
