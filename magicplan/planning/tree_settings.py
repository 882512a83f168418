"""A tree as settings of an engine: itself where any shape is taken, else the nearest plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.adaptive import TreePlan, TreePoint, adaptive_trees
from magicplan.planning.engine_table import Engine, load
from magicplan.planning.placement import place, scene_of
from magicplan.planning.prediction import Prediction
from magicplan.planning.settings import (
    Settings,
    accepted,
    cannot,
    chain_flags,
    cost,
    drafted,
    other_requests,
    predictions,
    settings,
    sglang_draft,
    vllm_draft,
)
from magicplan.roofline.drafts import Draft
from magicplan.roofline.tree_speculation import tree_times

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
        raise UsageError("engines take one tree: give one --batch and one --ctx with --settings")
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


def _options(plan: TreePlan, engine: Engine, *, max_size: int, max_depth: int) -> list[_Option]:
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


def _takes_trees(engine: Engine, draft: Draft) -> bool:
    return any(engine.has(kind, draft.method) for kind in TREES)


def _of_draft(plan: TreePlan, engine: Engine) -> Settings:
    """Settings of a draft that the engine can run."""
    point, basis = plan.points[0], accepted(plan.resolved)
    if point.size == 1:
        off = "no tree of this draft gains anything here: leave speculation off"
        return Settings(engine=engine.asked, text="", schedule=(), notes=(off, basis))
    found = (_vllm if engine.name == "vllm" else _sglang)(plan, point, engine)
    return replace(found, notes=(*found.notes, basis))


def _vllm(plan: TreePlan, point: TreePoint, engine: Engine) -> Settings:
    """Versions with tree attention take every path of an EAGLE tree; others take a chain."""
    method = drafted(plan.resolved).method
    config = vllm_draft(plan.resolved, engine)
    if engine.has("token_tree", method):
        paths = "[" + ", ".join(_path(path) for path in point.tree.paths) + "]"
        config |= {"num_speculative_tokens": point.size - 1, "speculative_token_tree": paths}
        notes = ["the tree runs under the TREE_ATTN attention backend, one shape for every batch"]
        notes.append(engine.cite(method, "token_tree"))
    else:
        config |= {"num_speculative_tokens": point.chain_gamma}
        notes = [_chain_note(engine, method, point), engine.cite(method)]
    text = f"--speculative-config '{json.dumps(config)}'" if point.chain_gamma else ""
    return Settings(engine=engine.asked, text=text, schedule=(), notes=tuple(notes))


def _path(path: tuple[int, ...]) -> str:
    """A path as vLLM writes it: (0,) and (0,1)."""
    return "(" + ",".join(map(str, path)) + ("," if len(path) == 1 else "") + ")"


def _chain_note(engine: Engine, method: str, point: TreePoint) -> str:
    lost = 1 - point.chain_speedup / point.speedup
    nearest = f"the best chain, {point.chain_gamma} tokens"
    if not point.chain_gamma:
        nearest = "no speculation, for no chain gains"
    return (
        f"{engine.asked} cannot express a tree of this draft{engine.lacks('token_tree', method)}; "
        f"nearest: {nearest}, which is {cost(np.array([lost]))} "
        f"({point.chain_speedup:.2f}x instead of {point.speedup:.2f}x)"
    )


def _sglang(plan: TreePlan, point: TreePoint, engine: Engine) -> Settings:
    """Steps below the root, the widest fan-out and the nodes; SGLang ranks the shape itself."""
    method = drafted(plan.resolved).method
    flags = sglang_draft(plan.resolved, engine)
    widest = max(point.tree.ranks) + 1
    if widest == 1:
        flags += chain_flags(point.size - 1)
        cited = (engine.cite(method),)
        return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=cited)
    flags.append(f"--speculative-num-steps {point.depth - 1} --speculative-eagle-topk {widest}")
    flags.append(f"--speculative-num-draft-tokens {point.size}")
    slower = _wide_cost(plan, point, widest)
    notes = (
        f"SGLang expands {widest} nodes a level and keeps the {point.size} it ranks highest, so "
        "the size is this plan's and the shape its own; nearest: the same size, "
        f"{cost(np.array([slower]))} for its wider draft passes if it accepts as much",
        engine.cite(method, "dynamic_tree"),
    )
    return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=notes)


def _wide_cost(plan: TreePlan, point: TreePoint, widest: int) -> float:
    """Throughput lost to draft passes over `widest` nodes at every level below the root."""
    scene = scene_of(plan.resolved, place(plan.resolved))
    times = tree_times(scene, drafted(plan.resolved), max(point.size, widest))
    passes = times.pass_seconds[0, 0]
    theirs = float(passes[1] + (point.depth - 2) * passes[widest])
    ours = float(passes[list(point.tree.level_widths[:-1])].sum())
    at = int((times.sizes >= point.size).argmax())
    rest = float(times.verify_seconds[0, 0, at]) + times.round_seconds
    return max(0.0, float(1 - (ours + rest) / (theirs + rest)))
