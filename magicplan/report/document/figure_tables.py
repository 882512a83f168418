"""Every figure as a table: the text alternative, and all that Markdown and a terminal show."""

from __future__ import annotations

from functools import singledispatch

from magicplan.report.document.charts import Bars, Chart, HeatMap, Numbers, Series, Trees
from magicplan.report.document.page import Grid, Plot
from magicplan.units import Unit, between, show


def grid_of(plot: Plot) -> Grid:
    """The numbers of a figure."""
    return _grid(plot.figure, plot.title)


@singledispatch
def _grid(figure: object, title: str) -> Grid:
    raise TypeError(f"no table for {type(figure).__name__}")


@_grid.register
def _(figure: Chart, title: str) -> Grid:
    ranged = any(series.low for series in figure.series)
    named = any(series.labels for series in figure.series)
    columns = ["series", *(["point"] if named else []), figure.x.title, figure.y.title]
    rows = []
    for series in figure.series:
        for index, x in enumerate(series.x):
            row = [series.name, *([_label(series, index)] if named else [])]
            row += [show(x, figure.x.unit), show(series.y[index], figure.y.unit)]
            if ranged:
                row.append(interval(series.low, series.high, index, figure.y.unit))
            rows.append(tuple(row))
    for scale, marks in ((figure.y, figure.floors), (figure.x, figure.walls)):
        for value, name in marks:
            row = [name, *([""] if named else []), "", ""]
            row[-1 if scale is figure.y else -2] = show(value, scale.unit)
            rows.append((*row, *([""] if ranged else [])))
    return Grid(title=title, columns=(*columns, *(["80 %"] if ranged else [])), rows=tuple(rows))


def _label(series: Series, index: int) -> str:
    return series.labels[index] if series.labels else ""


def interval(low: Numbers, high: Numbers, index: int, unit: Unit) -> str:
    """ "low to high", or nothing where there is no interval; a high end of None has no end."""
    return between(low[index], high[index], unit) if low else ""


@_grid.register
def _(figure: Bars, title: str) -> Grid:
    """Parts as columns; few bars of many parts lie on their side."""
    unit = figure.value.unit
    names = [name for name, _ in figure.parts]
    several = figure.stacked and len(names) > 1
    columns = ["", *names, *(["total"] if several else [])]
    columns += ["80 %"] if figure.low else []
    columns += [figure.limit_name] if figure.limits else []
    rows = []
    for index, label in enumerate(figure.labels):
        row = [label, *(show(values[index], unit) for _, values in figure.parts)]
        row += [show(figure.totals[index], unit)] if several else []
        row += [interval(figure.low, figure.high, index, unit)] if figure.low else []
        row += [show(figure.limits[index], unit)] if figure.limits else []
        rows.append(row)
    if len(rows) < len(columns) // 2:
        columns, *rows = map(list, zip(columns, *rows, strict=True))
    return Grid(title=title, columns=tuple(columns), rows=tuple(tuple(row) for row in rows))


@_grid.register
def _(figure: HeatMap, title: str) -> Grid:
    columns = (figure.y.title, *(show(c, figure.x.unit) for c in figure.columns))
    rows = [
        (show(row, figure.y.unit), *cells)
        for row, cells in zip(figure.rows, figure.cells, strict=True)
    ]
    notes = [f"Cell: {figure.says}."] if figure.says else []
    notes += [f"{_line(figure, *line)}." for line in figure.lines]
    return Grid(title=title, columns=columns, rows=tuple(rows), note=" ".join(notes))


@_grid.register
def _(figure: Trees, title: str) -> Grid:
    rows = tuple((panel.title, panel.says, _widths(panel.parents)) for panel in figure.panels)
    return Grid(title=title, columns=("tree", "", "nodes a level"), rows=rows, prose=True)


def _widths(parents: tuple[int, ...]) -> str:
    """Nodes of every level, from the root down."""
    levels: list[int] = []
    for parent in parents:
        levels.append(0 if parent < 0 else levels[parent] + 1)
    return " ".join(str(levels.count(level)) for level in range(max(levels, default=0) + 1))


def _line(figure: HeatMap, name: str, contexts: Numbers, batches: Numbers) -> str:
    points = [
        f"batch {show(b, 'count')} at {show(c, figure.x.unit)}"
        for c, b in zip(contexts, batches, strict=True)
        if b is not None and c is not None
    ]
    return f"{name}: {', '.join(points)}"
