"""How a plan's parts are named in words: limits, layouts, drafts."""

from __future__ import annotations

import re

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
LIMITS = {
    "utilisation": "the share of its saturation that a replica may take",
    "max_gpus": "the most GPUs allowed",
    "budget_usd_per_hour": "the budget",
    "available": "the GPUs at hand",
}
"""What may bind, besides latencies."""


def spoken(text: str) -> str:
    """A text with the names of limits put in words."""
    text = re.sub(
        rf"\bbreaks ({'|'.join(LIMITS)}) by\b", lambda found: f"breaks {LIMITS[found[1]]} by", text
    )
    return re.sub(LATENCY, lambda found: f"{found[1].upper()} {found[2]}", text)


def limit_words(key: str) -> str:
    """A limit in words: "ttft_p95_seconds" is "TTFT p95"."""
    return LIMITS.get(key) or spoken(key).replace("_", " ")


def degree_words(tp: float, pp: float, ep: float, attention_dp: float) -> str:
    """Degrees of parallelism: "TP1 EP8 attention DP8"."""
    more = (("PP", pp), ("EP", ep), ("attention DP", attention_dp))
    return " ".join(
        [f"TP{tp:.0f}", *(f"{name}{degree:.0f}" for name, degree in more if degree > 1)]
    )


def layout_words(decode: float, prefill: float, degrees: str, formats: tuple[str, str]) -> str:
    """Replicas of some degrees, and the formats of weights and cache."""
    kinds = f"{prefill:.0f} prefill + {decode:.0f} decode " if prefill else f"{decode:.0f} "
    replicas = f"{kinds}replica{'s' if decode + prefill != 1 else ''} of {degrees}"
    return f"{replicas}, {formats[0]}, KV {formats[1]}"


def tokens_words(gamma: float) -> str:
    """A chain's length in words."""
    return f"{gamma:.0f} token{'s' if gamma > 1 else ''}"


def tree_words(size: float, depth: float) -> str:
    """A tree's nodes and levels in words."""
    return f"a tree of {size:.0f} nodes in {depth:.0f} levels"


def draft_words(draft: str, gamma: float, tree: tuple[float, float] | None) -> str:
    """The draft with its length, or with its tree's nodes and levels; "off" where none drafts."""
    if not gamma:
        return "off"
    shape = tree_words(*tree) if tree else tokens_words(gamma)
    return f"{draft}, {shape}"
