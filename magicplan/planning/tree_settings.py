"""A tree as settings of an engine: itself where any shape is taken, else the nearest plan."""

from __future__ import annotations

import json
from dataclasses import replace

from magicplan.errors import UsageError
from magicplan.planning.adaptive import TreePlan, TreePoint
from magicplan.planning.engine_table import Engine, load
from magicplan.planning.placement import place, scene_of
from magicplan.planning.settings import Settings, chain_flags, sglang_draft, vllm_draft
from magicplan.roofline.drafts import Draft
from magicplan.roofline.tree_speculation import tree_times


def tree_settings(plan: TreePlan, engine: str) -> Settings:
    """Settings for one workload's tree. Raises UsageError for a grid, an unknown engine, or a draft
    that the engine cannot run."""
    known, draft = load(engine), plan.resolved.draft
    if len(plan.points) != 1:
        raise UsageError("engines take one tree: give one --batch and one --ctx with --settings")
    point = plan.points[0]
    if draft is None or draft.method not in known.methods:
        name = draft.name if draft else "none"
        raise UsageError(
            f"{known.asked} cannot draft with {name}; it can with {', '.join(known.methods)}"
        )
    if draft.method == "model" and draft.budget_tokens is not None:
        raise UsageError(
            f"{known.asked} cannot keep a window of {draft.name}'s cache; use --draft-kv full"
        )
    if point.size == 1:
        notes = ("no tree of this draft gains anything here: leave speculation off",)
        return Settings(engine=known.asked, text="", schedule=(), notes=notes)
    found = (_vllm if known.name == "vllm" else _sglang)(plan, point, draft, known)
    return replace(found, notes=(*found.notes, f"{known.asked}: {known.can.source}"))


def _vllm(plan: TreePlan, point: TreePoint, draft: Draft, engine: Engine) -> Settings:
    """Versions with tree attention take every path of an EAGLE tree; others take a chain."""
    config = vllm_draft(draft, engine)
    if engine.can.token_tree and draft.method in ("eagle", "eagle3"):
        paths = "[" + ", ".join(_path(path) for path in point.tree.paths) + "]"
        config |= {"num_speculative_tokens": point.size - 1, "speculative_token_tree": paths}
        notes = ["the tree runs under the TREE_ATTN attention backend, one shape for every batch"]
    else:
        config |= {"num_speculative_tokens": point.chain_gamma}
        notes = [_chain_note(engine, point)]
    text = f"--speculative-config '{json.dumps(config)}'" if point.chain_gamma else ""
    return Settings(engine=engine.asked, text=text, schedule=(), notes=tuple(notes))


def _path(path: tuple[int, ...]) -> str:
    """A path as vLLM writes it: (0,) and (0,1)."""
    return "(" + ",".join(map(str, path)) + ("," if len(path) == 1 else "") + ")"


def _chain_note(engine: Engine, point: TreePoint) -> str:
    lost = 1 - point.chain_speedup / point.speedup
    nearest = f"the best chain, {point.chain_gamma} tokens"
    if not point.chain_gamma:
        nearest = "no speculation, for no chain gains"
    return (
        f"{engine.asked} cannot express a tree of this draft; nearest: {nearest}, which costs "
        f"{lost:.1%} of throughput ({point.chain_speedup:.2f}x instead of {point.speedup:.2f}x)"
    )


def _sglang(plan: TreePlan, point: TreePoint, draft: Draft, engine: Engine) -> Settings:
    """Steps below the root, the widest fan-out and the nodes; SGLang ranks the shape itself."""
    if draft.method == "ngram":
        raise UsageError(f"{engine.asked}: ngram drafts no tree of a model's ranks")
    flags = sglang_draft(draft, engine)
    widest = max(point.tree.ranks) + 1
    if widest == 1:
        flags += chain_flags(point.size - 1)
        return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=())
    flags.append(f"--speculative-num-steps {point.depth - 1} --speculative-eagle-topk {widest}")
    flags.append(f"--speculative-num-draft-tokens {point.size}")
    cost = _wide_cost(plan, point, draft, widest)
    notes = (
        f"SGLang expands {widest} nodes a level and keeps the {point.size} it ranks highest, so "
        "the size is this plan's and the shape its own; nearest: the same size, whose wider "
        f"draft passes cost {cost:.1%} of throughput if it accepts as much",
    )
    return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=notes)


def _wide_cost(plan: TreePlan, point: TreePoint, draft: Draft, widest: int) -> float:
    """Throughput lost to draft passes over `widest` nodes at every level below the root."""
    scene = scene_of(plan.resolved, place(plan.resolved))
    times = tree_times(scene, draft, max(point.size, widest))
    passes = times.pass_seconds[0, 0]
    theirs = float(passes[1] + (point.depth - 2) * passes[widest])
    ours = float(passes[list(point.tree.level_widths[:-1])].sum())
    at = int((times.sizes >= point.size).argmax())
    rest = float(times.verify_seconds[0, 0, at]) + times.round_seconds
    return max(0.0, float(1 - (ours + rest) / (theirs + rest)))
