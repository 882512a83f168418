"""The figures of a capacity plan, as numbers: each reads a plan's JSON and draws nothing."""

from __future__ import annotations

from collections.abc import Iterable

from magicplan.report.capacity.words import interval_of, is_mix, seconds_of, spaced
from magicplan.report.document.charts import (
    PARTS,
    Bars,
    Chart,
    HeatMap,
    Numbers,
    Scale,
    Series,
    Style,
    mapped,
    speedup_text,
)
from magicplan.report.document.record import Record
from magicplan.units import between, show

EXTRA = {"draft": "drafting", "overhead": "round overhead", "prefill": "prompt chunks"}
MEMORY = ("weights", "kv", "draft", "workspace", "free")
MEMORY_NAMES = {
    "weights": "weights", "kv": "KV cache", "draft": "draft", "workspace": "workspace",
    "free": "free",
}  # fmt: skip
LOST = "breaks a limit"
COMPARED = 5
"""Candidates whose memory is shown beside the best one's."""


Ends = tuple[float, float | None]


def spread(plan: Record, figure: str) -> Ends | None:
    """Low and high over the value of an interval of the plan, 1 being the value."""
    found = interval_of(plan, figure)
    if found is None or found[1] <= 0:
        return None
    low, value, high = found
    return low / value, None if high is None else high / value


def _scaled(values: Numbers, factor: float | None) -> Numbers:
    return tuple(None if v is None or factor is None else v * factor for v in values)


def roofline(plan: Record) -> Chart:
    """Attained FLOP/s against FLOP a byte: a roof for every format in use, a point for every op."""
    line = plan.record("roofline")
    rate = line.positive("memory_bytes_per_s")
    peaks = dict(line.record("flops_per_s").items())
    points = [op for op in line.records("ops") if _placed(op)]
    at = [op.number("flops") / op.number("bytes") for op in points]
    used = dict.fromkeys(op.text("dtype") for op in points)
    peak_of = {dtype: peak for dtype in used if (peak := peaks.get(dtype)) and peak > 0}
    ridges = [peak / rate for peak in peak_of.values()]
    first, last = min([*at, *ridges, 1.0]) / 2, max([*at, *ridges, 1.0]) * 4
    roofs = [_roof(dtype, peak, rate, first, last) for dtype, peak in peak_of.items()]
    return Chart(
        x=Scale(title="FLOP a byte", log=True),
        y=Scale(title="attained", unit="flops", log=True),
        series=(*roofs, *(_op(op, x) for op, x in zip(points, at, strict=True))),
    )


def _placed(op: Record) -> bool:
    """Whether an op has a place on a roofline: collectives and copies compute nothing."""
    return all((op.maybe(key) or 0) > 0 for key in ("seconds", "bytes", "flops"))


def _roof(dtype: str, peak: float, rate: float, first: float, last: float) -> Series:
    ridge = peak / rate
    return Series(
        name=f"{dtype} roof", x=(first, ridge, last), y=(first * rate, peak, peak), style="edge"
    )


def _op(op: Record, x: float) -> Series:
    share = f"{show(op.number('seconds'), 'seconds')} a step, {op.text('kind')}, {op.text('dtype')}"
    rate = op.number("flops") / op.number("seconds")
    return Series(name=op.text("name"), x=(x,), y=(rate,), labels=(share,))


def breakdown(plan: Record, axis: str) -> Bars | None:
    """Seconds of a plain decode step by kind along `batch` or `ctx_tokens`; None if not given."""
    for curve in plan.records("curves"):
        if curve.text("axis") == axis:
            break
    else:
        return None
    unit, prefix = ("tokens", "") if axis == "ctx_tokens" else ("count", "batch ")
    at = curve.numbers("values")
    parts = tuple((name, curve.numbers(f"{part}_seconds")) for part, name in PARTS.items())
    if any(len(values) != len(at) for _, values in parts):
        curve.fail("values", "as many as every part has")
    bars = Bars(
        labels=tuple(prefix + show(value, unit) for value in at),  # type: ignore[arg-type]
        value=Scale(title="seconds a step", unit="seconds"),
        parts=tuple((name, values) for name, values in parts if any(values)),
    )
    return with_interval(bars, spread(plan, "decode_step_seconds"))


def with_interval(bars: Bars, ends: Ends | None) -> Bars:
    """Bars with an interval at their totals: `ends` are its relative ends, None for no interval."""
    if ends is None:
        return bars
    return Bars(
        labels=bars.labels, value=bars.value, parts=bars.parts,
        low=_scaled(bars.totals, ends[0]), high=_scaled(bars.totals, ends[1]),
    )  # fmt: skip


def planned_step(plan: Record) -> Bars:
    """One engine step of the best plan at its load, drafting and prompt chunks included."""
    step = plan.record("best").record("step")
    names = PARTS | EXTRA
    parts = tuple((name, (step.number(f"{part}_seconds"),)) for part, name in names.items())
    bars = Bars(
        labels=("this plan",),
        value=Scale(title="seconds a step", unit="seconds"),
        parts=tuple((name, values) for name, values in parts if any(values)),
    )
    return with_interval(bars, spread(plan, "step_seconds"))


def speedups(schedule: Record) -> HeatMap:
    """Speedup of the best draft length over batch x context, and where it breaks even."""
    batches, contexts = schedule.numbers("batches"), schedule.numbers("ctx_tokens")
    values, gammas = schedule.matrix("speedups"), schedule.matrix("gammas")
    if [len(values), len(gammas)] != [len(batches)] * 2:
        schedule.fail("speedups", "a row a batch, as in gammas")
    edge = schedule.numbers("break_even_ctx_tokens")
    details: tuple[tuple[str, ...], ...] = ()
    if schedule.data.get("speedups_low"):
        low, high = schedule.matrix("speedups_low"), schedule.matrix("speedups_high")
        if [len(low), len(high)] != [len(values)] * 2:
            schedule.fail("speedups_low", "a row a batch, as in speedups")
        details = mapped(_cell_ends, low, high, gammas)
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=values,
        texts=mapped(speedup_text, values, gammas),
        details=details,
        middle=1.0,
        lines=(("break-even: speculation pays", edge, batches),) if any(edge) else (),
    )


def _cell_ends(low: float | None, high: float | None, gamma: float | None) -> str:
    """The interval of a cell; none where nothing is drafted."""
    return f"{low:.2g}-{high:.2g}" if gamma and low is not None and high is not None else ""


def pareto(plan: Record, *, against: str) -> Chart:
    """p95 time per output token against `cost` or `throughput`: a point a candidate.

    Candidates by GPU, those that break a limit apart; the front joined; the best a star.
    """
    field, scale = {
        "cost": (
            "usd_per_million_tokens",
            Scale(title="USD a million tokens", unit="usd", log=True),
        ),
        "throughput": ("tokens_per_s_per_gpu", Scale(title="tokens/s a GPU")),
    }[against]
    all_of = plan.records("candidates")
    known = [c for c in all_of if c.maybe(field) is not None]
    groups: dict[str, list[Record]] = {}
    for candidate in known:
        name = candidate.text("gpu") if candidate.flag("meets") else LOST
        groups.setdefault(name, []).append(candidate)
    lost = groups.pop(LOST, [])
    series = [_points(name, groups[name], field) for name in sorted(groups)]
    near = _near(lost, [c for group in groups.values() for c in group], field)
    more = f" ({len(lost) - len(near)} more far out)" if len(near) < len(lost) else ""
    series += [_points(LOST + more, near, field, style="faint")] if near else []
    front = _front(plan, all_of, f"pareto_{'cost' if against == 'cost' else 'throughput'}_latency")
    front = sorted((c for c in front if c.maybe(field) is not None), key=lambda c: c.number(field))
    if front:
        series.append(_points("Pareto front", front, field, style="front"))
    best = plan.record("best")
    if best.maybe(field) is not None:
        one = "best of one kind" if is_mix(plan) else "chosen"
        name = one if plan.flag("feasible") else "nearest"
        ends = spread(plan, "tpot_p95_seconds")
        series.append(_points(name, [best], field, style="best", ends=ends))
    limit = plan.record("slo").maybe("tpot_p95_seconds")
    return Chart(
        x=scale,
        y=Scale(title="TPOT p95", unit="seconds", log=True),
        series=tuple(series),
        floors=((limit, "limit"),) if limit else (),
    )


FAR = 3.0
"""How many times past those that meet the limits a candidate is still drawn."""


def _near(lost: list[Record], able: list[Record], field: str) -> list[Record]:
    """The candidates that break a limit and leave room on the axes for those that break none."""
    if not able:
        return lost
    most = [max(values) for values in zip(*(_place(c, field) for c in able), strict=True)]
    return [
        c
        for c in lost
        if all(at <= FAR * far for at, far in zip(_place(c, field), most, strict=True))
    ]


def _place(c: Record, field: str) -> tuple[float, float]:
    return c.number(field), seconds_of(c, "tpot", "p95") or 0.0


def _front(plan: Record, candidates: tuple[Record, ...], key: str) -> list[Record]:
    found = []
    for index in plan.numbers(key):
        if index is None or index != int(index) or not 0 <= index < len(candidates):
            plan.fail(key, "indices of candidates")
        found.append(candidates[int(index)])
    return found


def _points(
    name: str,
    candidates: Iterable[Record],
    field: str,
    *,
    style: Style = "points",
    ends: Ends | None = None,
) -> Series:
    """TPOT p95 over a field; the front has bars of its candidates' own intervals, the best that of
    the plan, and others say theirs."""
    chosen = list(candidates)
    seconds = tuple(seconds_of(c, "tpot", "p95") for c in chosen)
    own = [_own_ends(c) for c in chosen]
    ranged = style == "front" and any(low is not None for low, _ in own)
    said = [between(*both, "seconds") if style in ("points", "faint") else "" for both in own]
    return Series(
        name=name,
        x=tuple(c.maybe(field) for c in chosen),
        y=seconds,
        labels=tuple(
            c.text("name") + (f", 80 % {ends}" if ends else "")
            for c, ends in zip(chosen, said, strict=True)
        ),
        style=style,
        low=_scaled(seconds, ends[0]) if ends else tuple(e[0] for e in own) if ranged else (),
        high=_scaled(seconds, ends[1]) if ends else tuple(e[1] for e in own) if ranged else (),
    )


def _own_ends(c: Record) -> tuple[float | None, float | None]:
    """The interval of a candidate's TPOT p95."""
    found = c.maybe_record("ends")
    if found is None or not found.data.get("tpot_p95_seconds"):
        return None, None
    low, *high = found.numbers("tpot_p95_seconds")
    return low, high[0] if high else None


def memory(plan: Record) -> Bars:
    """Bytes of one GPU, by what holds them: the best plan and the candidates that follow it."""
    best = plan.record("best")
    others = [c for c in plan.records("candidates") if c.text("name") != best.text("name")]
    shown = [best, *others[:COMPARED]]
    bars = [c.record("memory") for c in shown]
    return Bars(
        labels=tuple(c.text("name") for c in shown),
        value=Scale(title="bytes a GPU", unit="bytes"),
        parts=tuple(
            (MEMORY_NAMES[part], tuple(bar.number(f"{part}_bytes") for bar in bars))
            for part in MEMORY
        ),
        limits=tuple(bar.number("available_bytes") for bar in bars),
        limit_name="available",
        faint="free",
    )


def sensitivity(plan: Record) -> Chart | None:
    """GPUs needed when one assumption changes by a factor; None if nothing was varied.

    Only what was tried at more than one factor is a line; every line passes the plan itself.
    """
    groups: dict[str, list[Record]] = {}
    for entry in plan.records("sensitivity"):
        groups.setdefault(entry.text("what"), []).append(entry)
    base = plan.record("best").number("gpus")
    same = [e for e in plan.records("sensitivity") if e.maybe("factor") == 1]
    ends = (same[0].maybe("gpus_low"), same[0].maybe("gpus_high")) if same else (None, None)
    lines = [_line(what, entries, (base, *ends)) for what, entries in groups.items()]
    series = tuple(line for line in lines if sum(y is not None for y in line.y) > 1)
    if not series:
        return None
    return Chart(
        x=Scale(title="factor on the assumption", unit="ratio", log=True),
        y=Scale(title="GPUs"),
        series=series,
        walls=((1.0, "this plan"),),
    )


Point = tuple[float, float | None, float | None, float | None, str]


def _line(
    what: str, entries: list[Record], base: tuple[float, float | None, float | None]
) -> Series:
    points: list[Point] = [(1.0, *base, "this plan")]
    for entry in entries:
        factor, meets = entry.number("factor"), entry.flag("meets")
        note = entry.text("change") + ("" if meets else ": no fleet meets the limits")
        if factor > 0 and factor != 1:  # none at all has no place on a logarithmic axis
            gpus = (entry.number("gpus"), entry.maybe("gpus_low"), entry.maybe("gpus_high"))
            points.append((factor, *(gpus if meets else (None, None, None)), note))
    points.sort(key=lambda point: point[0])
    xs, ys, low, high, labels = zip(*points, strict=True)
    ranged = any(value is not None for value in low)
    return Series(
        name=spaced(what), x=xs, y=ys, labels=labels, style="line",
        low=low if ranged else (), high=high if ranged else (),
    )  # fmt: skip


def observed_errors(seen: Record) -> Bars:
    """Prediction over observation, minus 1, in percent, as shipped and after the fit."""
    figures = seen.records("figures")
    shipped = tuple(100 * f.number("error") for f in figures)
    refitted = tuple(
        None if (new := f.maybe("refitted")) is None else 100 * (new / f.positive("observed") - 1)
        for f in figures
    )
    return Bars(
        labels=tuple(spaced(f.text("figure")) for f in figures),
        value=Scale(title="error of the prediction", unit="percent"),
        parts=(("as shipped", shipped), ("host constants fitted", refitted)),
        stacked=False,
    )
