"""How a plan's parts are named in words: drafts, layouts, limits, units, intervals."""

from __future__ import annotations

import re

from magicplan.planning import words
from magicplan.planning.words import LATENCIES, LATENCY, LIMITS, spoken
from magicplan.report.document.record import Record
from magicplan.units import Unit, between, show

ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
FIGURES = {
    "gpus": "GPUs",
    "cost_usd_per_hour": "cost an hour",
    "usd_per_million_tokens": "cost of 1M output tokens",
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "output tokens/s",
    "tokens_per_s": "output tokens/s",
    "tokens_per_s_per_gpu": "output tokens/s a GPU",
    "energy_joules_per_token": "energy, J a token",
    "capacity_requests_per_s": "requests/s within the limits",
    "batch_per_replica": "requests decoding on a replica",
    "step_seconds": "a step at the planned load",
    "decode_step_seconds": "a plain decode step",
    "tokens_per_round": "tokens a round",
}


def is_mix(plan: Record) -> bool:
    """Whether several kinds of replicas are the answer."""
    return plan.text("answer", "best") == "mixed"


def limits_of(plan: Record) -> tuple[str, ...]:
    """Latencies to see first: those with a limit, in the order of a request's life; else the usual
    two."""
    slo = plan.record("slo")
    stated = tuple(key for key in LATENCIES if slo.maybe(key) is not None)
    return stated or ("ttft_p95_seconds", "tpot_p95_seconds")


def latency_of(candidate: Record, key: str) -> float | None:
    """Seconds of the latency that a limit's key names."""
    metric, statistic, _ = key.split("_")
    return seconds_of(candidate, metric, statistic)


def seconds_of(candidate: Record, metric: str, statistic: str) -> float | None:
    """Seconds of a latency; None where a queue without end has none."""
    return candidate.record("latency").record(metric).maybe(f"{statistic}_seconds")


def draft_words(c: Record) -> str:
    """The draft and its length or its tree, or that there is none."""
    tree = c.maybe_record("tree")
    shape = (tree.number("size"), tree.number("depth")) if tree else None
    return words.draft_words(c.text("draft"), c.number("gamma"), shape)


def shape_words(c: Record) -> str:
    """How the GPUs are laid out, in words."""
    counted = (c.number("replicas"), c.number("prefill_replicas"))
    return words.layout_words(*counted, degrees(c), (c.text("dtype"), c.text("kv_dtype")))


def counts(found: Record) -> str:
    """ "3 x h100-sxm and 14 x l40s"."""
    return " and ".join(f"{count:.0f} x {gpu}" for gpu, count in found.record("gpus").items())


def degrees(c: Record) -> str:
    """Degrees of parallelism: "TP1 EP8 attention DP8"."""
    more = (c.maybe(key) or 1 for key in ("pp", "ep", "attention_dp"))
    return words.degree_words(c.number("tp"), *more)


def limit_name(key: str) -> str:
    """A limit in words: "ttft_p95_seconds" is "TTFT p95"."""
    return LIMITS.get(key) or spaced(key)


def limits_spoken(text: str) -> str:
    """A text with what a plan file says of limits, `slo.ttft_p95_seconds 2`, put in words, and its
    seconds in their unit."""
    text = re.sub(
        rf"\bslo\.{LATENCY} ([\d.e+-]+)",
        lambda found: f"the limit of {found[3]} s on {found[1].upper()} {found[2]}",
        text,
    )
    seconds = r"(\d[\d.]*(?:e[+-]?\d+)?) s\b"
    return spoken(re.sub(seconds, lambda found: show(float(found[1]), "seconds"), text))


def unit_of(name: str) -> Unit:
    """The unit that a field's name ends in."""
    if "usd" in name:
        return "usd"
    for ending in ("seconds", "bytes", "tokens"):
        if name.endswith(ending):
            return ending
    if name in ("headroom", "utilisation"):
        return "share"
    return "ratio" if name == "speedup" else "count"


def unit_called(name: str) -> Unit:
    return {"s": "seconds", "seconds": "seconds", "B": "bytes", "bytes": "bytes"}.get(name, "count")  # type: ignore[return-value]


def interval_of(plan: Record, figure: str) -> tuple[float, float, float | None] | None:
    """Low, value and high of a figure over all that makes it uncertain; None where nothing says.
    A high end of None has no end."""
    found = [e for e in plan.records("intervals") if e.text("figure") == figure]
    if not found or any(e.maybe("value") is None or e.maybe("low") is None for e in found):
        return None
    highs = [e.maybe("high") for e in found]
    high = None if None in highs else max(h for h in highs if h is not None)
    return min(e.number("low") for e in found), found[0].number("value"), high


def ends_of(plan: Record, figure: str, unit: Unit) -> str:
    """ "low to high" of a figure in its unit; empty where no interval is known, or where it has no
    width."""
    found = interval_of(plan, figure)
    return between(found[0], found[2], unit) if found and found[0] != found[2] else ""


def ends_words(plan: Record, figure: str, unit: Unit) -> str:
    """The interval of a figure as a note: "80 %: low to high"."""
    ends = ends_of(plan, figure, unit)
    return f"80 %: {ends}" if ends else ""


def range_sentence(plan: Record, figure: str, what: str) -> str:
    """One sentence on the interval of a figure; what it rests on has a section of its own."""
    found = interval_of(plan, figure)
    if found and found[1] > 0:
        low, value, high = found
        up = "without end" if high is None else f"{100 * (high / value - 1):+.0f} %"
        return f"80 % interval of {what}: {100 * (low / value - 1):+.0f} to {up}, see Accuracy."
    return f"No interval of {what} is known, see Accuracy."


def spaced(name: str) -> str:
    """A field's name in words."""
    return FIGURES.get(name) or spoken(name).replace("_", " ")
