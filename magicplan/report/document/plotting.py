"""Figures as plotly.js traces and layouts: plain dictionaries, made without a drawing library.

Colours are names of the page's style sheet, looked up when drawn: one document serves light, dark
and paper. Every text is escaped here, for plotly reads a subset of HTML; a line break is "\\n".
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from magicplan.report.document.charts import (
    Bars,
    Chart,
    Figure,
    HeatMap,
    Numbers,
    Scale,
    Series,
    show,
)
from magicplan.report.document.figure_tables import interval
from magicplan.report.document.scales import SUFFIX, axis, colours, places, position

COLOURS = 8
"""Series colours in the style sheet, `--s1` and on; a ninth series starts over."""
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot")
Trace = dict[str, Any]


def draw(figure: Figure) -> dict[str, Any]:
    """`{"data": traces, "layout": layout}`, safe to show whatever the names in it are."""
    data, layout = _draw(figure)
    base = {"showlegend": sum(bool(t.get("showlegend", True)) for t in data) > 1}
    return _escaped({"data": data, "layout": base | layout})  # type: ignore[no-any-return]


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(entry) for entry in value]
    if isinstance(value, str):
        return html.escape(value, quote=False).replace("\n", "<br>")
    return value


@singledispatch
def _draw(figure: object) -> tuple[list[Trace], dict[str, Any]]:
    raise TypeError(f"no drawing for {type(figure).__name__}")


@_draw.register
def _(figure: Chart) -> tuple[list[Trace], dict[str, Any]]:
    data: list[Trace] = []
    for index, series in enumerate(figure.series):
        data += _series(series, index, figure)
    xs = [x for s in figure.series for x in s.x]
    ys = [y for s in figure.series for y in s.y]
    layout: dict[str, Any] = {"xaxis": axis(figure.x, xs), "yaxis": axis(figure.y, ys)}
    marks = [*(_floor(figure.y, *mark) for mark in figure.floors)]
    marks += [*(_wall(figure.x, *mark) for mark in figure.walls)]
    layout["shapes"] = [shape for shape, _ in marks]
    layout["annotations"] = [note for _, note in marks]
    return data, layout


def _series(series: Series, index: int, figure: Chart) -> Iterator[Trace]:
    colour = f"var(--s{index % COLOURS + 1})"
    lined = series.style in ("line", "edge", "front")
    trace: Trace = {
        "type": "scatter",
        "name": series.name,
        "x": series.x,
        "y": series.y,
        "hovertext": [_hover(series, at, figure) for at in range(len(series.x))],
        "hoverinfo": "text",
    }
    if lined:
        front = series.style == "front"
        if series.low and not front:
            yield from _band(series, index % COLOURS + 1)
            trace |= {"legendgroup": series.name}
        colour = "var(--ink-2)" if front else colour
        trace |= {"mode": "lines+markers" if series.style == "line" else "lines"}
        trace |= {"line": {"color": colour, "dash": "dot" if front else "solid"}}
        trace |= {"marker": {"size": 6}}
        trace |= {"error_y": _error_bars(series, colour)} if series.low and front else {}
    else:
        trace |= {"mode": "markers", "marker": _marker(series, index, colour)}
        trace |= {"error_y": _error_bars(series, trace["marker"]["color"])} if series.low else {}
    yield trace


def _marker(series: Series, index: int, colour: str) -> dict[str, Any]:
    symbol, size = SYMBOLS[index % len(SYMBOLS)], 10 if len(series.x) < 30 else 7
    if series.style == "best":
        symbol, size, colour = "star", 17, "var(--accent)"
    elif series.style == "faint":
        symbol, size, colour = "x-thin", 7, "var(--ink-2)"
    edge = {"color": "var(--ink-2)" if series.style == "faint" else "var(--surface)", "width": 1}
    return {"symbol": symbol, "size": size, "color": colour, "line": edge}


def _band(series: Series, colour: int) -> Iterator[Trace]:
    """The interval as a filled ribbon, where both ends are known: its lower edge unseen, its upper
    filled down to it."""
    points = zip(series.x, series.low, series.high, strict=True)
    known = [p for p in points if None not in p]
    xs, low, high = zip(*known, strict=True) if known else ((), (), ())
    shared = {
        "type": "scatter", "x": xs, "mode": "lines", "line": {"width": 0},
        "hoverinfo": "skip", "showlegend": False, "legendgroup": series.name,
    }  # fmt: skip
    yield shared | {"y": low}
    yield shared | {"y": high, "fill": "tonexty", "fillcolor": f"var(--s{colour}-fill)"}


def _error_bars(series: Series, colour: str) -> dict[str, Any]:
    def off(ends: Numbers, sign: int) -> list[float]:
        pairs = zip(ends, series.y, strict=True)
        return [0.0 if e is None or y is None else max(0.0, sign * (e - y)) for e, y in pairs]

    return {
        "type": "data", "symmetric": False, "array": off(series.high, 1),
        "arrayminus": off(series.low, -1), "color": colour, "thickness": 1.5, "width": 4,
    }  # fmt: skip


def _hover(series: Series, at: int, figure: Chart) -> str:
    lines = [series.name]
    lines += [series.labels[at]] if series.labels and series.labels[at] != series.name else []
    lines.append(f"{figure.x.title}: {show(series.x[at], figure.x.unit)}")
    lines.append(f"{figure.y.title}: {show(series.y[at], figure.y.unit)}")
    ends = interval(series.low, series.high, at, figure.y.unit)
    return "\n".join([*lines, *([f"80 %: {ends}"] if ends else [])])


_DOTTED = {"color": "var(--ink-2)", "dash": "dot", "width": 1.5}
_NOTE = {"showarrow": False, "font": {"color": "var(--ink-2)", "size": 12}}


def _floor(scale: Scale, value: float, name: str) -> tuple[Trace, Trace]:
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
    at = math.log10(value) if scale.log else value
    note = {"xref": "paper", "x": 0, "xanchor": "left", "y": at, "yanchor": "bottom", "text": name}
    return shape | {"line": _DOTTED}, note | _NOTE


def _wall(scale: Scale, value: float, name: str) -> tuple[Trace, Trace]:
    shape = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": value, "x1": value}
    at = math.log10(value) if scale.log else value
    note = {"yref": "paper", "y": 1, "yanchor": "top", "x": at, "xanchor": "left", "text": name}
    return shape | {"line": _DOTTED}, note | _NOTE


@_draw.register
def _(figure: Bars) -> tuple[list[Trace], dict[str, Any]]:
    """Lying bars, the first on top: long names wrap beside them, on a narrow screen too."""
    rows = list(range(len(figure.labels)))
    data: list[Trace] = []
    for index, (name, values) in enumerate(figure.parts):
        colour = "var(--grid)" if name == figure.faint else f"var(--s{index % COLOURS + 1})"
        data.append({
            "type": "bar", "orientation": "h", "name": name, "y": rows, "x": values,
            "marker": {"color": colour}, "hoverinfo": "text", "textposition": "none",
            "hovertext": [
                f"{label}\n{name}: {show(value, figure.value.unit)}"
                for label, value in zip(figure.labels, values, strict=True)
            ],
        })  # fmt: skip
    data += [_whiskers(figure, rows)] if figure.low else []
    data += [_limits(figure, rows)] if figure.limits else []
    names = {
        "autorange": "reversed", "automargin": True, "tickvals": rows, "zeroline": False,
        "ticktext": [_wrapped(label) for label in figure.labels], "showgrid": False,
        "ticks": "outside", "ticklen": 6, "tickcolor": "var(--surface)",
    }  # fmt: skip
    return data, {
        "barmode": "stack" if figure.stacked else "group",
        "bargap": 0.35,
        "xaxis": axis(figure.value, figure.totals),
        "yaxis": names,
    }


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 26, max_lines=2, placeholder="…")


def _whiskers(figure: Bars, rows: list[int]) -> Trace:
    """The interval of the whole bar, at its end."""
    unit = figure.value.unit
    ends = [interval(figure.low, figure.high, row, unit) for row in rows]
    total = Series(name="", x=(), y=figure.totals, low=figure.low, high=figure.high)
    return {
        "type": "scatter", "mode": "markers", "name": "80 % interval", "y": rows,
        "x": figure.totals, "marker": {"color": "var(--ink)", "size": 5},
        "error_x": _error_bars(total, "var(--ink)"), "hoverinfo": "text",
        "hovertext": [f"{n}\n80 %: {e}" for n, e in zip(figure.labels, ends, strict=True)],
    }  # fmt: skip


def _limits(figure: Bars, rows: list[int]) -> Trace:
    """What may not be passed, a tick across every bar."""
    return {
        "type": "scatter", "mode": "markers", "name": figure.limit_name, "y": rows,
        "x": figure.limits, "hoverinfo": "text",
        "marker": {
            "symbol": "line-ns", "size": 16, "color": "var(--bad)",
            "line": {"width": 3, "color": "var(--bad)"},
        },
        "hovertext": [f"{figure.limit_name}: {show(v, figure.value.unit)}" for v in figure.limits],
    }  # fmt: skip


@_draw.register
def _(figure: HeatMap) -> tuple[list[Trace], dict[str, Any]]:
    """Cells on whole positions, so that any spacing of batches and contexts stays readable."""
    known = [v for row in figure.values for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if figure.middle is not None:  # rounding below the middle is no loss
        low, high = min(low, 0.95 * figure.middle), max(high, 1.05 * figure.middle)
    data: list[Trace] = [
        {
            "type": "heatmap", "z": figure.values, "text": _texts(figure),
            "texttemplate": "%{text}", "hovertext": _cell_texts(figure), "hoverinfo": "text",
            "zmin": low, "zmax": max(high, low + 1e-9), "xgap": 2, "ygap": 2,
            "colorscale": colours(low, high, figure.middle), "showlegend": False,
            "colorbar": {
                "title": {"text": figure.value.title, "side": "right"}, "thickness": 12,
                "ticksuffix": SUFFIX.get(figure.value.unit, ""), "tickformat": "~s",
                "outlinewidth": 0,
            },
        }
    ]  # fmt: skip
    for index, (name, contexts, batches) in enumerate(figure.lines):
        xs = [None if c is None else position(c, figure.columns) for c in contexts]
        ys = [None if b is None else position(b, figure.rows) for b in batches]
        data.append({
            "type": "scatter", "mode": "lines" if sum(y is not None for y in ys) > 1 else "markers",
            "name": name, "x": xs, "y": ys, "marker": {"color": "var(--ink)", "size": 8},
            "line": {"color": "var(--ink)", "width": 2, "dash": DASHES[index % len(DASHES)]},
            "hovertext": name, "hoverinfo": "text", "showlegend": True,
        })  # fmt: skip
    return data, {
        "annotations": _misfits(figure),
        "showlegend": bool(figure.lines),
        "xaxis": places(figure.x, figure.columns),
        "yaxis": places(figure.y, figure.rows),
    }


def _texts(figure: HeatMap) -> list[list[str]]:
    """Texts of cells with a value."""
    rows = zip(figure.values, figure.texts, strict=True)
    return [["" if v is None else t for v, t in zip(*row, strict=True)] for row in rows]


def _misfits(figure: HeatMap) -> list[Trace]:
    """Texts of cells without a value, which plotly would write in a colour of its own."""
    return [
        {"x": x, "y": y, "text": figure.texts[y][x]} | _NOTE
        for y, row in enumerate(figure.values)
        for x, value in enumerate(row)
        if value is None
    ]


def _cell_texts(figure: HeatMap) -> list[list[str]]:
    return [
        [
            f"{figure.y.title} {show(batch, figure.y.unit)}, {figure.x.title} "
            f"{show(ctx, figure.x.unit)}\n{text}"
            for ctx, text in zip(figure.columns, texts, strict=True)
        ]
        for batch, texts in zip(figure.rows, figure.cells, strict=True)
    ]
