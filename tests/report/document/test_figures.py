"""Figures as numbers, by hand; drawings are valid Vega-Lite; tables say the same."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from magicplan.report.capacity import figures
from magicplan.report.document.charts import Bars, Chart, HeatMap, Scale, Series, TreePanel, Trees
from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.page import Plot
from magicplan.report.document.record import Record
from magicplan.report.document.vega.drawing import draw
from magicplan.report.document.vega.heat_map import position
from magicplan.units import show
from tests.report.capacity.a_plan import NASTY, a_plan, candidates, failing
from tests.report.documents import documents


@pytest.fixture(scope="module")
def plan() -> Record:
    return Record(data=json.loads(json.dumps(a_plan().to_dict())), file="plan.json")


def test_a_roofline_is_flop_over_seconds_under_its_roof(plan: Record) -> None:
    chart = figures.roofline(plan)
    roof, qkv, attention = chart.series[:3]
    assert roof.y[1] == 989e12
    assert roof.x[1] == pytest.approx(989e12 / 3.35e12)
    assert qkv.x == pytest.approx((1.0e11 / 2.2e9,))
    assert qkv.y == pytest.approx((1.0e11 / 0.9e-3,))
    assert attention.x[0] == pytest.approx(6.0e10 / 1.4e10)
    assert "norms" not in [series.name for series in chart.series]  # no FLOP, no place
    for series in chart.series[1:]:
        assert series.x[0] is not None
        assert series.y[0] is not None
        assert series.y[0] <= min(989e12, series.x[0] * 3.35e12)


def test_a_breakdown_adds_up_and_carries_the_steps_interval(plan: Record) -> None:
    bars = figures.breakdown(plan, "batch")
    assert bars is not None
    assert bars.labels == ("batch 1", "batch 8", "batch 64", "batch 96")
    assert "host" not in dict(bars.parts)  # nothing there
    whole = 0.0045 + 0.001 + 0.001 + 0.001
    assert bars.totals[0] == pytest.approx(whole)
    assert bars.low[0] == pytest.approx(0.9 * whole)
    assert bars.high[0] == pytest.approx(1.2 * whole)
    assert figures.breakdown(plan, "other") is None


def test_the_planned_step_adds_up(plan: Record) -> None:
    assert figures.planned_step(plan).totals == pytest.approx((0.020,))


def test_a_speedup_map_has_losses_gains_and_what_does_not_fit(plan: Record) -> None:
    figure = figures.speedups(plan.record("schedule"))
    assert figure.values[3][3] is None
    assert figure.texts[3][3] == "no fit"
    assert figure.texts[2][0] == "off"
    assert figure.texts[0][0] == "2.10x\nγ 5"
    assert figure.cells[0][0] == "2.10x\nγ 5\n0.8-2.8"
    assert figure.cells[2][0] == "off"  # does not draft
    ((_, contexts, batches),) = figure.lines
    assert contexts == (None, None, 1800.0, 5000.0)
    assert batches == (1, 8, 64, 256)


def test_a_pareto_chart_groups_by_gpu_and_sets_losers_apart(plan: Record) -> None:
    chart = figures.pareto(plan, against="throughput")
    names = {series.name: series for series in chart.series}
    assert list(names) == [
        "h100-sxm", "h200-sxm", "l40s", "breaks a limit", "Pareto front", "chosen",
    ]  # fmt: skip
    assert names["chosen"].x == (600.0,)
    assert names["chosen"].low == pytest.approx((0.017,))
    assert names["Pareto front"].labels == ("4 x h200-sxm TP2 eagle3",)
    assert names["Pareto front"].low == (0.012,)
    assert names["Pareto front"].high == (None,)  # a queue without end
    assert not names["h100-sxm"].low  # it says its own, so that bars stay few
    assert names["h100-sxm"].labels == ("4 x h100-sxm TP2 eagle3, 80 % 18 to 25 ms",)
    (whisker,) = [row for row in drawn(chart, "rule") if row["series"] == "Pareto front"]
    assert whisker["low"] == 0.012
    assert whisker["high"] == whisker["y"]  # no end: it stops at its point
    assert chart.floors == ((0.04, "limit"),)
    by_cost = figures.pareto(plan, against="cost")
    assert "breaks a limit" not in [s.name for s in by_cost.series]  # it has no price


def test_losers_far_out_leave_the_axes_to_the_others() -> None:
    far = failing("slow", "l40s")
    far = dataclasses.replace(far, tokens_per_s_per_gpu=9000.0)
    document = a_plan(candidates=(*candidates(), far)).to_dict()
    chart = figures.pareto(Record(data=json.loads(json.dumps(document)), file="plan.json"),
                                against="throughput")  # fmt: skip
    (lost,) = [s for s in chart.series if s.name.startswith("breaks a limit")]
    assert lost.name == "breaks a limit (1 more far out)"
    assert 9000.0 not in lost.x


def test_memory_adds_up_to_what_is_there(plan: Record) -> None:
    bars = figures.memory(plan)
    assert bars.totals == bars.limits
    assert len(bars.labels) == 4


def test_sensitivity_passes_the_plan_and_ends_where_nothing_fits(plan: Record) -> None:
    chart = figures.sensitivity(plan)
    assert chart is not None
    assert len(chart.series) == 2  # step_time has a single point left
    traffic, acceptance = chart.series
    assert acceptance.name == "acceptance"
    assert list(zip(traffic.x, traffic.y, strict=True)) == [(0.5, 2), (1, 4), (1.5, 6), (2, 8)]
    assert list(zip(traffic.low, traffic.high, strict=True)) == [(1, 4), (3, 6), (5, 8), (7, None)]
    assert acceptance.low[acceptance.x.index(1.0)] == 3  # every line passes the plan's own interval
    ribbon = [row["x"] for row in drawn(chart, "area") if row["series"] == traffic.name]
    assert ribbon == [0.5, 1.0, 1.5]  # at 2 it has no end


def test_errors_against_a_server_in_percent(plan: Record) -> None:
    bars = figures.observed_errors(plan.record("observed"))
    assert dict(bars.parts)["as shipped"] == pytest.approx((-100 / 6, 15))
    assert dict(bars.parts)["host constants fitted"][1] == pytest.approx(1.0)


def test_places_between_ticks_are_logarithmic() -> None:
    ticks = (1024.0, 4096.0, 16384.0)
    assert position(1024, ticks) == 0
    assert position(2048, ticks) == pytest.approx(0.5)
    assert position(32768, ticks) == pytest.approx(2.5)
    assert position(65536, ticks) is None
    assert position(256, ticks) is None
    assert position(1, (1.0,)) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "seconds", "–"), (float("nan"), "count", "–"), (float("inf"), "seconds", "∞"),
        (0.5, "usd", "$0.50"), (1234.5, "usd", "$1,234"), (0.012, "usd", "$0.012"),
        (1.5, "ratio", "1.50x"), (-3.0, "percent", "-3.0 %"), (65536.0, "tokens", "64k"),
        (1800.5, "tokens", "1.80k"), (9.89e14, "flops", "989 TFLOP/s"), (-1.0, "seconds", "-1 s"),
    ],
)  # fmt: skip
def test_values_as_text(value: float | None, unit: Any, text: str) -> None:
    assert show(value, unit) == text


CHART = Chart(
    x=Scale(title="x", log=True),
    y=Scale(title="y", unit="seconds"),
    series=(
        Series(
            name="band", x=(1.0, 2.0), y=(1.0, 2.0), low=(0.5, 1.0), high=(2.0, 3.0), style="line"
        ),
        Series(name=NASTY, x=(1.0,), y=(None,), labels=(NASTY,), low=(None,), high=(None,)),
    ),
    floors=((1.0, "floor"),),
    walls=((2.0, "wall"),),
)
BARS = Bars(
    labels=(NASTY, NASTY), value=Scale(title="v"), parts=(("a", (1.0, None)), ("b", (2.0, 3.0)))
)
EMPTY = HeatMap(
    x=Scale(title="x", unit="tokens"), y=Scale(title="y"), value=Scale(title="v"), columns=(1.0,),
    rows=(1.0,), values=((None,),), texts=(("no fit",),), middle=1.0,
)  # fmt: skip


TREES = Trees(
    panels=(
        TreePanel(title=NASTY, parents=(-1, 0, 0, 1), weights=(1.0, 0.6, 0.2, 0.3), says="1.5x"),
        TreePanel(title="fits nowhere", parents=(), weights=()),
    ),
    across=2,
)


def drawn_plots() -> list[Any]:
    from magicplan.report.pages import page_of

    found: list[Any] = [CHART, BARS, EMPTY, TREES]
    for name, text in documents().items():
        if name != "run":
            page = page_of(json.loads(text), name)
            found += [b.figure for s in page.sections for b in s.blocks if isinstance(b, Plot)]
    return found


def drawn(figure: Any, mark: str) -> list[dict[str, Any]]:
    """Rows of all layers of a mark."""
    layers = [layer for layer in draw(figure)["layer"] if "data" in layer and "mark" in layer]
    return [
        row for layer in layers if layer["mark"]["type"] == mark for row in layer["data"]["values"]
    ]


def test_every_drawing_is_valid_vega_lite() -> None:
    """By the schema that altair ships, and by the compiler that draws it, without a warning."""
    altair = pytest.importorskip("altair", reason="needs the dev extra")
    vl_convert = pytest.importorskip("vl_convert", reason="needs the report extra")
    for figure in drawn_plots():
        drawing = draw(figure)
        text = json.dumps(drawing, allow_nan=False)
        altair.LayerChart.from_dict(drawing, validate=True)
        compiled = vl_convert.vegalite_to_vega(text)
        assert compiled["marks"], type(figure)
        assert "<svg" in vl_convert.vegalite_to_svg(text)


def expressions(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [text for k, entry in value.items() for text in expressions(entry, k)]
    if isinstance(value, list):
        return [text for entry in value for text in expressions(entry, key)]
    return [value] if isinstance(value, str) and key in ("labelExpr", "expr", "test") else []


def test_names_reach_expressions_only_as_json_strings() -> None:
    """What is left of an expression without its strings holds nothing from a file."""
    for figure in drawn_plots():
        for text in expressions(draw(figure)):
            code = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
            assert "alert" not in code, code


def test_every_drawn_number_stands_in_the_table() -> None:
    """Charts and bars value by value; a heat map cell by cell."""
    for figure in drawn_plots():
        cells = {c for row in grid_of(Plot(title="", reading="", figure=figure)).rows for c in row}
        if isinstance(figure, Chart):
            for series in figure.series:
                assert {show(y, figure.y.unit) for y in series.y} <= cells
                assert {show(x, figure.x.unit) for x in series.x} <= cells
        elif isinstance(figure, Bars):
            for _, values in figure.parts:
                assert {show(value, figure.value.unit) for value in values} <= cells
        elif isinstance(figure, Trees):
            assert {panel.title for panel in figure.panels} <= cells
        else:
            assert {cell for row in figure.cells for cell in row} <= cells


def test_a_longer_palette_than_colours_starts_over() -> None:
    series = tuple(Series(name=str(i), x=(1.0,), y=(1.0,)) for i in range(9))
    (layer,) = draw(Chart(x=Scale(title="x"), y=Scale(title="y"), series=series))["layer"]
    colours = layer["encoding"]["color"]["scale"]["range"]
    shapes = layer["encoding"]["shape"]["scale"]["range"]
    assert colours[0] == colours[8]
    assert shapes[0] != shapes[8]


def test_losses_and_gains_meet_at_the_middle() -> None:
    figure = HeatMap(
        x=Scale(title="x"), y=Scale(title="y"), value=Scale(title="v"), columns=(1.0, 2.0, 3.0),
        rows=(1.0,), values=((0.8, 1.0, 1.4),), texts=(("a", "b", "c"),), middle=1.0,
    )  # fmt: skip
    low, middle, high = drawn(figure, "rect")
    assert (low["colour"], high["colour"]) == ("var(--loss)", "var(--gain)")
    assert middle["strength"] == 0
    assert low["strength"] == pytest.approx(high["strength"] / 2)  # 0.2 below, 0.4 above


def test_a_tree_is_drawn_level_by_level_with_parents_over_their_children() -> None:
    nodes = drawn(TREES, "point")
    assert [node["y"] for node in nodes] == pytest.approx([0.3, 0.61, 0.61, 0.92])
    root, first, second, leaf = (node["x"] for node in nodes)
    assert first == leaf < second
    assert root == pytest.approx((first + second) / 2)
    strengths = [node["strength"] for node in nodes]
    assert strengths == sorted(strengths, reverse=True)[:1] + strengths[1:]
    assert strengths[2] < strengths[3] < strengths[1]  # 0.2, 0.3, 0.6
