"""What to do about limits that a plan breaks, or keeps only if the prediction is right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from magicplan.planning.request import SLO_KEYS, PlanRequest
from magicplan.planning.result import Candidate, Interval

REMEDIES = {
    "ttft": "allow faster gpus or a larger tp, shorten prompts, or raise prefix_hit_rate",
    "tpot": "allow a larger tp, narrower dtypes and kv_dtypes, or a draft",
    "itl": 'lower batched_tokens, allow disaggregation, or plan with drafts = ["none"], whose gaps '
    "are even",
    "e2e": "allow a larger tp, narrower dtypes or a draft, or shorten outputs",
}
"""By metric: what makes even an idle replica faster, in the names of a plan file."""


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
