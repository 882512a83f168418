"""Every draft on one workload, chains and trees, best first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import at_the_limit, tree_basis
from magicplan.prediction.choice.candidates import LeftOut
from magicplan.prediction.choice.contenders import COMPARED_ON, alternative_of, contest
from magicplan.prediction.choice.ways import Plan, plan_of
from magicplan.prediction.placement import Placement
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.verdict import Verdict, at_words, better_elsewhere, drafts_verdict
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import rounds
from magicplan.roofline.tree_grid import Limits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All plans, those that can be launched first, and what was left out with the reason."""

    resolved: Resolved
    placement: Placement
    step_seconds: float
    tokens_per_s: float
    plans: tuple[Plan, ...]
    alternative: Plan | None
    """The fastest that exists for the target and that another stack runs, not this one."""
    left_out: tuple[LeftOut, ...]
    assumptions: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether to speculate, by the first of those that can be launched."""
        ask = self.resolved
        first = next((plan for plan in self.plans if plan.launchable), None)
        text = better_elsewhere(self.alternative, first, ask.request.stack)
        return drafts_verdict(first, self.where, text)

    @property
    def where(self) -> str:
        """The stack and the context in words."""
        ask = self.resolved
        return at_words(ask.request.stack, float(ask.final_ctx[0, 0] - ask.request.output))

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan drafts`."""
        names = [n for n in Plan.__dataclass_fields__ if n != "tree"]
        ask = self.resolved
        return {
            "schema": "magicplan.drafts/1",
            "accelerator": ask.machine.accelerator.name,
            "model": ask.model.name,
            "gpus": int(np.max(self.placement.layout.gpus)),
            "batch": int(ask.batch[0, 0]),
            "ctx_tokens": int(ask.final_ctx[0, 0] - ask.request.output),
            "stack": ask.request.stack,
            "verdict": self.verdict.to_dict(),
            "step_seconds": self.step_seconds,
            "tokens_per_s": self.tokens_per_s,
            "plans": [
                {name: getattr(p, name) for name in names}
                | {"gamma": p.gamma, "size": p.tree.size, "depth": p.tree.depth}
                | {"parents": list(p.tree.parents)}
                for p in self.plans
            ],
            "left_out": [{"method": e.method, "reason": e.reason} for e in self.left_out],
            "assumptions": list(self.assumptions),
        }


def compare(request: Request, *, max_size: int = 64, max_depth: int = 12) -> Comparison:
    """Every draft of the catalogue on one workload, those that can be launched first (`contest`).

    Raises UsageError for a grid, or where the workload does not fit.
    """
    if np.ndim(request.batch) or np.ndim(request.ctx):
        raise UsageError("drafts compares on one workload; use sweep or tree for a grid")
    found = contest(request, limits=Limits(size=max_size, depth=max_depth))
    ask, scene = found.ask, found.scene
    ways = sorted(found.ways, key=lambda way: -float(way.score[0, 0]))
    plans = tuple(plan_of(way, found.placement) for way in ways)
    other = alternative_of(found.ways, (0, 0))
    step = float(rounds(scene, None, ask.acceptance, 0).round_seconds[0, 0, 0])
    return Comparison(
        resolved=replace(ask, request=request),
        placement=found.placement,
        step_seconds=step,
        tokens_per_s=float(ask.batch[0, 0]) / step,
        plans=plans,
        alternative=plan_of(other, found.placement) if other else None,
        left_out=found.left_out,
        assumptions=(
            *ask.notes,
            *tree_basis(ask),
            COMPARED_ON,
            *notes_of(one.draft for one in found.contenders),
            *at_the_limit(
                max((p.tree.size for p in plans if p.kind == "tree"), default=1), max_size
            ),
        ),
    )


def notes_of(drafts: Iterable[Draft]) -> tuple[str, ...]:
    """What the costs of these drafts leave out, each once."""
    return tuple(dict.fromkeys(draft.note for draft in drafts if draft.note))


def drafts(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Comparison:
    """Every draft of the catalogue on one workload, chains and trees, best first.

    Takes the fields of `Request`. Raises UsageError, DoesNotFit.
    """
    return compare(request(gpu, options), max_size=max_size, max_depth=max_depth)
