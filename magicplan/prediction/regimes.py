"""What binds a plain step, and the best draft length of four kinds of drafter, over a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.prediction.candidates import family_drafts
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import compute_seconds, memory_seconds

FINE = 48
"""Points an axis of the background that a picture shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegimeMap:
    """One drafter: the cells asked for, and the same on a fine grid between their ends."""

    cells: Prediction
    fine: Prediction

    @property
    def kv_over_weights(self) -> Array:
        """ln of KV bytes over weight bytes of a plain step, on the fine grid."""
        kv = sum(op.count * op.kv_bytes for op in self.fine.ops)
        weights = sum(op.count * op.weight_bytes for op in self.fine.ops)
        return self._log(kv / weights)

    @property
    def compute_over_memory(self) -> Array:
        """ln of compute over memory time of a plain step's linear layers, on the fine grid."""
        machine = self.fine.resolved.machine
        linear = [op for op in self.fine.ops if op.kind == "linear"]
        computing = sum(op.count * compute_seconds(op, machine) for op in linear)
        return self._log(computing / sum(op.count * memory_seconds(op, machine) for op in linear))

    def _log(self, ratio: Any) -> Array:
        return np.asarray(np.broadcast_to(np.log(ratio), self.fine.placement.fits.shape))


def regime_maps(request: Request) -> list[RegimeMap]:
    """A map for each way in which a drafter's KV cache grows."""
    fine = replace(request, batch=_between(request.batch), ctx=_between(request.ctx))
    return [
        RegimeMap(
            cells=answer(resolve(replace(request, **choice))),  # type: ignore[arg-type]
            fine=answer(resolve(replace(fine, **choice))),  # type: ignore[arg-type]
        )
        for choice in family_drafts(request.model)
    ]


def _between(values: Any) -> list[int]:
    """Whole numbers from the least to the largest, evenly in their logarithm."""
    low, high = float(np.min(values)), float(np.max(values))
    return sorted({int(v) for v in np.rint(np.geomspace(low, high, FINE))})
