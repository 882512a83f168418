"""A validation as a page: what a real device did beside what was predicted before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from magicplan.report.document.charts import Chart, Series, Style
from magicplan.report.document.page import Block, Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.report.replay import agreement
from magicplan.units import Unit, show

QUANTITIES = ("decode", "draft", "verify", "round", "speedup")
CHARTS: tuple[tuple[str, tuple[str, ...], Unit], ...] = (
    ("times", QUANTITIES[:-1], "seconds"),
    ("speedup", QUANTITIES[-1:], "ratio"),
)
VERDICTS = ("pass", "fail", "impossible", "skipped", "open")
LISTED = 400
"""Points in the table of the page; the document has all."""


def page(found: Record) -> Page:
    """The JSON of `magicplan validate`."""
    points = found.records("points")
    counts = Counter(p.text("verdict", "open") for p in points)
    said = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
    plots = tuple(_plots(points))
    summary = found.maybe_record("summary")
    judged = summary.text("verdict", "") if summary else ""
    counted = f"{len(points)} points: {said or 'none'}."
    verdict = f"Verdict: {judged}. {counted}" if judged else counted
    sections = (
        *((Section(title="Agreement", blocks=plots),) if plots else ()),
        *_errors(summary),
        Section(title="Points", blocks=(_points(points), *_reasons(points))),
        *_told(found, "shown", "Shown here"),
        *_told(found, "flags", "Flags"),
        Section(title="Rests on", blocks=tuple(_basis(found, points))),
    )
    return Page(
        title="Measured on a real device, against the prediction",
        verdict=summary.text("verdict_text", verdict) if summary else verdict,
        subject=_subject(found),
        tone={"pass": "good", "fail": "bad"}.get(judged, "plain"),  # type: ignore[arg-type]
        facts=tuple(_facts(found)),
        sections=sections,
    )


def field(quantity: str) -> str:
    """The name of a quantity in a point."""
    return quantity if quantity == "speedup" else f"{quantity}_seconds"


def _subject(found: Record) -> str:
    """Model, draft, backend and device, where the document names them."""
    if told := found.text("headline", ""):
        return told
    asked, device = found.maybe_record("settings"), found.maybe_record("device")
    if asked is None:
        return ""
    words = [
        asked.text("model", ""),
        f"draft {asked.text('draft', '')} {asked.text('draft_kv', '')}",
    ]
    words += [f"{asked.text('backend', '')} backend", asked.text("dtype", "")]
    words += [device.text("name", "")] if device else []
    return ", ".join(word for word in words if word.strip())


def _told(found: Record, key: str, title: str) -> Iterable[Section]:
    """Sentences that the document holds, under a title."""
    if lines := found.texts(key):
        yield Section(title=title, blocks=(Bullets(lines=lines),))


def _facts(found: Record) -> Iterable[Fact]:
    summary = found.maybe_record("summary")
    for quantity in QUANTITIES if summary else ():
        mape = summary.maybe(f"{quantity}_mape")  # type: ignore[union-attr]
        if mape is not None:
            yield Fact(name=f"{quantity}, mean error", value=show(mape, "percent"))
    if summary and summary.maybe("gamma_regret") is not None:
        regret = show(summary.maybe("gamma_regret"), "percent")
        yield Fact(name="regret of the draft length", value=regret, note="throughput lost")
    exactness = found.maybe_record("exactness")
    if exactness:
        equal = exactness.flag("greedy_equal")
        yield Fact(name="greedy output exact", value="yes" if equal else "no")


def _plots(points: Sequence[Record]) -> Iterable[Plot]:
    for title, quantities, unit in CHARTS:
        chart = measured_chart(points, quantities, unit)
        if chart:
            yield Plot(
                title=f"Measured against predicted: {title}",
                reading="Filled: calibrated on other points; crosses: the naive roofline, which no "
                "time may beat. Bars are 95 % intervals of the measured medians.",
                figure=chart,
                repeated=True,
            )


def measured_chart(points: Sequence[Record], quantities: Sequence[str], unit: Unit) -> Chart | None:
    """Measurements with intervals over calibrated and ideal predictions; None without any."""
    sides: tuple[tuple[str, Style], ...] = (("predicted", "points"), ("ideal", "faint"))
    series = [
        found
        for side, style in sides
        for quantity in quantities
        if (found := _series(points, quantity, side, style))
    ]
    return agreement(series, "predicted", "measured", unit) if series else None


def _series(points: Sequence[Record], quantity: str, side: str, style: Style) -> Series | None:
    name = field(quantity)
    rows = [
        (p, measured, told.maybe(name))
        for p in points
        if (measured := p.maybe_record("measured")) and (told := p.maybe_record(side))
        if measured.maybe(name) and told.maybe(name)
    ]
    if not rows:
        return None
    ranged = style == "points" and all(m.maybe(f"{name}_low") is not None for _, m, _ in rows)
    return Series(
        name=quantity if side == "predicted" else f"{quantity}, naive",
        x=tuple(told for _, _, told in rows),
        y=tuple(m.maybe(name) for _, m, _ in rows),
        low=tuple(m.maybe(f"{name}_low") for _, m, _ in rows) if ranged else (),
        high=tuple(m.maybe(f"{name}_high") for _, m, _ in rows) if ranged else (),
        labels=tuple(point_name(p) for p, _, _ in rows),
        style=style,
    )


def point_name(p: Record) -> str:
    """Batch, context and draft of a point."""
    where = f"batch {p.number('batch'):.0f}, {show(p.number('ctx_tokens'), 'tokens')}"
    return ", ".join(filter(None, (where, p.text("draft", "no draft"), _shape(p))))


def _cell(p: Record) -> str:
    return f"{p.number('batch'):.0f} x {show(p.number('ctx_tokens'), 'tokens')}"


def _shape(p: Record) -> str:
    """The draft length or the tree of a point."""
    gamma, tree = p.maybe("gamma"), p.maybe_record("tree")
    size = tree.maybe("size") if tree else None
    return f"gamma {gamma:.0f}" if gamma else f"tree {size or 0:.0f}" if tree else ""


def _errors(summary: Record | None) -> Iterable[Section]:
    names = ("mape", "p95", "bias", "ideal_mape", "ideal_bias")
    rows = tuple(
        (quantity, *(show(summary.maybe(f"{quantity}_{name}"), "percent") for name in names))
        for quantity in (QUANTITIES if summary else ())
        if summary and summary.maybe(f"{quantity}_mape") is not None
    )
    if rows:
        grid = Grid(
            columns=("quantity", "MAPE", "p95", "bias", "ideal MAPE", "ideal bias"), rows=rows
        )
        yield Section(title="Errors", blocks=(grid,))


SIDES = (("measured", "measured"), ("predicted", "calibrated"), ("ideal", "ideal"))


def _points(points: Sequence[Record]) -> Grid:
    """Three rows a point: measured, calibrated, ideal."""
    rows = []
    for p in points[:LISTED]:
        verdict = p.text("verdict", "open")
        for side, name in SIDES:
            held = p.maybe_record(side)
            title = {"measured": _cell(p), "predicted": _shape(p), "ideal": verdict}[side]
            rows.append((title, name, *_side(held)))
    more = f" The first {LISTED} of {len(points)} points." if len(points) > LISTED else ""
    return Grid(
        columns=("point", "", *QUANTITIES[:-1], "tokens", "speedup"),
        rows=tuple(rows),
        note=f"Times a step or a round, tokens a round.{more}",
    )


def _side(held: Record | None) -> tuple[str, ...]:
    if held is None:
        return ("",) * (len(QUANTITIES) + 1)
    tokens = held.maybe("tokens_per_round")
    return (
        *(show(held.maybe(field(q)), "seconds") for q in QUANTITIES[:-1]),
        "–" if tokens is None else f"{tokens:.2f}",
        show(held.maybe("speedup"), "ratio"),
    )


def _reasons(points: Sequence[Record]) -> Iterable[Block]:
    lines = [f"{point_name(p)}: {p.text('reason')}" for p in points if p.text("reason", "")]
    if lines:
        yield "Why points did not pass:"
        yield Bullets(lines=tuple(lines))


def _basis(found: Record, points: Sequence[Record]) -> Iterable[Block]:
    """Blocks that say where acceptance comes from, and every plain field of the environment."""
    lines = list(found.texts("basis"))
    if not lines:
        origins = dict.fromkeys(p.text("acceptance_origin", "") for p in points)
        lines = [f"acceptance: {origin}" for origin in origins if origin]
        if sealed := found.text("prediction_sha256", ""):
            lines.append(f"prediction sha256 {sealed[:16]}, written before the first point")
    if lines:
        yield Bullets(lines=tuple(lines))
    device = found.maybe_record("device")
    rows = tuple(
        (key.replace("_", " "), _device_value(key, value))
        for key, value in (device.data if device else {}).items()
        if isinstance(value, str | int | float) and value != ""
    )
    if rows:
        yield Grid(columns=("", ""), rows=rows, prose=True)


def _device_value(key: str, value: str | float) -> str:
    """A field of the environment as text."""
    sized = key.endswith("_bytes") and isinstance(value, int | float) and value >= 0
    return show(float(value), "bytes") if sized else str(value)
