"""Predictions beside measurements: replays of published rows, and validation runs, as pages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from magicplan.report.charts import Chart, Numbers, Scale, Series, Unit, show
from magicplan.report.page import Block, Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.record import Record

UNITS: dict[str, Unit] = {"step": "seconds", "speedup": "ratio"}
WORST = 10
TIMES = ("decode_seconds", "draft_seconds", "verify_seconds", "round_seconds")
VERDICTS = ("pass", "fail", "impossible", "skipped")
LISTED = 400
"""Rows of a table in a page; the document has all."""


def against_measured(series: Sequence[Series], scale: Scale) -> Chart:
    """Predicted against measured, both logarithmic, with the line on which they agree."""
    both = [v for s in series for values in (s.x, s.y) for v in values if v]
    ends = (min(both, default=1.0), max(both, default=1.0))
    agree = Series(name="predicted = measured", x=ends, y=ends, style="front")
    return Chart(
        x=Scale(title="measured", unit=scale.unit, log=True),
        y=Scale(title=scale.title, unit=scale.unit, log=True),
        series=(*series, agree),
    )


def replay_page(found: Record) -> Page:
    """The JSON of `magicplan replay`."""
    rows = found.records("rows")
    skipped = found.records("skipped")
    kinds = tuple(k for k in UNITS if any(r.text("kind") == k for r in rows))
    impossible = sum(r.flag("impossible") for r in rows)
    errors = ", ".join(f"{kind} {_mape(rows, kind):.1f} %" for kind in kinds)
    sections = [_errors(found), *(_kind(rows, kind) for kind in kinds), _worst(rows)]
    if skipped:
        reasons = Counter(s.text("reason") for s in skipped)
        lines = tuple(f"{count} rows: {reason}" for reason, count in reasons.most_common())
        sections.append(Section(title="Not used", blocks=(Bullets(lines=lines),)))
    return Page(
        title="Predictions against published measurements",
        verdict=f"Mean absolute error over {len(rows)} predictions: {errors or 'none'}.",
        facts=tuple(_replay_facts(found, len(skipped), impossible)),
        sections=tuple(sections),
    )


def _mape(rows: Iterable[Record], kind: str) -> float:
    return 100 * _mean([abs(_error(r)) for r in rows if r.text("kind") == kind])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _error(row: Record) -> float:
    measured = row.number("measured")
    if measured <= 0:
        row.fail("measured", "a positive number")
    return row.number("predicted") / measured - 1


def _replay_facts(found: Record, skipped: int, impossible: int) -> Iterable[Fact]:
    sign = found.maybe("sign_accuracy_percent")
    lost = [v for _, v in found.record("regret_percent").items() if v is not None]
    yield Fact(
        name="right side of 1",
        value="–" if sign is None else f"{sign:.1f} %",
        note=f"of {found.number('sign_rows'):.0f} speedups",
    )
    yield Fact(
        name="regret of the draft length",
        value=f"{max(lost):.1f} %" if lost else "–",
        note=f"worst of {len(lost)} sweeps",
    )
    yield Fact(name="impossible rows", value=str(impossible), note="faster than the datasheet")
    yield Fact(name="rows not used", value=str(skipped))


def _errors(found: Record) -> Section:
    columns = ("source", "kind", "n", "MAPE", "median", "p95", "bias", "in 80 %", "naive")
    keys = ("mape", "median", "p95", "bias", "coverage", "naive_mape")
    rows = tuple(
        (
            s.text("source"),
            s.text("kind"),
            f"{s.number('rows'):.0f}",
            *(show(s.maybe(key), "percent") for key in keys),
        )
        for s in found.records("summaries")
    )
    note = "in 80 %: rows inside their interval; naive: MAPE of the naive roofline."
    return Section(title="Errors", blocks=(Grid(columns=columns, rows=rows, note=note),))


def _kind(rows: Sequence[Record], kind: str) -> Section:
    chosen = [r for r in rows if r.text("kind") == kind]
    inside = sum(_inside(r) for r in chosen)
    figure = replay_chart(chosen, kind)
    plot = Plot(
        title=f"Predicted against measured: {kind}",
        reading=f"Bars are 80 % intervals; {inside} of {len(chosen)} rows lie inside theirs. "
        "Crosses are the naive roofline.",
        figure=figure,
        repeated=True,
    )
    return Section(title=f"{kind.capitalize()}s", blocks=(plot,))


def _inside(row: Record) -> bool:
    low, high = row.maybe("low"), row.maybe("high")
    return low is not None and high is not None and low <= row.number("measured") <= high


def replay_chart(rows: Sequence[Record], kind: str) -> Chart:
    """Points by source, the naive roofline faint."""
    groups: dict[str, list[Record]] = {}
    for row in rows:
        groups.setdefault(row.text("source"), []).append(row)
    series = [
        Series(
            name=source,
            x=tuple(r.maybe("measured") for r in group),
            y=tuple(r.maybe("predicted") for r in group),
            low=tuple(r.maybe("low") for r in group),
            high=tuple(r.maybe("high") for r in group),
            labels=tuple(r.text("id") for r in group),
        )
        for source, group in sorted(groups.items())
    ]
    naive = Series(
        name="naive roofline",
        x=tuple(r.maybe("measured") for r in rows),
        y=tuple(r.maybe("naive") for r in rows),
        labels=tuple(r.text("id") for r in rows),
        style="faint",
    )
    return against_measured([*series, naive], Scale(title="predicted", unit=UNITS[kind]))


def _worst(rows: Sequence[Record]) -> Section:
    ordered = sorted(rows, key=lambda r: (-abs(math.log(1 + _error(r) or 1e-9)), r.text("id")))
    cells = tuple(
        (
            r.text("id"),
            r.text("kind"),
            *(
                show(r.maybe(key), UNITS.get(r.text("kind"), "count"))
                for key in ("measured", "predicted", "naive")
            ),
            f"{_error(r):+.1%}",
        )
        for r in ordered[:WORST]
    )
    columns = ("row", "kind", "measured", "predicted", "naive", "error")
    return Section(title="Worst rows", blocks=(Grid(columns=columns, rows=cells),))


def validation_page(found: Record) -> Page:
    """The JSON of `magicplan validate`, or what a run file holds so far."""
    points = found.records("points")
    counts = Counter(p.text("verdict", "open") for p in points)
    summary, exactness = found.maybe_record("summary"), found.maybe_record("exactness")
    bad = counts["fail"] + counts["impossible"]
    blocks: list[Block] = []
    for name, title, unit in (("times", "Times", "seconds"), ("speedup", "Speedup", "ratio")):
        chart = validation_chart(points, name, unit)  # type: ignore[arg-type]
        if chart:
            reading = (
                "Filled: calibrated on other points; crosses: the naive roofline, which no "
                "measurement may beat. Bars are 80 % intervals where the run has them."
            )
            blocks.append(Plot(title=f"{title}: predicted against measured", reading=reading,
                               figure=chart, repeated=True))  # fmt: skip
    sections = [Section(title="Agreement", blocks=tuple(blocks))] if blocks else []
    sections += [Section(title="Points", blocks=(_points(points),)), _device(found)]
    said = ", ".join(f"{counts[v]} {v}" for v in (*VERDICTS, "open") if counts[v])
    return Page(
        title="Measured on a real device, against the prediction",
        verdict=f"{len(points)} points: {said or 'none measured yet'}.",
        tone="bad" if bad else "good" if counts["pass"] else "plain",
        facts=tuple(_validation_facts(summary, exactness)),
        sections=tuple(sections),
    )


def _validation_facts(summary: Record | None, exactness: Record | None) -> Iterable[Fact]:
    for key in summary.data if summary else ():
        name = key.replace("_", " ").replace("mape", "MAPE")
        value = summary.data[key]  # type: ignore[union-attr]
        if isinstance(value, int | float) and not isinstance(value, bool):
            percent = key not in ("points", "skipped")
            yield Fact(name=name, value=show(float(value), "percent" if percent else "count"))
    for key, value in (exactness.data if exactness else {}).items():
        if isinstance(value, bool):
            yield Fact(name=key.replace("_", " "), value="yes" if value else "no")


def validation_chart(points: Sequence[Record], what: str, unit: Unit) -> Chart | None:
    """Calibrated and ideal predictions against measurements; None without measurements."""
    names = TIMES if what == "times" else ("speedup",)
    series = [
        found
        for name in names
        for side, style in (("predicted", "points"), ("ideal", "faint"))
        if (found := _side(points, name, side, style))
    ]
    return against_measured(series, Scale(title="predicted", unit=unit)) if series else None


def _side(points: Sequence[Record], name: str, side: str, style: str) -> Series | None:
    rows = [
        (p, m, q)
        for p in points
        if (measured := p.maybe_record("measured")) and (told := p.maybe_record(side))
        if (m := measured.maybe(name)) and (q := told.maybe(name))
    ]
    if not rows:
        return None
    ends = [_ends(p.record(side), name) for p, _, _ in rows]
    known = style == "points" and any(low is not None for low, _ in ends)
    words = name.removesuffix("_seconds")
    return Series(
        name=words if side == "predicted" else f"{words}, naive",
        x=tuple(m for _, m, _ in rows),
        y=tuple(q for _, _, q in rows),
        low=tuple(low for low, _ in ends) if known else (),
        high=tuple(high for _, high in ends) if known else (),
        labels=tuple(point_name(p) for p, _, _ in rows),
        style=style,  # type: ignore[arg-type]
    )


def _ends(told: Record, name: str) -> tuple[float | None, float | None]:
    """The interval of a prediction: speedup_low, or decode_low_seconds."""
    base, unit = name.removesuffix("_seconds"), "_seconds" if name.endswith("_seconds") else ""
    return told.maybe(f"{base}_low{unit}"), told.maybe(f"{base}_high{unit}")


def point_name(p: Record) -> str:
    """Batch, context and draft of a point."""
    gamma = p.maybe("gamma")
    draft = p.text("draft", "") or "no draft"
    shape = f", gamma {gamma:.0f}" if gamma else ""
    ctx = show(p.number("ctx_tokens"), "tokens")
    return f"batch {p.number('batch'):.0f}, {ctx}, {draft}{shape}"


def _points(points: Sequence[Record]) -> Grid:
    rows = tuple(
        (
            point_name(p),
            *(_pair(p, name, unit) for name, unit in (("decode_seconds", "seconds"),
              ("verify_seconds", "seconds"), ("round_seconds", "seconds"), ("speedup", "ratio"))),
            p.text("verdict", "open"),
            p.text("reason", ""),
        )
        for p in points[:LISTED]
    )  # fmt: skip
    columns = ("point", "decode", "verify", "round", "speedup", "verdict", "reason")
    more = f" The first {LISTED} of {len(points)}." if len(points) > LISTED else ""
    return Grid(columns=columns, rows=rows, prose=True, note=f"measured / predicted.{more}")


def _pair(p: Record, name: str, unit: str) -> str:
    sides = (p.maybe_record("measured"), p.maybe_record("predicted"))
    values: Numbers = tuple(side.maybe(name) if side else None for side in sides)
    if all(value is None for value in values):
        return ""
    return " / ".join(show(value, unit) for value in values)  # type: ignore[arg-type]


def _device(found: Record) -> Section:
    """What was measured on: every plain field of the environment."""
    device = found.maybe_record("device")
    rows = tuple(
        (key.replace("_", " "), str(value))
        for key, value in (device.data if device else {}).items()
        if isinstance(value, str | int | float) and value != ""
    )
    return Section(title="Device", blocks=(Grid(columns=("", ""), rows=rows, prose=True),))
