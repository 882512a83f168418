"""Every draft on one workload, chains and trees, best first; and the best tree over a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.candidates import LeftOut, candidate_drafts
from magicplan.planning.placement import Placement, place, scene_of
from magicplan.planning.request import Request, Resolved, acceptance_for, resolve
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft
from magicplan.roofline.memory import footprint
from magicplan.roofline.speculation import Scene, rounds
from magicplan.roofline.tree_speculation import TreeTimes, best_tree, tree_times
from magicplan.roofline.trees import Tree, best_trees, non_increasing

RANKS = 32
"""Children of a node that a tree may have."""


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


def compare(request: Request, *, max_size: int = 64, max_depth: int = 12) -> Comparison:
    """Every draft of the catalogue on one workload, on the GPUs that hold the target drafting for
    itself over its own cache.

    A draft that the same GPUs do not hold as well is left out, and so is one without acceptance
    data. Raises UsageError for a grid, or where the workload does not fit.
    """
    longest = max(request.max_gamma, max_size - 1)
    ask = resolve(replace(request, draft="self", acceptance="0", max_gamma=longest))
    if not ask.scalar:
        raise UsageError("drafts compares on one workload; use sweep or tree for a grid")
    placement = place(ask)
    scene = scene_of(ask, placement)
    drafts, left_out = candidate_drafts(ask.model, own_pool=request.stack.startswith("magicdec"))
    plans: list[Plan] = []
    for draft in drafts:
        try:
            plans += _plans(request, ask, placement, scene, draft, max_size, max_depth)
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
        assumptions=(*ask.notes, *_basis(ask)),
    )


def _basis(ask: Resolved) -> tuple[str, ...]:
    timing = ask.machine.calibration.speedup_residual.basis
    return (
        f"speedup interval (80 %): acceptance, and {timing}",
        "trees assume that ranks fall as in Sequoia's shipped vector where none were measured",
        "drafts are compared on the GPUs that hold the target drafting for itself",
    )


def _plans(
    request: Request,
    ask: Resolved,
    placement: Placement,
    scene: Scene,
    draft: Draft,
    max_size: int,
    max_depth: int,
) -> list[Plan]:
    """The best chain of a draft and, where it has one that beats it, the best tree."""
    acceptance = acceptance_for(request.acceptance, ask.model, draft, ask.ctx, request.task)
    held = footprint(
        ask.model,
        placement.layout,
        placement.batch_per_replica,
        ask.final_ctx,
        placement.memory.available_bytes_per_gpu,
        draft.residents,
        query_tokens=ask.max_gamma + 1.0,
    )
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
    chain = _chain(max(request.max_gamma, 1), scene, draft, acceptance, shared)
    if draft.shape is None or draft.middle is not None:
        return [chain]
    tree = _tree(scene, draft, acceptance, shared, max_size, max_depth)
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
    max_size: int,
    max_depth: int,
) -> Plan | None:
    """The best tree; none where not speculating is better than any."""
    ctx = scene.ctx[0, 0]
    times = tree_times(scene, draft, max_size)
    ranks = _ranks(acceptance, draft, ctx)
    table = best_trees(ranks, max_size, max_depth)
    best = best_tree(times, table)
    if best.size[0, 0] == 1:
        return None
    tree = table.tree(int(best.size[0, 0]), int(best.depth[0, 0]))
    low, high = (_ranks(end, draft, ctx) for end in acceptance.interval())
    tokens = tree.expected_tokens(ranks)
    speedup = float(best.speedup[0, 0])
    ends = [np.log(tree.expected_tokens(end) / tokens) for end in (low, high)]
    timing = scene.machine.calibration.speedup_residual
    return Plan(
        kind="tree",
        tree=tree,
        tokens_per_round=tokens,
        draft_seconds=float(best.draft_seconds[0, 0]),
        verify_seconds=float(best.verify_seconds[0, 0]),
        round_seconds=float(best.round_seconds[0, 0]),
        speedup=speedup,
        speedup_low=speedup * float(np.exp(-np.hypot(ends[0], np.log(timing.low)))),
        speedup_high=speedup * float(np.exp(np.hypot(ends[1], np.log(timing.high)))),
        **shared,  # type: ignore[arg-type]
    )


def _ranks(acceptance: Acceptance, draft: Draft, ctx: float) -> Array:
    """Acceptance by rank, smoothed so that greedy trees are exact."""
    return non_increasing(acceptance.ranks(RANKS, ctx, draft.budget_tokens))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreePoint:
    """The best tree of one cell; size 1 does not speculate."""

    batch: int
    ctx_tokens: int
    size: int
    depth: int
    tokens_per_round: float
    speedup: float
    chain_speedup: float
    """Of the best chain of the same draft."""
    tree: Tree
    weights: Array
    """Survival probability of every node."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreePlan:
    """Best trees over a grid of batches and contexts."""

    resolved: Resolved
    points: tuple[TreePoint, ...]
    assumptions: tuple[str, ...]


def adaptive_trees(request: Request, *, max_size: int = 64, max_depth: int = 12) -> TreePlan:
    """The best tree in every cell (Adaptive Sequoia Trees): topology by batch and context."""
    ask = resolve(request)
    if ask.draft is None or ask.draft.shape is None or ask.draft.middle is not None:
        raise UsageError(f"--draft {request.draft} cannot draft a tree; choose self or a model")
    placement = place(ask)
    scene = scene_of(ask, placement)
    times = tree_times(scene, ask.draft, max_size)
    chains = rounds(scene, ask.draft, ask.acceptance, max(1, min(ask.max_gamma, max_depth - 1)))
    points = []
    for column, ctx in enumerate(ask.ctx[0]):
        points += _column(ask, times, chains.speedup, column, ctx, max_size, max_depth)
    order = sorted(points, key=lambda point: (point.batch, point.ctx_tokens))
    return TreePlan(
        resolved=ask,
        points=tuple(order),
        assumptions=(*ask.notes, f"acceptance: {ask.acceptance.origin}", *_basis(ask)[1:2]),
    )


def _column(
    ask: Resolved,
    times: TreeTimes,
    chain_speedup: Array,
    column: int,
    ctx: float,
    max_size: int,
    max_depth: int,
) -> list[TreePoint]:
    """All batches at one context, which share a table of trees."""
    if ask.draft is None:
        return []
    ranks = _ranks(ask.acceptance, ask.draft, ctx)
    table = best_trees(ranks, max_size, max_depth)
    best = best_tree(times, table, slice(column, column + 1))
    chains = np.broadcast_to(
        chain_speedup, (*times.verify_seconds.shape[:2], chain_speedup.shape[-1])
    )
    points = []
    for row, batch in enumerate(ask.batch[:, 0]):
        size, depth = int(best.size[row, 0]), int(best.depth[row, 0])
        tree = table.tree(size, depth)
        points.append(
            TreePoint(
                batch=int(batch),
                ctx_tokens=int(ask.final_ctx[0, column] - ask.request.output),
                size=size,
                depth=tree.depth,
                tokens_per_round=float(best.tokens_per_round[row, 0]),
                speedup=float(best.speedup[row, 0]),
                chain_speedup=float(chains[row, column].max()),
                tree=tree,
                weights=tree.weights(ranks),
            )
        )
    return points
