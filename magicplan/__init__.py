"""Roofline planning for LLM decoding: what binds a step, and does speculation pay?

import magicplan as mp
p = mp.predict(gpu="h100", model="llama-3.1-8b", batch=[1, 8, 64], ctx=[4096, 65536])
p.best.speedup          # [batch, ctx]
p.to_dict()             # the JSON of `magicplan predict --json`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicplan.errors import DoesNotFit, MagicplanError, MissingExtra, UsageError

if TYPE_CHECKING:
    from magicplan.planning.predict import predict as predict

__all__ = ["DoesNotFit", "MagicplanError", "MissingExtra", "UsageError", "__version__", "predict"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is: importing magicplan alone stays instant."""
    if name == "predict":
        from magicplan.planning.predict import predict

        return predict
    raise AttributeError(f"module 'magicplan' has no attribute {name!r}")
