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
from magicplan.planning.request import Resolved
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
from magicplan.roofline.tree import Tree
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


def planned_tree(resolved: Resolved, tree: Tree, engine: str) -> Settings | None:
    """Settings for the tree of a capacity plan, whose times count what the engine expands; None
    where the engine runs no tree of this draft. Raises UsageError for an unknown engine."""
    known = load(engine)
    if cannot(drafted(resolved), known) or not _takes_trees(known, drafted(resolved)):
        return None
    found = _topology(resolved, tree, known) or _size(resolved, tree, known)
    counts = f"at the planned load this drafts what the plan counts on: a tree of {tree.size} nodes"
    return replace(found, notes=(counts, *found.notes, accepted(resolved)))


def _topology(resolved: Resolved, tree: Tree, engine: Engine) -> Settings | None:
    """Every path of a tree, for versions of vLLM with tree attention; None for others."""
    method = drafted(resolved).method
    if not engine.has("token_tree", method):
        return None
    paths = "[" + ", ".join(_path(path) for path in tree.paths) + "]"
    config = vllm_draft(resolved, engine)
    config |= {"num_speculative_tokens": tree.size - 1, "speculative_token_tree": paths}
    return Settings(
        engine=engine.asked,
        text=f"--speculative-config '{json.dumps(config)}'",
        schedule=(),
        notes=(
            "the tree runs under the TREE_ATTN attention backend, one shape for every batch",
            engine.cite(method, "token_tree"),
        ),
    )


def _size(resolved: Resolved, tree: Tree, engine: Engine) -> Settings:
    """SGLang's steps below the root, the nodes it expands at each, and the nodes it keeps."""
    flags = [
        *sglang_draft(resolved, engine),
        f"--speculative-num-steps {tree.depth - 1} --speculative-eagle-topk {tree.beam}",
        f"--speculative-num-draft-tokens {tree.size}",
    ]
    notes = (
        f"SGLang expands {tree.beam} nodes a level and keeps the {tree.size} it ranks highest: the "
        "size is this plan's, the shape its own",
        "with topk above 1 its speculation does without the overlap of host and GPU (Spec V2)",
        engine.cite(drafted(resolved).method, "dynamic_tree"),
    )
    return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=notes)


def _vllm(plan: TreePlan, point: TreePoint, engine: Engine) -> Settings:
    """Versions with tree attention take every path of an EAGLE tree; others take a chain."""
    found = _topology(plan.resolved, point.tree, engine)
    if found:
        return found
    method = drafted(plan.resolved).method
    config = vllm_draft(plan.resolved, engine) | {"num_speculative_tokens": point.chain_gamma}
    notes = (_chain_note(engine, method, point), engine.cite(method))
    text = f"--speculative-config '{json.dumps(config)}'" if point.chain_gamma else ""
    return Settings(engine=engine.asked, text=text, schedule=(), notes=notes)


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
    if point.tree.beam == 1:
        flags = sglang_draft(plan.resolved, engine) + chain_flags(point.size - 1)
        cited = (engine.cite(drafted(plan.resolved).method),)
        return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=cited)
    slower = cost(np.array([_wide_cost(plan, point)]))
    found = _size(plan.resolved, point.tree, engine)
    wider = f"nearest: the same size, {slower} for its wider draft passes if it accepts as much"
    return replace(found, notes=(found.notes[0], wider, *found.notes[1:]))


def _wide_cost(plan: TreePlan, point: TreePoint) -> float:
    """Throughput lost to draft passes over `Tree.beam` nodes at every level below the root."""
    scene = scene_of(plan.resolved, place(plan.resolved))
    beam = point.tree.beam
    times = tree_times(scene, drafted(plan.resolved), max(point.size, beam))
    passes = times.pass_seconds[0, 0]
    theirs = float(passes[1] + (point.depth - 2) * passes[beam])
    ours = float(passes[list(point.tree.level_widths[:-1])].sum())
    at = int((times.sizes >= point.size).argmax())
    rest = float(times.verify_seconds[0, 0, at]) + times.round_seconds
    return max(0.0, float(1 - (ours + rest) / (theirs + rest)))
