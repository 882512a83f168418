"""Lying bars as Vega-Lite."""

from __future__ import annotations

import textwrap

from magicplan.report.document.charts import Bars
from magicplan.report.document.figure_tables import interval
from magicplan.report.document.vega.parts import (
    COLOURS,
    Spec,
    axis_of,
    layer,
    named,
    nominal,
    quantity,
    tooltip,
)
from magicplan.units import show


def draw_bars(figure: Bars) -> Spec:
    """Bars, the first on top: long names wrap beside them, on a narrow screen too."""
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
    legend: Spec | None = {} if len(names + extra) > 1 else None
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
        "axis": {"labelExpr": named(labels), "domain": False, "ticks": False, "values": places},
    }  # fmt: skip
    x = axis_of("x", figure.value, figure.totals) | {"field": "value"}
    x["scale"] = {"nice": True}
    colour = nominal("part", scale=scale, legend=legend)
    encoding: Spec = {"y": y, "x": x | {"stack": "zero" if figure.stacked else None}}
    encoding |= {"color": colour, "order": quantity("order")}
    if not figure.stacked:
        encoding["yOffset"] = {"field": "order", "type": "ordinal"}
    encoding["tooltip"] = tooltip(("label", "bar"), ("part", "part"), ("text", figure.value.title))
    layers = [layer({"type": "bar"}, rows, encoding)]
    if figure.low:
        layers += _whiskers(figure, y, x, colour)
    if figure.limits:
        ticks = [
            {"row": row, "value": value, "part": figure.limit_name,
             "text": show(value, figure.value.unit)}
            for row, value in enumerate(figure.limits)
        ]  # fmt: skip
        mark = {"type": "tick", "orient": "vertical", "thickness": 3}
        told = tooltip(("part", "limit"), ("text", figure.value.title))
        layers.append(layer(mark, ticks, {"y": y, "x": x, "color": colour, "tooltip": told}))
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
    told = tooltip(("part", "part"), ("text", figure.value.title))
    ends = {"y": y, "x": x, "x2": {"field": "high"}, "color": colour, "tooltip": told}
    caps = {"y": y, "color": colour}
    cap = {"type": "tick", "orient": "vertical", "thickness": 2, "size": 9}
    return [
        layer({"type": "rule", "strokeWidth": 2}, rows, ends),
        layer(cap, rows, caps | {"x": x}),
        layer(cap, rows, caps | {"x": x | {"field": "high"}}),
    ]
