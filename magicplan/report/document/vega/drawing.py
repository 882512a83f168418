"""Figures as Vega-Lite specifications: plain dictionaries that a browser or vl-convert draws.

Colours are names of the page's style sheet, which an SVG looks up by itself: one drawing serves
light, dark and paper. Names from files are data or JSON strings, never expressions.
"""

from __future__ import annotations

from magicplan.report.document.charts import Bars, Chart, Figure, HeatMap
from magicplan.report.document.vega.bars import draw_bars
from magicplan.report.document.vega.chart import draw_chart
from magicplan.report.document.vega.heat_map import draw_heat_map
from magicplan.report.document.vega.parts import Spec
from magicplan.report.document.vega.trees import draw_trees

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""The name of the language, which nothing fetches."""
WIDTH = 760
"""Pixels across where nothing else is asked for."""
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


def draw(figure: Figure) -> Spec:
    """A specification, safe to draw whatever the names in it are; `usermeta.least_width` is the
    narrowest, in pixels, at which its cells can be read."""
    found = _drawn(figure)
    shared = {
        "$schema": SCHEMA,
        "width": WIDTH,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    return shared | {"usermeta": {"least_width": 260}, "config": CONFIG} | found


def _drawn(figure: Figure) -> Spec:
    if isinstance(figure, Chart):
        return draw_chart(figure)
    if isinstance(figure, Bars):
        return draw_bars(figure)
    return draw_heat_map(figure) if isinstance(figure, HeatMap) else draw_trees(figure)
