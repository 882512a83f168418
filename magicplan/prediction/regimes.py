"""What binds a plain step, and the best draft length of four kinds of drafter, over a grid.

One user rightly raises the draft length with context and another rightly lowers it: a drafter whose
KV cache stays constant gets cheaper beside a growing step, one whose cache grows does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.prediction.choice.candidates import family_drafts
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.roofline.layers.costs import LayerCost, layer_costs

GROWTH = {"constant": "constant KV", "growing": "growing KV", "none": "no KV"}
"""How a drafter's KV cache grows with context."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regimes:
    """A grid of predictions for each way in which a drafter's KV cache grows."""

    maps: tuple[Prediction, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan regimes`: predictions, each with its drafter."""
        documents = [p.to_dict() | {"drafter": drafter(p)} for p in self.maps]
        verdict = {"text": self.verdict}
        return {
            "schema": "magicplan.regimes/1",
            "verdict": verdict,
            "predictions": documents,
            "layers": [
                {
                    "kind": cost.kind,
                    "layers": cost.layers,
                    "turns_at": cost.turn,
                    "turns_at_unit": cost.turn_unit,
                    "verify_of_5_over_step": float(np.max(cost.verify_over_step)),
                }
                for cost in self.layers
            ],
        }

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """Every kind of layer of the model at the grid's first batch and last context."""
        p = self.maps[0]
        layout = p.scene.layout
        tp, pp, replicas = (float(np.max(n)) for n in (layout.tp, layout.pp, layout.replicas))
        one = replace(layout, tp=tp, pp=pp, replicas=replicas)
        batch = float(np.min(p.scene.batch)) / one.pp / one.attention_dp
        ctx, weights = float(np.max(p.scene.ctx)), float(np.min(p.baseline.weight_bytes))
        return layer_costs(p.scene.target, one, max(batch, 1.0), ctx, 5.0, weights)

    @property
    def verdict(self) -> str:
        """The highest speedup of each drafter on the grid."""
        tops = [f"{drafter(p)} {np.nanmax(p.best.speedup, initial=1.0):.2f}x" for p in self.maps]
        return f"The highest speedups on this grid: {', '.join(tops)}."


def drafter(p: Prediction) -> str:
    """The drafter of a map and how its KV cache grows."""
    draft = p.resolved.draft
    return "none" if draft is None else f"{draft.name} ({GROWTH[draft.kv_growth]})"


def regimes(request: Request) -> Regimes:
    """A grid of predictions for each kind of drafter. Raises UsageError, DoesNotFit."""
    drafts = family_drafts(request.model)
    maps = tuple(answer(resolve(replace(request, **draft))) for draft in drafts)  # type: ignore[arg-type]
    return Regimes(maps=maps)
