"""How a plan's parts are named in words: drafts, layouts, limits, units, intervals."""

from __future__ import annotations

from magicplan.report.charts import Unit, show
from magicplan.report.record import Record

METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "gap between tokens",
    "e2e": "whole request",
}
STATISTICS = ("mean", "p50", "p95", "p99")


def draft_words(c: Record) -> str:
    gamma = c.number("gamma")
    return f"{c.text('draft')}, {gamma:.0f} tokens" if gamma else "off"


def shape_words(c: Record) -> str:
    """How the GPUs are laid out, in words."""
    degrees = [f"TP{c.number('tp'):.0f}"]
    for key, name in (("pp", "PP"), ("ep", "EP"), ("attention_dp", "attention DP")):
        degrees += [f"{name}{c.number(key):.0f}"] if c.number(key) > 1 else []
    count, prefill = c.number("replicas"), c.number("prefill_replicas")
    replicas = f"{count:.0f} replica{'s' if count != 1 else ''} of {' '.join(degrees)}"
    replicas += f" that decode, {prefill:.0f} that prefill" if prefill else ""
    return f"{replicas}, {c.text('dtype')}, KV {c.text('kv_dtype')}"


def limit_name(key: str) -> str:
    """ "ttft_p95_seconds" -> "TTFT p95"; other names as they are, in words."""
    parts = key.removesuffix("_seconds").split("_")
    if len(parts) == 2 and parts[0] in METRICS:
        return f"{parts[0].upper()} {parts[1]}"
    return " ".join(parts)


def unit_of(name: str) -> Unit:
    """The unit that a field's name ends in."""
    if "usd" in name:
        return "usd"
    for ending in ("seconds", "bytes", "tokens"):
        if name.endswith(ending):
            return ending
    return "ratio" if name == "speedup" else "count"


def ends_words(plan: Record, figure: str, unit: Unit) -> str:
    for entry in plan.records("intervals"):
        if entry.text("figure") == figure:
            ends = show(entry.maybe("low"), unit), show(entry.maybe("high"), unit)
            return f"80 %: {ends[0]} to {ends[1]}"
    return ""


def range_sentence(plan: Record, figure: str, what: str) -> str:
    """One sentence on the interval of a figure: its size and what it rests on."""
    for entry in plan.records("intervals"):
        if entry.text("figure") == figure and entry.maybe("value"):
            ends = [100 * (entry.number(e) / entry.number("value") - 1) for e in ("low", "high")]
            basis = entry.text("basis")
            return f"80 % interval of {what}: {ends[0]:+.0f} to {ends[1]:+.0f} % ({basis})."
    return f"No interval of {what} is known: {plan.text('calibration_basis')}."


def unit_called(name: str) -> Unit:
    return {"s": "seconds", "seconds": "seconds", "B": "bytes", "bytes": "bytes"}.get(name, "count")  # type: ignore[return-value]
