"""Roofline planning for LLM decoding: what binds a step, and does speculation pay?

import magicplan as mp
p = mp.predict(gpu="h100", model="llama-3.1-8b", batch=[1, 8, 64], ctx=[4096, 65536])
p.best.speedup          # [batch, ctx]
p.to_dict()             # the JSON of `magicplan predict --json`

f = mp.plan(model="llama-3.1-70b", requests_per_s=5, prompt=8192, output=400,
            slo={"ttft_p95_seconds": 3.0, "tpot_p95_seconds": 0.05})
f.best.name, f.best.usd_per_million_tokens, f.feasible
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicplan.errors import DoesNotFit, MagicplanError, MissingExtra, UsageError

if TYPE_CHECKING:
    from magicplan.planning.plan import plan as plan
    from magicplan.planning.predict import predict as predict

__all__ = [
    "DoesNotFit", "MagicplanError", "MissingExtra", "UsageError", "__version__", "plan", "predict",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is: importing magicplan alone stays instant."""
    if name == "predict":
        from magicplan.planning.predict import predict

        return predict
    if name == "plan":
        from magicplan.planning.plan import plan

        return plan
    raise AttributeError(f"module 'magicplan' has no attribute {name!r}")
