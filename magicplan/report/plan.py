"""A capacity plan as a page: what to buy and launch first, then why, then on what it rests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from magicplan.report import plan_figures as figures
from magicplan.report.charts import Unit, show
from magicplan.report.page import Block, Bullets, Code, Fact, Grid, Page, Plot, Section
from magicplan.report.record import Record

LISTED = 12
"""Candidates in the tables of the page; the JSON has all."""
METRICS = {
    "ttft": "time to first token", "tpot": "time per output token", "itl": "gap between tokens",
    "e2e": "whole request",
}  # fmt: skip
STATISTICS = ("mean", "p50", "p95", "p99")


def page(plan: Record) -> Page:
    """From the JSON of a plan. Raises SpecError naming a field that is missing or wrong."""
    feasible = plan.flag("feasible")
    sections = (
        _launch(plan),
        _observed(plan),
        _latency(plan),
        _candidates(plan),
        _pareto(plan),
        _memory(plan),
        _sensitivity(plan),
        _schedule(plan),
        _time(plan),
        _roofline(plan),
        _accuracy(plan),
        _assumptions(plan),
    )
    return Page(
        title=plan.text("name") or f"Capacity plan for {plan.text('model')}",
        verdict=plan.text("verdict"),
        tone="good" if feasible else "bad",
        subject=_subject(plan),
        facts=tuple(_facts(plan)),
        sections=tuple(section for section in sections if section is not None),
    )


def _subject(plan: Record) -> str:
    t = plan.record("traffic")
    hit = t.number("prefix_hit_rate")
    cached = f", {hit:.0%} of prompts from the prefix cache" if hit else ""
    return (
        f"{plan.text('model')} ({show(plan.number('parameters'))} parameters); "
        f"{t.number('mean_requests_per_s'):.3g} requests/s, planned for a peak of "
        f"{t.number('peak_requests_per_s'):.3g}; prompts of "
        f"{t.number('prompt_mean_tokens'):.0f} tokens (p95 {t.number('prompt_p95_tokens'):.0f})"
        f"{cached}, outputs of {t.number('output_mean_tokens'):.0f} "
        f"(p95 {t.number('output_p95_tokens'):.0f}); {t.text('source')}"
    )


def _facts(plan: Record) -> Iterator[Fact]:
    best = plan.record("best")
    yield Fact(
        name="GPUs" if plan.flag("feasible") else "nearest plan",
        value=f"{best.number('gpus'):.0f} x {best.text('gpu')}",
        note=_shape(best),
    )
    rows: tuple[tuple[str, str, float | None, Unit, str], ...] = (
        ("cost an hour", "cost_usd_per_hour", best.maybe("cost_usd_per_hour"), "usd", ""),
        ("cost of 1M output tokens", "usd_per_million_tokens",
         best.maybe("usd_per_million_tokens"), "usd", ""),
        ("TTFT p95", "ttft_p95_seconds", figures.latency(best, "ttft", "p95"), "seconds", ""),
        ("TPOT p95", "tpot_p95_seconds", figures.latency(best, "tpot", "p95"), "seconds", ""),
        ("output tokens/s a GPU", "tokens_per_s_per_gpu",
         best.maybe("tokens_per_s_per_gpu"), "count", ""),
    )  # fmt: skip
    for name, key, value, unit, note in rows:
        yield Fact(name=name, value=show(value, unit), note=_interval(plan, key, unit) or note)
    yield Fact(
        name="headroom",
        value=f"{best.number('headroom'):+.0%}",
        note=f"over the peak; {best.text('binding')} binds",
    )
    yield Fact(name="speculation", value=_draft(best), note=_gain(plan, best))


def _gain(plan: Record, best: Record) -> str:
    if not best.number("gamma"):
        return ""
    tokens = f"{best.number('tokens_per_round'):.2f} tokens a round"
    ends = _interval(plan, "speedup", "ratio")
    gain = f"{show(best.number('speedup'), 'ratio')} decode throughput, {tokens}"
    return f"{gain}; {ends}" if ends else gain


def _interval(plan: Record, figure: str, unit: Unit) -> str:
    for entry in plan.records("intervals"):
        if entry.text("figure") == figure:
            ends = show(entry.maybe("low"), unit), show(entry.maybe("high"), unit)
            return f"80 %: {ends[0]} to {ends[1]}"
    return ""


def _draft(c: Record) -> str:
    gamma = c.number("gamma")
    return f"{c.text('draft')}, {gamma:.0f} tokens" if gamma else "off"


def _shape(c: Record) -> str:
    """How the GPUs are laid out, in words."""
    degrees = [f"TP{c.number('tp'):.0f}"]
    for key, name in (("pp", "PP"), ("ep", "EP"), ("attention_dp", "attention DP")):
        degrees += [f"{name}{c.number(key):.0f}"] if c.number(key) > 1 else []
    count, prefill = c.number("replicas"), c.number("prefill_replicas")
    replicas = f"{count:.0f} replica{'s' if count != 1 else ''} of {' '.join(degrees)}"
    replicas += f" that decode, {prefill:.0f} that prefill" if prefill else ""
    return f"{replicas}, {c.text('dtype')}, KV {c.text('kv_dtype')}"


def _launch(plan: Record) -> Section:
    best = plan.record("best")
    feasible = plan.flag("feasible")
    rows = (
        ("GPUs", f"{best.number('gpus'):.0f} x {best.text('gpu')}"),
        ("layout", _shape(best)),
        ("speculation", _draft(best)),
        ("requests at once", f"{best.number('batch_per_replica'):.3g} decode on a replica, of at "
         f"most {best.number('max_batch_per_replica'):.0f}, mean context "
         f"{best.number('ctx_tokens'):.0f} tokens"),
        ("serves", f"{best.number('capacity_requests_per_s'):.3g} requests/s within the limits, "
         f"{best.number('headroom'):+.0%} over the peak; utilisation "
         f"{best.number('utilisation'):.0%}"),
        ("what stops it", f"{best.text('binding')}; a decode step spends most on "
         f"{best.text('bound')}"),
        ("energy", f"at most {best.number('energy_joules_per_token'):.3g} J a token"),
        ("stack", f"{best.text('stack')}, calibration {best.text('calibration')}"),
    )  # fmt: skip
    blocks: list[Block] = []
    if not feasible:
        blocks.append(_broken(plan))
    blocks.append(Grid(columns=("", ""), rows=rows, prose=True))
    for entry in plan.records("launch"):
        role = entry.text("role")
        what = entry.text("engine") + (f", {role}" if role != "serve" else "")
        blocks.append(Code(title=f"Launch a replica with {what}", text=entry.text("command")))
        if entry.texts("notes"):
            blocks.append(Bullets(lines=entry.texts("notes")))
    title = "Buy and launch" if feasible else "Nearest plan"
    return Section(title=title, blocks=tuple(blocks))


def _broken(plan: Record) -> Grid:
    """Limits that the nearest plan breaks."""
    best = plan.record("best")
    rows = tuple(
        (limit_name(key), f"{factor:.3g} times the limit" if factor else "without end")
        for key, factor in best.record("violations").items()
    )
    note = f"Binding: {best.text('binding')}."
    return Grid(columns=("limit", "predicted"), rows=rows, prose=True, note=note)


def limit_name(key: str) -> str:
    """"ttft_p95_seconds" -> "TTFT p95"; other names as they are, in words."""
    parts = key.removesuffix("_seconds").split("_")
    if len(parts) == 2 and parts[0] in METRICS:
        return f"{parts[0].upper()} {parts[1]}"
    return " ".join(parts)


def _latency(plan: Record) -> Section:
    best, slo = plan.record("best"), plan.record("slo")
    rows = []
    for metric, words in METRICS.items():
        cells = [f"{metric.upper()}, {words}"]
        for statistic in STATISTICS:
            value = figures.latency(best, metric, statistic)
            limit = slo.maybe(f"{metric}_{statistic}_seconds")
            cells.append(show(value, "seconds") + (f" / {show(limit, 'seconds')}" if limit else ""))
        rows.append(tuple(cells))
    note = (
        "At the peak; the figure behind a slash is the limit. Gaps between tokens have a "
        f"standard deviation of {best.record('latency').number('itl_cv'):.2f} means."
    )
    grid = Grid(columns=("latency", *STATISTICS), rows=tuple(rows), note=note)
    return Section(title="Latency", blocks=(grid,))


def _candidates(plan: Record) -> Section:
    listed = plan.records("candidates")
    shown = listed[:LISTED]
    best = plan.record("best").text("name")
    columns = ("candidate", "GPUs", "$/h", "$/M", "TTFT p95", "TPOT p95", "room", "meets")
    grid = Grid(
        columns=columns,
        rows=tuple(_candidate(c) for c in shown),
        best=frozenset(i for i, c in enumerate(shown) if c.text("name") == best),
        note=_looked_at(plan, len(listed)),
    )
    losers = [c for c in shown if c.text("why_not", "")]
    lines = tuple(f"{c.text('name')}: {c.text('why_not')}" for c in losers)
    blocks: tuple[Block, ...] = (grid,)
    if lines:
        blocks += ("Why the others lose:", Bullets(lines=lines))
    rejected = [(name, count) for name, count in plan.record("rejected").items() if count]
    if rejected:
        blocks += ("Never became candidates:", Bullets(lines=tuple(
            f"{count:.0f}: {reason}" for reason, count in rejected
        )))  # fmt: skip
    return Section(title="Candidates", blocks=blocks)


def _candidate(c: Record) -> tuple[str, ...]:
    return (
        c.text("name"),
        f"{c.number('gpus'):.0f}",
        show(c.maybe("cost_usd_per_hour"), "usd"),
        show(c.maybe("usd_per_million_tokens"), "usd"),
        show(figures.latency(c, "ttft", "p95"), "seconds"),
        show(figures.latency(c, "tpot", "p95"), "seconds"),
        f"{c.number('headroom'):+.0%}",
        "yes" if c.flag("meets") else "no",
    )


def _looked_at(plan: Record, count: int) -> str:
    s = plan.record("searched")
    more = f"The first {LISTED} of {count}; the JSON has all. " if count > LISTED else ""
    return (
        f"{more}Looked at: {s.number('configurations'):,.0f} configurations, "
        f"{s.number('cells'):,.0f} cells of batch and draft length. room: capacity over the peak; "
        "$/M: a million output tokens at mean traffic."
    )


def _pareto(plan: Record) -> Section:
    listed = plan.records("candidates")
    fronts = ("pareto_cost_latency", "pareto_throughput_latency")
    on = [{int(i) for i in plan.numbers(key) if i is not None} for key in fronts]
    rows = tuple(
        (
            c.text("name"),
            show(c.maybe("usd_per_million_tokens"), "usd"),
            show(c.maybe("tokens_per_s_per_gpu")),
            show(figures.latency(c, "tpot", "p95"), "seconds"),
            ", ".join(n for n, f in zip(("cost", "throughput"), on, strict=True) if i in f),
        )
        for i, c in enumerate(listed)
        if any(i in front for front in on)
    )
    grid = Grid(
        columns=("nothing beats", "$/M", "tokens/s a GPU", "TPOT p95", "in"),
        rows=rows,
        note="in: the trade-off against TPOT p95 in which nothing beats it.",
    )
    range_of = _range(plan, "tpot_p95_seconds", "TPOT p95 of the chosen plan")
    plots = tuple(
        Plot(
            title=f"Pareto front: {what} against latency",
            reading=f"Further down is faster, further {side} is {better}; the star is the choice. "
            + range_of,
            figure=figures.pareto(plan, against=against),
            quiet=True,
        )
        for against, what, side, better in (
            ("cost", "cost", "left", "cheaper"),
            ("throughput", "throughput", "right", "more for each GPU"),
        )
    )
    return Section(title="Pareto", blocks=(*plots, grid))


def _range(plan: Record, figure: str, what: str) -> str:
    """One sentence on the interval of a figure: its size and what it rests on."""
    for entry in plan.records("intervals"):
        if entry.text("figure") == figure and entry.maybe("value"):
            ends = [100 * (entry.number(e) / entry.number("value") - 1) for e in ("low", "high")]
            basis = entry.text("basis")
            return f"80 % interval of {what}: {ends[0]:+.0f} to {ends[1]:+.0f} % ({basis})."
    return f"No interval of {what} is known: {plan.text('calibration_basis')}."


def _memory(plan: Record) -> Section:
    bar = plan.record("best").record("memory")
    available = bar.number("available_bytes")
    rows = tuple(
        (name, show(held := bar.number(f"{part}_bytes"), "bytes"), f"{held / available:.0%}")
        for part, name in figures.MEMORY_NAMES.items()
    )
    grid = Grid(
        columns=("memory of a GPU", "bytes", "share"),
        rows=(*rows, ("available", show(available, "bytes"), "100%")),
        note=f"Share of time in which requests in flight outgrow the KV cache: "
        f"{plan.record('best').number('preemption_probability'):.2g}.",
    )
    plot = Plot(
        title="Memory of a GPU",
        reading="What the chosen plan and its next rivals hold at the planned load. Bytes follow "
        "from shapes and formats; only the number of requests in flight is predicted, and free "
        "memory is its margin.",
        figure=figures.memory(plan),
        quiet=True,
    )
    return Section(title="Memory", blocks=(plot, grid))


def _sensitivity(plan: Record) -> Section | None:
    chart = figures.sensitivity(plan)
    if chart is None:
        return None
    rows = tuple(
        (
            entry.text("what"),
            entry.text("change"),
            f"{entry.number('gpus'):.0f}" if entry.flag("meets") else "none",
            show(entry.maybe("cost_usd_per_hour"), "usd") if entry.flag("meets") else "",
            show(entry.maybe("usd_per_million_tokens"), "usd") if entry.flag("meets") else "",
        )
        for entry in plan.records("sensitivity")
    )
    grid = Grid(
        columns=("if", "changes", "GPUs", "$/h", "$/M"),
        rows=rows,
        note="The chosen GPUs, formats and draft, with replicas chosen anew; none: no number of "
        "them meets the limits.",
    )
    plot = Plot(
        title="Sensitivity: GPUs needed as an assumption changes",
        reading="Each line changes one assumption by the factor below; a line that ends has no "
        "fleet beyond. " + _range(plan, "step_seconds", "a step"),
        figure=chart,
        quiet=True,
    )
    return Section(title="Sensitivity", blocks=(plot, grid))


def _schedule(plan: Record) -> Section | None:
    schedule = plan.maybe_record("schedule")
    if schedule is None:
        return None
    rows = tuple(
        (
            f"{t.number('batch_lo'):.0f} - {t.number('batch_hi'):.0f}",
            f"{show(t.number('ctx_lo'), 'tokens')} - {show(t.number('ctx_hi'), 'tokens')}",
            f"{t.number('gamma'):.0f}" if t.number("gamma") else "off",
            f"{t.number('loss'):.1%}",
        )
        for t in schedule.records("thresholds")
    )
    plot = Plot(
        title="Speedup of the best draft length",
        reading=f"Draft: {schedule.text('draft')}. Blue gains, orange loses, off does not draft; "
        "the line is where speculation breaks even. " + _range(plan, "speedup", "the speedup"),
        figure=figures.speedups(schedule),
    )
    grid = Grid(
        columns=("batch of a replica", "context", "draft tokens", "loss"),
        rows=rows,
        note="loss: throughput given up at most by sharing a draft length over the range.",
    )
    rule = Code(title="The schedule as JSON", text=_rules(schedule), quiet=True)
    return Section(title="Schedule", blocks=(plot, grid, rule))


def _rules(schedule: Record) -> str:
    keys = ("batch_lo", "batch_hi", "ctx_lo", "ctx_hi", "gamma")
    rules: list[Any] = [
        json.dumps([int(t.number(key)) for key in keys]) for t in schedule.records("thresholds")
    ]
    head = json.dumps({"draft": schedule.text("draft"), "columns": keys})[:-1]
    return head + ', "rules": [\n  ' + ",\n  ".join(rules) + "\n]}"


def _time(plan: Record) -> Section:
    step = _range(plan, "step_seconds", "a step")
    blocks: list[Block] = [
        Plot(
            title="A step at the planned load",
            reading="Mean engine step of a decoding replica, drafting and prompt chunks included. "
            + step,
            figure=figures.planned_step(plan),
        )
    ]
    for axis, words in (("batch", "batch"), ("ctx_tokens", "context")):
        bars = figures.breakdown(plan, axis)
        if bars is not None:
            reading = f"A plain decode step of a replica of the chosen plan. {step}"
            title = f"Where a step's time goes, against {words}"
            blocks.append(Plot(title=title, reading=reading, figure=bars, quiet=True))
    return Section(title="Step time", blocks=tuple(blocks))


def _roofline(plan: Record) -> Section:
    reading = (
        "Ops of the decode step on one GPU: under the slope bytes bind, under the flat part FLOP "
        "do; the distance to the roof is what the calibration takes off. "
        + _range(plan, "step_seconds", "a step")
    )
    plot = Plot(
        title="Roofline of a decode step", reading=reading, figure=figures.roofline(plan), quiet=True
    )
    return Section(title="Roofline", blocks=(plot,))


def _observed(plan: Record) -> Section | None:
    seen = plan.maybe_record("observed")
    if seen is None:
        return None
    rows = tuple(
        (
            f.text("figure"),
            show(f.maybe("observed"), unit := _unit(f.text("unit"))),
            show(f.maybe("predicted"), unit),
            f"{f.number('error'):+.1%}",
            show(f.maybe("refitted"), unit),
        )
        for f in seen.records("figures")
    )
    reading = (
        f"{seen.text('file')}, {seen.text('tool')}, {seen.number('concurrency'):.3g} requests at "
        "once."
    )
    blocks: list[Block] = [
        reading,
        Grid(columns=("figure", "observed", "predicted", "error", "refitted"), rows=rows),
        Plot(
            title="Error of the prediction, before and after the fit",
            reading="Predicted over observed, minus 1. One run, so no interval; errors after the "
            "fit are on the figures that it was fitted to.",
            figure=figures.observed_errors(seen),
            quiet=True,
        ),
        Bullets(lines=seen.texts("advice")),
        Code(title="Calibration fitted to this run, for --stack FILE",
             text=seen.text("calibration_toml"), quiet=True),
    ]  # fmt: skip
    return Section(title="Running server", blocks=tuple(blocks))


def _unit(name: str) -> Unit:
    return {"s": "seconds", "seconds": "seconds", "B": "bytes", "bytes": "bytes"}.get(name, "count")  # type: ignore[return-value]


def _accuracy(plan: Record) -> Section | None:
    entries = plan.records("intervals")
    if not entries:
        return None
    rows = tuple(
        (limit_name(e.text("figure")), *(show(e.maybe(end), unit_of(e.text("figure"))) for end in
         ("low", "value", "high")), e.text("basis"))
        for e in entries
    )  # fmt: skip
    columns = ("figure", "low", "value", "high", "rests on")
    grid = Grid(columns=columns, rows=rows, prose=True, note="80 % intervals.")
    return Section(title="Accuracy", blocks=(plan.text("calibration_basis"), grid))


def unit_of(name: str) -> Unit:
    """The unit that a field's name ends in."""
    if "usd" in name:
        return "usd"
    for ending in ("seconds", "bytes", "tokens"):
        if name.endswith(ending):
            return ending  # type: ignore[return-value]
    return "ratio" if name == "speedup" else "count"


def _assumptions(plan: Record) -> Section:
    prices = tuple(
        f"price of {p.text('gpu')}: {show(p.maybe('usd_per_hour'), 'usd')} an hour"
        f"{', indicative' if p.flag('indicative') else ''}"
        f"{' (' + p.text('note') + ')' if p.text('note') else ''}"
        for p in plan.records("prices")
    )
    lines = (*plan.texts("assumptions"), *prices)
    return Section(title="Rests on", blocks=(Bullets(lines=lines),))
