"""Every draft on one workload, chains and trees, best first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import at_the_limit, tree_basis
from magicplan.prediction.candidates import LeftOut, candidate_drafts
from magicplan.prediction.draft_names import acceptance_for
from magicplan.prediction.placement import Placement, held_by, most_nodes, place, scene_of
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import MAX_GAMMA, Resolved, resolve
from magicplan.prediction.verdict import Verdict, drafts_verdict
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import Scene, rounds
from magicplan.roofline.tree_grid import Limits, tree_cells
from magicplan.roofline.trees import Tree


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One way to speculate on one workload: a chain (`tree` is one too) or a tree."""

    draft: str
    kv_growth: str
    kind: str
    tree: Tree
    tokens_per_round: float
    draft_seconds: float
    verify_seconds: float
    round_seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float
    draft_bytes: float
    max_batch: int
    acceptance: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All plans, best first, and what was left out with the reason."""

    resolved: Resolved
    placement: Placement
    step_seconds: float
    tokens_per_s: float
    plans: tuple[Plan, ...]
    left_out: tuple[LeftOut, ...]
    assumptions: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether to speculate, by the fastest of all plans."""
        if not self.plans:
            return drafts_verdict(None, "", None)
        best = self.plans[0]
        if best.kind == "chain":
            return drafts_verdict(best, f"gamma {best.tree.size - 1}", best.tree.size - 1)
        shape = f"a tree of {best.tree.size} nodes in {best.tree.depth} levels"
        return drafts_verdict(best, shape, None)

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
                | {"gamma": p.tree.size - 1 if p.kind == "chain" else None}
                | {"size": p.tree.size, "depth": p.tree.depth, "parents": list(p.tree.parents)}
                for p in self.plans
            ],
            "left_out": [{"method": e.method, "reason": e.reason} for e in self.left_out],
            "assumptions": list(self.assumptions),
        }


def compare(request: Request, *, max_size: int = 64, max_depth: int = 12) -> Comparison:
    """Every draft of the catalogue on one workload, on the GPUs that hold the target drafting for
    itself over its own cache.

    A draft that the same GPUs do not hold as well is left out, and so is one without acceptance
    data. Raises UsageError for a grid, or where the workload does not fit.
    """
    ask = resolve_for_all(request, max_size)
    if not ask.scalar:
        raise UsageError("drafts compares on one workload; use sweep or tree for a grid")
    placement = place(ask)
    scene = scene_of(ask, placement)
    limits = Limits(size=max_size, depth=max_depth, ranks=request.tree_ranks)
    drafts, left_out = candidate_drafts(ask.model, own_pool=request.stack.startswith("magicdec"))
    plans: list[Plan] = []
    for draft in drafts:
        try:
            plans += _plans(request, ask, placement, scene, draft, limits)
        except UsageError as problem:
            left_out.append(LeftOut(method=draft.name, reason=str(problem)))
    step = float(rounds(scene, None, ask.acceptance, 0).round_seconds[0, 0, 0])
    return Comparison(
        resolved=ask,
        placement=placement,
        step_seconds=step,
        tokens_per_s=float(ask.batch[0, 0]) / step,
        plans=tuple(sorted(plans, key=lambda plan: -plan.speedup)),
        left_out=tuple(left_out),
        assumptions=(
            *ask.notes,
            *tree_basis(ask),
            COMPARED_ON,
            *notes_of(drafts),
            *at_the_limit(
                max((p.tree.size for p in plans if p.kind == "tree"), default=1), max_size
            ),
        ),
    )


COMPARED_ON = "drafts are compared on the GPUs that hold the target drafting for itself"


def notes_of(drafts: list[Draft]) -> tuple[str, ...]:
    """What the costs of these drafts leave out, each once."""
    return tuple(dict.fromkeys(draft.note for draft in drafts if draft.note))


def resolve_for_all(request: Request, max_size: int) -> Resolved:
    """The question of the target drafting for itself over its own cache, whose GPUs all share;
    where their number is open, room is left for trees and for other drafts."""
    longest = max(request.max_gamma, min(max_size - 1, MAX_GAMMA))
    return resolve(replace(request, draft="self", draft_kv=None, acceptance="0", max_gamma=longest))


def _plans(
    request: Request,
    ask: Resolved,
    placement: Placement,
    scene: Scene,
    draft: Draft,
    limits: Limits,
) -> list[Plan]:
    """The best chain of a draft and, where it has one that beats it, the best tree."""
    acceptance = acceptance_for(request.acceptance, ask.model, draft, ask.ctx, request.task)
    held = held_by(ask, placement, draft.residents, request.max_gamma + 1.0)
    most = held.max_batch_per_replica * placement.layout.replicas
    if not bool(np.all(held.fits)):
        raise UsageError(
            f"does not fit beside the target: these GPUs hold a batch of {float(np.min(most)):.0f}"
        )
    shared = {
        "draft": draft.name,
        "kv_growth": draft.kv_growth,
        "draft_bytes": float(np.max(held.draft_bytes)),
        "max_batch": int(np.min(most)),
        "acceptance": acceptance.origin,
    }
    chain = _chain(acceptance.longest(max(request.max_gamma, 1)), scene, draft, acceptance, shared)
    if not draft.grows_trees:
        return [chain]
    room = most_nodes(ask, placement, draft.residents)
    tree = _tree(scene, draft, acceptance, shared, limits, room)
    return [chain, tree] if tree and tree.speedup > chain.speedup * 1.001 else [chain]


def _chain(
    longest: int, scene: Scene, draft: Draft, acceptance: Acceptance, shared: dict[str, object]
) -> Plan:
    table = rounds(scene, draft, acceptance, longest)
    gamma = 1 + int(table.tokens_per_s[0, 0, 1:].argmax())

    def at(values: Array) -> float:
        return float(np.broadcast_to(values, table.round_seconds.shape)[0, 0, gamma])

    return Plan(
        kind="chain",
        tree=Tree.chain(gamma),
        tokens_per_round=at(table.tokens_per_round),
        draft_seconds=at(table.draft_seconds),
        verify_seconds=at(table.verify_seconds),
        round_seconds=at(table.round_seconds),
        speedup=at(table.speedup),
        speedup_low=at(table.speedup_low),
        speedup_high=at(table.speedup_high),
        **shared,  # type: ignore[arg-type]
    )


def _tree(
    scene: Scene,
    draft: Draft,
    acceptance: Acceptance,
    shared: dict[str, object],
    limits: Limits,
    room: Array,
) -> Plan | None:
    """The best tree; none where not speculating is better than any."""
    cells = tree_cells(scene, draft, acceptance, limits, room)
    best, tree = cells.best, cells.tree(0, 0)
    if tree.size == 1:
        return None
    low, high = cells.interval(0, 0)
    return Plan(
        kind="tree",
        tree=tree,
        tokens_per_round=float(best.tokens_per_round[0, 0]),
        draft_seconds=float(best.draft_seconds[0, 0]),
        verify_seconds=float(best.verify_seconds[0, 0]),
        round_seconds=float(best.round_seconds[0, 0]),
        speedup=float(best.speedup[0, 0]),
        speedup_low=low,
        speedup_high=high,
        **shared,  # type: ignore[arg-type]
    )


def drafts(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Comparison:
    """Every draft of the catalogue on one workload, chains and trees, best first.

    Takes the fields of `Request`. Raises UsageError, DoesNotFit.
    """
    return compare(request(gpu, options), max_size=max_size, max_depth=max_depth)
