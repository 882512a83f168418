"""Predictions beside published measurements, as a page."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from magicplan.report.document.charts import Chart, Scale, Series
from magicplan.report.document.page import Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.units import Unit, show

UNITS: dict[str, Unit] = {
    "step": "seconds", "speedup": "ratio", "tpot": "seconds", "ttft": "seconds", "itl": "seconds",
    "rate": "count",
}  # fmt: skip
NAMES = {
    "tpot": "Times per token", "ttft": "Times to the first token", "itl": "Times between chunks",
    "rate": "Requests a second",
}  # fmt: skip
WORST = 10


def agreement(series: Sequence[Series], x: str, y: str, unit: Unit) -> Chart:
    """Predictions and measurements, both logarithmic, with the line on which they agree."""
    both = [v for s in series for values in (s.x, s.y) for v in values if v and v > 0]
    ends = (min(both, default=1.0), max(both, default=1.0))
    agree = Series(name="predicted = measured", x=ends, y=ends, style="front")
    return Chart(
        x=Scale(title=x, unit=unit, log=True),
        y=Scale(title=y, unit=unit, log=True),
        series=(*series, agree),
    )


def page(found: Record) -> Page:
    """The JSON of `magicplan replay`."""
    rows = found.records("rows")
    skipped = found.records("skipped")
    kinds = tuple(k for k in UNITS if any(r.text("kind") == k for r in rows))
    impossible = sum(r.flag("impossible") for r in rows)
    verdict = "; ".join(
        f"{what}: {errors}"
        for basis, what in (
            ("predicted", "predicted"),
            ("fitted", "fitted on such rows, no test"),
            ("not said", "fitted or predicted"),
        )
        if (errors := _errors_of([r for r in rows if _basis(r) == basis]))
    )
    sections = [_errors(found), *(_kind(rows, kind) for kind in kinds), _worst(rows)]
    if impossible:
        listed = tuple(_line(r) for r in rows if r.flag("impossible"))
        title = "Impossible: better than the datasheet allows"
        sections.append(Section(title=title, blocks=(Bullets(lines=listed),)))
    if skipped:
        reasons = Counter(s.text("reason") for s in skipped)
        lines = tuple(f"{count} rows: {reason}" for reason, count in reasons.most_common())
        title = f"Not used: {len(skipped)} rows"
        sections.append(Section(title=title, blocks=(Bullets(lines=lines),)))
    return Page(
        title="Predictions against published measurements",
        verdict=f"Mean absolute error. {verdict[:1].upper()}{verdict[1:] or 'None'}.",
        facts=tuple(_replay_facts(found, len(skipped), impossible)),
        sections=tuple(sections),
    )


def _errors_of(rows: Sequence[Record]) -> str:
    """Mean absolute errors by kind."""
    texts = []
    for kind in UNITS:
        errors = [abs(_error(r)) for r in rows if r.text("kind") == kind]
        if errors:
            texts.append(f"{kind} {100 * _mean(errors):.1f} % of {len(errors)}")
    return ", ".join(texts)


def _basis(row: Record) -> str:
    """Whether constants were fitted on such rows; documents of older versions do not say."""
    if row.data.get("fitted") is None:
        return "not said"
    return "fitted" if row.flag("fitted") else "predicted"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _far(row: Record) -> float:
    """How far off, too long and too short alike."""
    return abs(math.log(row.positive("predicted")) - math.log(row.positive("measured")))


def _error(row: Record) -> float:
    return row.positive("predicted") / row.positive("measured") - 1


def _replay_facts(found: Record, skipped: int, impossible: int) -> Iterable[Fact]:
    sign = found.maybe("sign_accuracy_percent")
    lost = [v for _, v in found.record("regret_percent").items() if v is not None]
    speedups = [r for r in found.records("rows") if r.text("kind") == "speedup"]
    fitted = sum(_basis(r) == "fitted" for r in speedups)
    partly = f"; fitted on such rows: {fitted} of {len(speedups)}" if fitted else ""
    yield Fact(
        name="right side of 1",
        value="–" if sign is None else f"{sign:.1f} %",
        note=f"of {found.number('sign_rows'):.0f} speedups{partly}",
    )
    middle = f", median {statistics.median(lost):.1f} %" if lost else ""
    yield Fact(
        name="regret of the draft length",
        value=f"{max(lost):.1f} %" if lost else "–",
        note=f"worst of {len(lost)} sweeps{middle}{partly if lost else ''}",
    )
    yield Fact(name="impossible rows", value=str(impossible), note="faster than the datasheet")
    yield Fact(name="rows not used", value=str(skipped))


ERRORS = ("mape", "median", "p95", "bias", "coverage", "naive_mape")


def _errors(found: Record) -> Section:
    """Errors by source in percent, then of all; a total adds no fitted rows to predicted ones."""
    columns = ("source", "kind", "basis", "n", "MAPE", "median", "p95", "bias", "in 80 %", "naive")
    listed = [(s.text("source"), s) for s in found.records("summaries")]
    totals = [(f"all {_basis(s)}", s) for s in found.records("totals")]
    rows = tuple(
        (name, s.text("kind"), _basis(s), f"{s.number('rows'):.0f}",
         *(_percent(s, key) for key in ERRORS))
        for name, s in (*listed, *totals)
    )  # fmt: skip
    note = (
        "Errors in percent. fitted: the stack's constants were fitted on such rows, whose errors "
        "are no test; in 80 %: rows inside their interval; naive: MAPE of the naive roofline."
    )
    best = frozenset(range(len(listed), len(rows)))
    grid = Grid(columns=columns, rows=rows, note=note, best=best)
    return Section(title="Errors", blocks=(grid,))


def _percent(summary: Record, key: str) -> str:
    value = summary.maybe(key)
    return "–" if value is None else f"{value:+.1f}" if key == "bias" else f"{value:.1f}"


def _line(row: Record) -> str:
    """A row in words: what was measured, what was predicted, for which workload."""
    unit = UNITS.get(row.text("kind"), "count")
    told = [f"{show(row.maybe('measured'), unit)} measured"]
    how = "by constants fitted on such rows" if _basis(row) == "fitted" else "predicted"
    told += [
        f"{show(row.maybe('predicted'), unit)} {how}",
        f"{show(row.maybe('naive'), unit)} naive",
    ]
    return f"{row.text('id')}: {row.text('kind')} {', '.join(told)}{_where(row)}"


def _where(row: Record) -> str:
    """The workload of a row, where the document says it."""
    asked = row.maybe_record("asked")
    if asked is None:
        return ""
    return (
        f" ({asked.text('model')} on {asked.text('gpu')}, batch {asked.number('batch'):.0f}, "
        f"{asked.number('ctx'):.0f} tokens)"
    )


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
    return Section(title=NAMES.get(kind, f"{kind.capitalize()}s"), blocks=(plot,))


def _inside(row: Record) -> bool:
    low, high = row.maybe("low"), row.maybe("high")
    return low is not None and high is not None and low <= row.number("measured") <= high


def replay_chart(rows: Sequence[Record], kind: str) -> Chart:
    """Points by source, fitted rows apart, the naive roofline faint."""
    groups: dict[str, list[Record]] = {}
    for row in rows:
        name = row.text("source") + (" (fitted)" if _basis(row) == "fitted" else "")
        groups.setdefault(name, []).append(row)
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
    return agreement([*series, naive], "measured", "predicted", UNITS[kind])


def _worst(rows: Sequence[Record]) -> Section:
    ordered = sorted(rows, key=lambda r: (-_far(r), r.text("id")))[:WORST]
    lines = tuple(f"{_line(r)}: {_error(r):+.1%}" for r in ordered)
    return Section(title="Worst rows", blocks=(Bullets(lines=lines or ("no rows",)),))
