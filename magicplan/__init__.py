"""Roofline planning for LLM decoding: what binds a step, and does speculation pay?

import magicplan as mp
p = mp.predict(gpu="h100", model="llama-3.1-8b", batch=[1, 8, 64], ctx=[4096, 65536])
p.best.speedup          # [batch, ctx]
p.to_dict()             # the JSON of `magicplan predict --json`

mp.drafts(gpu="h100", batch=32, ctx=32768).plans                # every draft, best first
mp.trees(gpu="h100", batch=[1, 8], ctx=[4096, 65536]).points    # the best tree of every cell
mp.choose(gpu="h100", batch=[1, 8], ctx=[4096, 65536]).cells    # the best of all of them

f = mp.plan(model="llama-3.1-70b", requests_per_s=5, prompt=8192, output=400,
            slo={"ttft_p95_seconds": 3.0, "tpot_p95_seconds": 0.05})
f.best.name, f.best.usd_per_million_tokens, f.feasible

seen = mp.plan("plan.toml", observed="bench.json").observed     # a plan file beside a benchmark run
seen.figures, seen.advice, seen.calibration_toml                # errors; what to change; the fit
mp.with_observed(f, "bench.json", {"prompt": 1024})             # the same for a plan at hand

mp.bench(gpu="h100", concurrency=32, prompt=1024, output=256).figures["p95_ttft_ms"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from magicplan.errors import DoesNotFit, MagicplanError, MissingExtra, UsageError

if TYPE_CHECKING:
    from magicplan.observed.beside_plan import plan as plan
    from magicplan.observed.beside_plan import with_observed as with_observed
    from magicplan.planning.mixed_fleet import mixed_fleet as mixed_fleet
    from magicplan.planning.question import read_plan as read_plan
    from magicplan.prediction.adaptive_trees import trees as trees
    from magicplan.prediction.choose import choose as choose
    from magicplan.prediction.compare_drafts import drafts as drafts
    from magicplan.prediction.predict import predict as predict
    from magicplan.serving.bench import bench as bench

__all__ = [
    "DoesNotFit", "MagicplanError", "MissingExtra", "UsageError", "__version__", "bench", "choose",
    "drafts", "mixed_fleet", "plan", "predict", "read_plan", "trees", "with_observed",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "bench": "serving.bench", "choose": "prediction.choose",
    "drafts": "prediction.compare_drafts",
    "mixed_fleet": "planning.mixed_fleet", "plan": "observed.beside_plan",
    "predict": "prediction.predict", "read_plan": "planning.question",
    "trees": "prediction.adaptive_trees", "with_observed": "observed.beside_plan",
}  # fmt: skip


_RESULTS = {
    "choose": "prediction.choose.Choice", "drafts": "prediction.compare_drafts.Comparison",
    "mixed_fleet": "planning.result.MixedFleet", "plan": "planning.result.Plan",
    "predict": "prediction.result.Prediction", "trees": "prediction.adaptive_trees.TreePlan",
    "with_observed": "planning.result.Plan",
}  # fmt: skip
"""What each of them returns, which a notebook shows as its page."""


def _repr_html_(answer: Any) -> str:
    """An answer as a notebook shows it. Rooms below know no report, so it is hung on from here."""
    from magicplan.report.document.notebook import fragment
    from magicplan.report.pages import page_of

    return fragment(page_of(answer.to_dict(), type(answer).__name__))


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is: importing magicplan alone stays instant."""
    if name in _HOMES:
        if name in _RESULTS:
            room, _, result = _RESULTS[name].rpartition(".")
            getattr(import_module(f"magicplan.{room}"), result)._repr_html_ = _repr_html_
        return getattr(import_module(f"magicplan.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'magicplan' has no attribute {name!r}")
