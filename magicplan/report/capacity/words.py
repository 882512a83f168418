"""How a plan's parts are named in words: drafts, layouts, limits, units, intervals."""

from __future__ import annotations

import re

from magicplan.report.document.charts import Unit, show
from magicplan.report.document.figure_tables import between
from magicplan.report.document.record import Record

METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "gap between tokens",
    "e2e": "whole request",
}
STATISTICS = ("mean", "p50", "p95", "p99")
LATENCIES = tuple(f"{metric}_{statistic}_seconds" for metric in METRICS for statistic in STATISTICS)
LATENCY = rf"\b({'|'.join(METRICS)})_({'|'.join(STATISTICS)})_seconds\b"
"""A latency's field, as a pattern with its metric and its statistic."""
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
LIMITS = {
    "kv_cache": "the KV cache",
    "prefill": "prompts that queue for their prefill",
    "max_sequences": "the most requests a replica may run at once",
    "max_gpus": "the most GPUs allowed",
    "budget_usd_per_hour": "the budget",
    "available": "the GPUs at hand",
}
"""What may bind, besides latencies."""
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


def verdict(plan: Record) -> str:
    """The answer in a sentence: what to rent and what it gives, or why nothing will do; every limit
    with its prediction and the interval of that."""
    if is_mix(plan):
        mixed = plan.record("mixed")
        return (
            f"Rent a mix: {counts(mixed)} for "
            f"{show(mixed.number('cost_usd_per_hour'), 'usd')} an hour, each within every limit. "
            f"{alone(plan)}"
        )
    best = plan.record("best")
    fleet = f"{best.number('gpus'):.0f} x {best.text('gpu')} ({shape_words(best)})"
    limited = [_against(plan, key) for key in limits_of(plan) if plan.record("slo").maybe(key)]
    if not plan.flag("feasible"):
        broken = [
            (factor or float("inf"), key) for key, factor in best.record("violations").items()
        ]
        factor, key = max(broken, default=(float("inf"), best.text("binding")))
        much = f"{factor:.3g} times over" if factor < float("inf") else "out of bounds"
        gives = f" It gives {', '.join(limited)}." if limited else ""
        where = f"{much} on {limit_name(key)}{_reach(plan, key)}"
        return f"Nothing meets the limits: the nearest, {fleet}, is {where}.{gives}"
    costs = [
        (best.maybe("cost_usd_per_hour"), "{} an hour"),
        (best.maybe("usd_per_million_tokens"), "{} a million tokens"),
    ]
    said = [words.format(show(value, "usd")) for value, words in costs if value is not None]
    said += limited or [_against(plan, key) for key in limits_of(plan)]
    draft = f"speculate with {draft_words(best)}" if best.number("gamma") else "do not speculate"
    return f"Rent {fleet} and {draft}: {', '.join(said)}."


def is_mix(plan: Record) -> bool:
    """Whether several kinds of replicas are the answer."""
    return plan.text("answer", "best") == "mixed"


def alone(plan: Record) -> str:
    """The best of one kind of replica beside a mix, in a sentence."""
    best = plan.record("best")
    fleet = f"The best of one kind, {best.number('gpus'):.0f} x {best.text('gpu')}"
    broken = ", ".join(limit_name(key) for key in best.record("violations").data)
    if broken:
        return f"{fleet}, breaks a limit: {broken}."
    return f"{fleet}, costs {show(best.number('cost_usd_per_hour'), 'usd')} an hour."


def _reach(plan: Record, key: str) -> str:
    """How near anything comes to a limit that is out of reach."""
    reachable, limit = plan.maybe_record("reachable"), plan.record("slo").maybe(key)
    least = reachable.maybe(key) if reachable else None
    if limit is None or least is None or least <= limit:
        return ""
    return f", which nothing searched brings below {show(least, 'seconds')}"


def limits_of(plan: Record) -> tuple[str, ...]:
    """Latencies to see first: those with a limit, in the order of a request's life; else the usual
    two."""
    slo = plan.record("slo")
    stated = tuple(key for key in LATENCIES if slo.maybe(key) is not None)
    return stated or ("ttft_p95_seconds", "tpot_p95_seconds")


def _against(plan: Record, key: str) -> str:
    """A latency with its limit and interval."""
    limit = plan.record("slo").maybe(key)
    notes = [f"limit {show(limit, 'seconds')}"] if limit else []
    notes += [f"80 % {ends}"] if (ends := ends_of(plan, key, "seconds")) else []
    value = show(latency_of(plan.record("best"), key), "seconds")
    return f"{limit_name(key)} {value}" + (f" ({', '.join(notes)})" if notes else "")


def latency_of(candidate: Record, key: str) -> float | None:
    """Seconds of the latency that a limit's key names."""
    metric, statistic, _ = key.split("_")
    return seconds_of(candidate, metric, statistic)


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
    count, prefill = c.number("replicas"), c.number("prefill_replicas")
    kinds = f"{prefill:.0f} prefill + {count:.0f} decode " if prefill else f"{count:.0f} "
    replicas = f"{kinds}replica{'s' if count + prefill != 1 else ''} of {degrees(c)}"
    return f"{replicas}, {c.text('dtype')}, KV {c.text('kv_dtype')}"


def counts(found: Record) -> str:
    """ "3 x h100-sxm and 14 x l40s"."""
    return " and ".join(f"{count:.0f} x {gpu}" for gpu, count in found.record("gpus").items())


def degrees(c: Record) -> str:
    """Degrees of parallelism: "TP1 EP8 attention DP8"."""
    more = (("pp", "PP"), ("ep", "EP"), ("attention_dp", "attention DP"))
    found = [(name, c.maybe(key) or 1) for key, name in more]
    others = [f"{name}{degree:.0f}" for name, degree in found if degree > 1]
    return " ".join([f"TP{c.number('tp'):.0f}", *others])


def limit_name(key: str) -> str:
    """A limit in words: "ttft_p95_seconds" is "TTFT p95"."""
    return LIMITS.get(key) or spaced(key)


def spoken(text: str) -> str:
    """A text with the names of limits put in words."""
    text = re.sub(
        rf"\bbreaks ({'|'.join(LIMITS)}) by\b", lambda found: f"breaks {LIMITS[found[1]]} by", text
    )
    return re.sub(LATENCY, lambda found: f"{found[1].upper()} {found[2]}", text)


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
    """The same as a note."""
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
