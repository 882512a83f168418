"""A tree as settings of an engine: itself where any shape is taken, else the nearest plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magicplan.engine_specs.capabilities import EngineVersion, cannot, load
from magicplan.engines.nearest import other_requests, predictions, settings
from magicplan.engines.settings import Settings, accepted, cost, drafted
from magicplan.engines.sglang import sglang_size, sglang_tree
from magicplan.engines.vllm import vllm_topology, vllm_tree
from magicplan.errors import FieldError, UsageError
from magicplan.prediction.adaptive_trees import TreePlan, adaptive_trees
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.result import Prediction
from magicplan.roofline.drafts import Draft
from magicplan.roofline.tree import Tree

TREES = ("token_tree", "dynamic_tree")


def tree_settings(
    plan: TreePlan, engine: str, *, max_size: int = 64, max_depth: int = 12
) -> Settings:
    """Settings for one workload's tree; the nearest plan's where the engine cannot run its draft,
    whose trees have at most `max_size` nodes and `max_depth` levels.

    Raises UsageError for a grid, an unknown engine, or where the engine can run no draft at all.
    """
    known = load(engine)
    if len(plan.points) != 1:
        raise FieldError("settings", "takes one tree: give one $batch and one $ctx")
    why = cannot(drafted(plan.resolved), known)
    if not why:
        return _of_draft(plan, known)
    ours = predictions([plan.resolved.request])
    options = _options(plan, known, max_size=max_size, max_depth=max_depth)
    if not options or not ours:
        raise UsageError(f"{known.asked} {why}, and no other draft is known")
    best = max(options, key=lambda option: option.tokens_per_s)
    lost = 1 - best.tokens_per_s / (_plain(ours[0]) * plan.points[0].speedup)
    other = f"{drafted(best.chains.resolved).name} in a {'tree' if best.tree else 'chain'}"
    note = f"{known.asked} {why}; nearest: {other}, which is {cost(np.array([lost]))}"
    found = _of_draft(best.tree, known) if best.tree else settings(best.chains, engine)
    return replace(found, notes=(note, accepted(plan.resolved), *found.notes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Option:
    """Another draft that the engine can run: in a tree where it takes one, else in a chain."""

    chains: Prediction
    tree: TreePlan | None
    tokens_per_s: float


def _options(
    plan: TreePlan, engine: EngineVersion, *, max_size: int, max_depth: int
) -> list[_Option]:
    point = plan.points[0]
    asks = (
        replace(ask, batch=[point.batch], ctx=[point.ctx_tokens])
        for ask in other_requests(plan.resolved, engine)
    )
    found = []
    for chains in predictions(asks):
        draft, tree = drafted(chains.resolved), None
        if not chains.placement.fits.all():
            continue
        rate = float(chains.rounds.tokens_per_s.max())
        if draft.grows_trees and _takes_trees(engine, draft):
            ask = chains.resolved.request
            tree = adaptive_trees(ask, max_size=max_size, max_depth=max_depth)
            rate = _plain(chains) * tree.points[0].speedup
        found.append(_Option(chains=chains, tree=tree, tokens_per_s=rate))
    return found


def _plain(p: Prediction) -> float:
    """Tokens a second of one workload without speculation."""
    return float(p.rounds.tokens_per_s.reshape(-1)[0])


def _takes_trees(engine: EngineVersion, draft: Draft) -> bool:
    return any(engine.has(kind, draft.method) for kind in TREES)


def _of_draft(plan: TreePlan, engine: EngineVersion) -> Settings:
    """Settings of a draft that the engine can run."""
    point, basis = plan.points[0], accepted(plan.resolved)
    if point.size == 1:
        off = "no tree of this draft gains anything here: leave speculation off"
        return Settings(engine=engine.asked, text="", schedule=(), notes=(off, basis))
    found = (vllm_tree if engine.name == "vllm" else sglang_tree)(plan, point, engine)
    return replace(found, notes=(*found.notes, basis))


def planned_tree(resolved: Resolved, tree: Tree, engine: str) -> Settings | None:
    """Settings for the tree of a capacity plan, whose times count what the engine expands; None
    where the engine runs no tree of this draft. Raises UsageError for an unknown engine."""
    known = load(engine)
    if cannot(drafted(resolved), known) or not _takes_trees(known, drafted(resolved)):
        return None
    found = vllm_topology(resolved, tree, known) or sglang_size(resolved, tree, known)
    counts = f"at the planned load this drafts what the plan counts on: a tree of {tree.size} nodes"
    return replace(found, notes=(counts, *found.notes, accepted(resolved)))
