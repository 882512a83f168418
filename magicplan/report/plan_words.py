"""How a plan's parts are named in words: drafts, layouts, limits, units, intervals."""

from __future__ import annotations

import re

from magicplan.report.charts import Unit, show
from magicplan.report.record import Record

METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "gap between tokens",
    "e2e": "whole request",
}
STATISTICS = ("mean", "p50", "p95", "p99")
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
LIMITS = {
    "kv_cache": "the KV cache",
    "prefill": "prompts that queue for their prefill",
    "max_sequences": "the most requests a replica may run at once",
    "max_gpus": "the most GPUs allowed",
    "budget_usd_per_hour": "the budget",
}
"""What may bind, besides latencies."""
FIGURES = {
    "gpus": "GPUs",
    "cost_usd_per_hour": "cost an hour",
    "usd_per_million_tokens": "cost of 1M output tokens",
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "output tokens/s",
}


def verdict(plan: Record) -> str:
    """The answer in a sentence: what to rent and what it gives, or why nothing will do."""
    best = plan.record("best")
    fleet = f"{best.number('gpus'):.0f} x {best.text('gpu')} ({shape_words(best)})"
    if not plan.flag("feasible"):
        broken = [
            (factor or float("inf"), key) for key, factor in best.record("violations").items()
        ]
        factor, key = max(broken, default=(float("inf"), best.text("binding")))
        much = f"{factor:.3g} times over" if factor < float("inf") else "out of bounds"
        return f"Nothing meets the limits: the nearest, {fleet}, is {much} on {limit_name(key)}."
    gives = [
        (best.maybe("cost_usd_per_hour"), "usd", "{} an hour"),
        (best.maybe("usd_per_million_tokens"), "usd", "{} a million tokens"),
        (seconds_of(best, "ttft", "p95"), "seconds", "TTFT p95 {}"),
        (seconds_of(best, "tpot", "p95"), "seconds", "TPOT p95 {}"),
    ]
    said = [words.format(show(value, unit)) for value, unit, words in gives if value is not None]  # type: ignore[arg-type]
    draft = f"speculate with {draft_words(best)}" if best.number("gamma") else "do not speculate"
    return f"Rent {fleet} and {draft}: {', '.join(said)}."


def seconds_of(candidate: Record, metric: str, statistic: str) -> float | None:
    """Seconds of a latency; None where a queue without end has none."""
    return candidate.record("latency").record(metric).maybe(f"{statistic}_seconds")


def draft_words(c: Record) -> str:
    """The draft and its length or its tree, or that there is none."""
    gamma = c.number("gamma")
    if not gamma:
        return "off"
    tree = c.maybe_record("tree")
    return f"{c.text('draft')}, {tree_words(tree) if tree else tokens_words(gamma)}"


def tokens_words(gamma: float) -> str:
    """A chain's length in words."""
    return f"{gamma:.0f} token{'s' if gamma > 1 else ''}"


def tree_words(tree: Record) -> str:
    """A tree's size in words."""
    return f"a tree of {tree.number('size'):.0f} nodes in {tree.number('depth'):.0f} levels"


def shape_words(c: Record) -> str:
    """How the GPUs are laid out, in words."""
    degrees = [f"TP{c.number('tp'):.0f}"]
    for key, name in (("pp", "PP"), ("ep", "EP"), ("attention_dp", "attention DP")):
        degrees += [f"{name}{c.number(key):.0f}"] if c.number(key) > 1 else []
    count, prefill = c.number("replicas"), c.number("prefill_replicas")
    kinds = f"{prefill:.0f} prefill + {count:.0f} decode " if prefill else f"{count:.0f} "
    replicas = f"{kinds}replica{'s' if count + prefill != 1 else ''} of {' '.join(degrees)}"
    return f"{replicas}, {c.text('dtype')}, KV {c.text('kv_dtype')}"


def limit_name(key: str) -> str:
    """A limit in words: "ttft_p95_seconds" is "TTFT p95"."""
    return LIMITS.get(key) or spaced(key)


def spoken(text: str) -> str:
    """A text with the names of latency limits put in words."""
    pattern = rf"\b({'|'.join(METRICS)})_({'|'.join(STATISTICS)})_seconds\b"
    return re.sub(pattern, lambda found: f"{found[1].upper()} {found[2]}", text)


def unit_of(name: str) -> Unit:
    """The unit that a field's name ends in."""
    if "usd" in name:
        return "usd"
    for ending in ("seconds", "bytes", "tokens"):
        if name.endswith(ending):
            return ending
    return "ratio" if name == "speedup" else "count"


def unit_called(name: str) -> Unit:
    return {"s": "seconds", "seconds": "seconds", "B": "bytes", "bytes": "bytes"}.get(name, "count")  # type: ignore[return-value]


def interval_of(plan: Record, figure: str) -> tuple[float, float, float] | None:
    """Low, value and high of a figure over all that makes it uncertain; None where nothing says.

    A step's interval is that of the time per token, which scales with it.
    """
    names = (figure, "tpot_p95_seconds") if figure == "step_seconds" else (figure,)
    for name in names:
        found = [e for e in plan.records("intervals") if e.text("figure") == name]
        if found and all(e.maybe("value") for e in found):
            low, high = (min(e.number("low") for e in found), max(e.number("high") for e in found))
            return low, found[0].number("value"), high
    return None


def ends_words(plan: Record, figure: str, unit: Unit) -> str:
    """The interval of a figure in its unit; empty where none is known."""
    found = interval_of(plan, figure)
    return f"80 %: {show(found[0], unit)} to {show(found[2], unit)}" if found else ""


def range_sentence(plan: Record, figure: str, what: str) -> str:
    """One sentence on the interval of a figure; what it rests on has a section of its own."""
    found = interval_of(plan, figure)
    if found:
        low, value, high = found
        ends = f"{100 * (low / value - 1):+.0f} to {100 * (high / value - 1):+.0f} %"
        return f"80 % interval of {what}: {ends}, see Accuracy."
    if figure == "speedup":
        return "Its interval is that of the acceptance, see Rests on."
    return f"No interval of {what} is known, see Accuracy."


def spaced(name: str) -> str:
    """A field's name in words."""
    return FIGURES.get(name) or spoken(name).replace("_", " ")
