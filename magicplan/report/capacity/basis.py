"""What a plan rests on: memory, sensitivity, the schedule, step times, accuracy, assumptions."""

from __future__ import annotations

import json

from magicplan.planning.words import LATENCIES, tokens_words, tree_words
from magicplan.report.capacity import figures
from magicplan.report.capacity.words import (
    range_sentence,
    spaced,
    unit_of,
)
from magicplan.report.document.page import Block, Bullets, Code, Grid, Plot, Section
from magicplan.report.document.record import Record
from magicplan.units import show


def _rare(share: float) -> str:
    return "below 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"


def memory(plan: Record) -> Section:
    bar = plan.record("best").record("memory")
    available = bar.positive("available_bytes")
    preempted = plan.record("best").number("preemption_probability")
    rows = tuple(
        (name, show(held := bar.number(f"{part}_bytes"), "bytes"), f"{held / available:.0%}")
        for part, name in figures.MEMORY_NAMES.items()
    )
    grid = Grid(
        columns=("memory of a GPU", "bytes", "share"),
        rows=(*rows, ("available", show(available, "bytes"), "100%")),
        note=f"Share of requests that lose their cache to others: {_rare(preempted)}.",
    )
    plot = Plot(
        title="Memory of a GPU",
        reading="What the chosen plan and its next rivals hold at the planned load. Bytes follow "
        "from shapes and formats and are exact; only the number of requests in flight, which the "
        "KV cache follows, is predicted, and free memory is its margin. "
        + range_sentence(plan, "batch_per_replica", "requests decoding on a replica"),
        figure=figures.memory(plan),
        quiet=True,
    )
    return Section(title="Memory", blocks=(plot, grid))


def sensitivity(plan: Record) -> Section | None:
    chart = figures.sensitivity(plan)
    if chart is None:
        return None
    rows = tuple(
        (
            spaced(entry.text("what")),
            entry.text("change"),
            _gpus(entry) if entry.flag("meets") else "none",
            show(entry.maybe("cost_usd_per_hour"), "usd") if entry.flag("meets") else "",
            show(entry.maybe("usd_per_million_tokens"), "usd") if entry.flag("meets") else "",
        )
        for entry in plan.records("sensitivity")
    )
    grid = Grid(
        columns=("if", "changes", "GPUs (80 %)", "$/h", "$/M"),
        rows=rows,
        note="The chosen GPUs, formats and draft, with replicas chosen anew; none: no number of "
        "them meets the limits. In brackets: at either end of the step time's interval.",
    )
    plot = Plot(
        title="Sensitivity: GPUs needed as an assumption changes",
        reading="Each line changes one assumption by the factor below; a line that ends has no "
        "fleet beyond. Bands: 80 % intervals from the step time, replicas counted anew. "
        + range_sentence(plan, "gpus", "the plan's GPUs"),
        figure=chart,
        repeated=True,
    )
    return Section(title="Sensitivity", blocks=(plot, grid))


def _gpus(entry: Record) -> str:
    """GPUs needed, with the interval that the step time gives them; none: no number would do."""
    ends = [entry.maybe(key) for key in ("gpus_low", "gpus_high")]
    low, high = ("none" if end is None else f"{end:.0f}" for end in ends)
    return f"{entry.number('gpus'):.0f}" + (f" ({low} to {high})" if low != "none" else "")


def schedule(plan: Record) -> Section | None:
    schedule = plan.maybe_record("schedule")
    if schedule is None:
        return None
    rows = tuple(
        (
            *_range(t),
            f"{t.number('gamma'):.0f}" if t.number("gamma") else "off",
            f"{t.number('loss'):.1%}",
        )
        for t in schedule.records("thresholds")
    )
    plot = Plot(
        title="Speedup of the best draft length",
        reading=f"Draft: {schedule.text('draft')}. Blue gains, orange loses, off does not draft; "
        "the line is where speculation breaks even. "
        + (
            "80 % intervals from acceptance and timing: under the pointer, and in its table."
            if schedule.data.get("speedups_low")
            else range_sentence(plan, "speedup", "the speedup at the planned load")
        ),
        figure=figures.speedups(schedule),
    )
    grid = Grid(
        columns=("batch of a replica", "context", "draft tokens", "loss"),
        rows=rows,
        note="Above, in a cell: speedup, draft length \u03b3"
        + (", 80 % interval" if schedule.data.get("speedups_low") else "")
        + ". loss: throughput given up at most by sharing a draft length over the range.",
    )
    rule = Code(title="The schedule as JSON", text=_rules(schedule), quiet=True)
    trees = (_trees(schedule),) if schedule.records("tree_rules") else ()
    return Section(title="Schedule", blocks=(plot, grid, *trees, rule))


def _trees(schedule: Record) -> Grid:
    """A table of the schedule's rules with draft trees, for an engine that may run them."""
    rows = tuple(
        (*_range(t), _shape(t), f"{t.number('beam'):.0f}", f"{t.number('loss'):.1%}")
        for t in schedule.records("tree_rules")
    )
    return Grid(
        columns=("batch of a replica", "context", "with trees", "topk", "loss"),
        rows=rows,
        note="Nodes and levels count the root; topk: nodes an engine without topologies expands at "
        "a level. The JSON has every topology; engines of today run one for all batches.",
    )


def _range(t: Record) -> tuple[str, str]:
    return (
        f"{t.number('batch_lo'):.0f} - {t.number('batch_hi'):.0f}",
        f"{show(t.number('ctx_lo'), 'tokens')} - {show(t.number('ctx_hi'), 'tokens')}",
    )


def _shape(t: Record) -> str:
    """A tree, a chain, or none."""
    size = t.number("size")
    if size == 1:
        return "off"
    return (
        tree_words(size, t.number("depth")) if size > t.number("depth") else tokens_words(size - 1)
    )


def _rules(schedule: Record) -> str:
    """Ranges of batch and context with a draft length each, and with a topology each: the parents
    of its nodes, breadth first."""
    span = ("batch_lo", "batch_hi", "ctx_lo", "ctx_hi")
    chains, trees = (
        [
            json.dumps([*(int(t.number(key)) for key in span), _value(t, last)])
            for t in schedule.records(name)
        ]
        for name, last in (("thresholds", "gamma"), ("tree_rules", "parents"))
    )
    head = json.dumps({"draft": schedule.text("draft"), "columns": (*span, "gamma")})[:-1]
    text = head + _listed("rules", chains)
    if trees:
        columns = json.dumps((*span, "parents"))
        text += f', "tree_columns": {columns}' + _listed("tree_rules", trees)
    return text + "}"


def _value(t: Record, key: str) -> int | list[int]:
    if key == "parents":
        return [int(p or 0) for p in t.numbers(key)]
    return int(t.number(key))


def _listed(name: str, rules: list[str]) -> str:
    return f', "{name}": [\n  ' + ",\n  ".join(rules) + "\n]"


def step_time(plan: Record) -> Section:
    step = range_sentence(plan, "decode_step_seconds", "a step at a given batch and context")
    blocks: list[Block] = [
        Plot(
            title="A step at the planned load",
            reading="Mean engine step of a decoding replica, drafting and prompt chunks included. "
            + range_sentence(plan, "step_seconds", "it, requests in flight included"),
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


def roofline(plan: Record) -> Section:
    reading = (
        "Ops of the decode step on one GPU: under the slope bytes bind, under the flat part FLOP "
        "do; the distance to the roof is what the calibration takes off. FLOP and bytes follow "
        "from shapes and are exact, roofs are the datasheet's; heights are as sure as the step. "
        + range_sentence(plan, "decode_step_seconds", "a step")
    )
    plot = Plot(
        title="Roofline of a decode step",
        reading=reading,
        figure=figures.roofline(plan),
        quiet=True,
    )
    return Section(title="Roofline", blocks=(plot,))


def accuracy(plan: Record) -> Section:
    """The calibration, and every interval under what it rests on."""
    blocks: list[Block] = [
        f"Calibration: {plan.text('calibration_basis')}.",
        "Traffic, lengths, limits and prices are taken as stated, and bytes follow from shapes and "
        "formats: none of them has an interval.",
    ]
    found = plan.records("intervals")
    causes = _causes(plan)
    if causes:
        blocks += ["What is uncertain:", Bullets(lines=causes)]
    by_basis: dict[str, list[Record]] = {}
    for entry in found:
        by_basis.setdefault(entry.text("basis"), []).append(entry)
    for basis, entries in by_basis.items():
        others = [entry for entry in entries if entry.text("figure") not in LATENCIES]
        above = " (the latencies above, too)" if len(others) < len(entries) else ""
        columns = ("80 % interval", "low", "value", "high")
        blocks.append(f"{basis[:1].upper()}{basis[1:]}{above}:")
        blocks.append(Grid(columns=columns, rows=tuple(map(_interval, others))))
    return Section(title="Accuracy", blocks=tuple(blocks))


def _interval(entry: Record) -> tuple[str, ...]:
    name = entry.text("figure")
    low, value, high = (entry.maybe(key) for key in ("low", "value", "high"))
    end = "no end" if high is None and low is not None else show(high, unit_of(name))
    return (spaced(name), show(low, unit_of(name)), show(value, unit_of(name)), end)


def _causes(plan: Record) -> tuple[str, ...]:
    """What was put to its own ends, each once."""
    found = plan.records("intervals")
    return tuple(dict.fromkeys(cause for entry in found for cause in entry.texts("causes")))


def assumptions(plan: Record) -> Section:
    """What has not been said under Accuracy: assumptions, then prices."""
    said = tuple(cause.partition(":")[0] + ":" for cause in _causes(plan))
    basis = plan.text("calibration_basis")
    lines = tuple(
        line.removesuffix(f": {basis}")
        for line in plan.texts("assumptions")
        if not line.startswith((*said, "price indicative:"))
    )
    prices = tuple(
        f"price of {p.text('gpu')}: {show(p.maybe('usd_per_hour'), 'usd')} an hour"
        f"{', indicative: state your own with prices' if p.flag('indicative') else ''}"
        f"{' (' + p.text('note') + ')' if p.text('note') else ''}"
        for p in plan.records("prices")
    )
    return Section(title="Rests on", blocks=(Bullets(lines=(*lines, *prices)),))
