"""The answer of a plan in sentences: what to rent, and what to do about limits that it breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from magicplan.planning.request import SLO_KEYS, PlanRequest
from magicplan.planning.result import Candidate, Interval
from magicplan.planning.words import (
    LATENCIES,
    degree_words,
    draft_words,
    layout_words,
    limit_words,
)
from magicplan.units import between, show

USUAL = ("ttft_p95_seconds", "tpot_p95_seconds")
"""Latencies that are said where no limit is stated."""


def plan_verdict(
    best: Candidate,
    slo: Mapping[str, float],
    sure: Sequence[Interval],
    reachable: Mapping[str, float],
) -> str:
    """What to rent and what it gives, or why nothing will do: every limit with its prediction and
    the interval of that. `reachable` is the lowest figure of anything searched, by limit."""
    fleet = f"{best.gpus} x {best.gpu} ({_layout(best)})"
    keys = [key for key in LATENCIES if key in slo]
    limited = [_against(best, slo, sure, key) for key in keys]
    if not best.meets:
        key = max(best.violations, key=best.violations.__getitem__, default=best.binding)
        factor = best.violations.get(key) or math.inf
        much = f"{factor:.3g} times over" if factor < math.inf else "out of bounds"
        gives = f" It gives {', '.join(limited)}." if limited else ""
        where = f"{much} on {limit_words(key)}{_reach(slo, reachable, key)}"
        return f"Nothing meets the limits: the nearest, {fleet}, is {where}.{gives}"
    costs = [
        (best.cost_usd_per_hour, "{} an hour"),
        (best.usd_per_million_tokens, "{} a million tokens"),
    ]
    said = [words.format(show(cost, "usd")) for cost, words in costs if math.isfinite(cost)]
    said = said or ["at no known price"]
    said += limited or [_against(best, slo, sure, key) for key in USUAL]
    tree = (best.tree.size, best.tree.depth) if best.tree else None
    drafted = draft_words(best.draft, best.gamma, tree)
    draft = f"speculate with {drafted}" if best.gamma else "do not speculate"
    return f"Rent {fleet} and {draft}: {', '.join(said)}."


def fleet_verdict(gpus: Mapping[str, int], cost_usd_per_hour: float) -> str:
    """The mix of GPUs to rent for several workloads."""
    return f"Rent {count_words(gpus)} for {show(cost_usd_per_hour, 'usd')} an hour."


def mix_verdict(gpus: Mapping[str, int], cost_usd_per_hour: float, best: Candidate) -> str:
    """The mix of GPUs to rent for one workload, beside the best of one kind."""
    mix = f"{count_words(gpus)} for {show(cost_usd_per_hour, 'usd')} an hour"
    return f"Rent a mix: {mix}, each within every limit. {alone_sentence(best)}"


def alone_sentence(best: Candidate) -> str:
    """The best of one kind of replica beside a mix."""
    fleet = f"The best of one kind, {best.gpus} x {best.gpu}"
    if best.violations:
        return f"{fleet}, breaks a limit: {', '.join(map(limit_words, best.violations))}."
    return f"{fleet}, costs {show(best.cost_usd_per_hour, 'usd')} an hour."


def count_words(gpus: Mapping[str, int]) -> str:
    """GPUs by type: "3 x h100-sxm and 14 x l40s"."""
    return " and ".join(f"{count} x {gpu}" for gpu, count in gpus.items())


def _layout(c: Candidate) -> str:
    degrees = degree_words(c.tp, c.pp, c.ep, c.attention_dp)
    return layout_words(c.replicas, c.prefill_replicas, degrees, (c.dtype, c.kv_dtype))


def _against(best: Candidate, slo: Mapping[str, float], sure: Sequence[Interval], key: str) -> str:
    """A latency with its limit and its interval."""
    metric, statistic, _ = key.split("_")
    value = getattr(getattr(best.latency, metric), f"{statistic}_seconds")
    notes = [f"limit {show(slo[key], 'seconds')}"] if key in slo else []
    notes += [f"80 % {ends}"] if (ends := _ends(sure, key)) else []
    shown = show(value if math.isfinite(value) else None, "seconds")
    return f"{limit_words(key)} {shown}" + (f" ({', '.join(notes)})" if notes else "")


def _ends(sure: Sequence[Interval], key: str) -> str:
    """The interval of a figure in seconds; empty where none is known or where it has no width."""
    found = [entry for entry in sure if entry.figure == key]
    if not found or not all(math.isfinite(e.value) and math.isfinite(e.low) for e in found):
        return ""
    low, high = min(e.low for e in found), max(e.high for e in found)
    if low == high:
        return ""
    return between(low, high if math.isfinite(high) else None, "seconds")


def _reach(slo: Mapping[str, float], reachable: Mapping[str, float], key: str) -> str:
    """How near anything searched comes to a limit that is out of reach."""
    limit, least = slo.get(key), reachable.get(key)
    if limit is None or least is None or not math.isfinite(least) or least <= limit:
        return ""
    return f", which nothing searched brings below {show(least, 'seconds')}"


REMEDIES = {
    "ttft": "allow faster gpus or a larger tp, shorten prompts, or raise prefix_hit_rate",
    "tpot": "allow a larger tp, narrower dtypes and kv_dtypes, or a draft",
    "itl": 'lower batched_tokens, allow disaggregation, or plan with drafts = ["none"], whose gaps '
    "are even",
    "e2e": "allow a larger tp, narrower dtypes or a draft, or shorten outputs",
}
"""What makes even an idle replica faster, by metric, in the names of a plan file."""


def advice(ask: PlanRequest, best: Candidate, sure: Sequence[Interval]) -> tuple[str, ...]:
    """A sentence a limit, under the key that states it: `slo.ttft_p95_seconds`, `max_gpus`."""
    return tuple(_sentences(ask, best, {entry.figure: entry for entry in sure}))


def _sentences(ask: PlanRequest, best: Candidate, of: Mapping[str, Interval]) -> Iterator[str]:
    for key, limit in ask.slo.items():
        value, high = of[key].value, of[key].high
        reaches = "has no end" if math.isinf(high) else f"reaches {high:.3g} s"
        if key in best.violations:
            yield (
                f"slo.{key} {limit:g} is broken {best.violations[key]:.3g} times over: raise it to "
                f"{value:.3g} s, or {REMEDIES[key.partition('_')[0]]}"
            )
        elif high > limit:
            yield (
                f"slo.{key} {limit:g} is kept by {1 - value / limit:.0%}, but its 80 % interval "
                f"{reaches}: {_safe(of.get('gpus'))}"
            )
    for key, factor in best.violations.items():
        if key not in SLO_KEYS:
            asked = getattr(ask.money, key, None)
            stated = f" {asked:g}" if isinstance(asked, int | float) else ""
            yield f"{key}{stated} is passed {factor:.3g} times over: raise it, or loosen a limit"


def _safe(gpus: Interval | None) -> str:
    if gpus is None or math.isinf(gpus.high):
        return "no number of these replicas keeps every limit at its far end"
    if gpus.high == gpus.value:
        return "replicas chosen anew keep it with no more GPUs"
    return f"{gpus.high:.0f} GPUs in place of {gpus.value:.0f} keep every limit at its far end"
