"""Series over two axes as Vega-Lite: lines with ribbons, points with whiskers, marked values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from magicplan.report.document.charts import Chart
from magicplan.report.document.figure_tables import interval
from magicplan.report.document.vega.parts import (
    COLOURS,
    Rows,
    Spec,
    axis_of,
    layer,
    nominal,
    quantity,
    tooltip,
)
from magicplan.units import show

SHAPES = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down", "triangle-right")

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


def draw_chart(figure: Chart) -> Spec:
    """Layers from the ground up: ribbons, lines, whiskers, points, marked values."""
    names = list(dict.fromkeys(series.name for series in figure.series))
    kept: dict[str, Rows] = {series.style: _rows(figure, series.style) for series in figure.series}
    legend: Spec | None = {} if len(names) > 1 else None

    def scaled(look: Callable[[Chart, str, int], str]) -> Spec:
        looks = [look(figure, name, index) for index, name in enumerate(names)]
        return nominal("series", scale={"domain": names, "range": looks}, legend=legend)

    encoding: Spec = {
        "x": axis_of("x", figure.x, [x for s in figure.series for x in s.x]),
        "y": axis_of("y", figure.y, [y for s in figure.series for y in s.y]),
        "color": scaled(_colour),
    }
    pointed = encoding | {"shape": scaled(_shape), "tooltip": tooltip(*_told(figure, kept))}
    layers = [
        *_intervals(kept, ("line",), {"type": "area", "opacity": 0.18}, encoding),
        *_lines(kept, encoding),
        *_intervals(kept, ("points", "front", "best"), {"type": "rule", "strokeWidth": 1.5},
                    encoding),
        *(layer({"type": "point", **mark}, kept[style], pointed)
          for style, mark in _POINTS.items() if kept.get(style)),
        *(_mark("y", *mark) for mark in figure.floors),
        *(_mark("x", *mark) for mark in figure.walls),
    ]  # fmt: skip
    if not any(kept.values()):
        layers.insert(0, layer({"type": "point"}, [], {"x": encoding["x"], "y": encoding["y"]}))
    layers[0]["params"] = [_ZOOM]
    return {"height": 360, "layer": layers}


def _told(figure: Chart, kept: dict[str, Rows]) -> list[tuple[str, str]]:
    """Fields that a point's hover box shows, with their titles."""
    named = any(row["label"] for rows in kept.values() for row in rows)
    ranged = any(series.low for series in figure.series)
    return [
        ("series", "series"),
        *([("label", "point")] if named else []),
        ("x_text", figure.x.title),
        ("y_text", figure.y.title),
        *([("ends", "80 %")] if ranged else []),
    ]


def _intervals(
    kept: dict[str, Rows], styles: tuple[str, ...], mark: Spec, encoding: Spec
) -> Iterator[Spec]:
    """Ribbons or whiskers where a low end is known; one without a high end stops at the point, and
    a ribbon ends there."""
    rows = [
        row | {"high": row["y"] if row["high"] is None else row["high"]}
        for style in styles
        for row in kept.get(style, [])
        if row["low"] is not None and row["y"] is not None
        if row["high"] is not None or mark["type"] == "rule"
    ]
    ends = {"y": encoding["y"] | {"field": "low"}, "y2": {"field": "high"}}
    if rows:
        yield layer(mark, rows, encoding | ends)


def _lines(kept: dict[str, Rows], encoding: Spec) -> Iterator[Spec]:
    for style, dash in (("edge", [1, 0]), ("line", [1, 0]), ("front", [3, 3])):
        if kept.get(style):
            mark = {"type": "line", "strokeDash": dash, "strokeWidth": 2}
            yield layer(mark, kept[style], encoding)


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
        "encoding": {channel: quantity("at")},
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [2, 3], "color": "var(--ink-2)"}},
            {
                "mark": text | {"color": "var(--ink-2)", "fontSize": 12},
                "encoding": {"text": nominal("name"), other: at},
            },
        ],
    }
