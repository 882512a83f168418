"""Trees of a plan: the one at the planned load, and the schedule of them over batch x context."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from magicplan.engine_specs.capabilities import running_trees
from magicplan.planning.result import TreeRule, TreeUsed
from magicplan.planning.search import Configuration
from magicplan.prediction.thresholds import Planned, pinned, thresholds
from magicplan.roofline.deployment import Array
from magicplan.roofline.tree import Tree
from magicplan.serving.replica import TREE_GAIN, at_loads, shapes_of
from magicplan.serving.tree_rounds import Shapes, table_of


def tree_words(tree: TreeUsed | TreeRule) -> str:
    """A tree's size in words."""
    return f"tree of {tree.size} nodes in {tree.depth} levels"


def tree_of(row: Configuration, gamma: int, depth: int, batch: float) -> TreeUsed | None:
    """The tree of `gamma` drafted tokens in `depth` levels that a row drafts at a batch; None for
    a chain."""
    if gamma <= depth:
        return None
    found = _shapes(row, np.asarray([batch]))
    rate = found.tokens_per_round / found.round_seconds[0, 0]
    chain = int(np.where(found.trees, 0.0, rate).argmax())
    chosen = int(((found.gamma == gamma) & (found.depth == depth)).argmax())
    tree = _topology(row, gamma + 1, depth + 1, float(row.replica.contexts.mean()))
    return TreeUsed(
        size=tree.size,
        depth=tree.depth,
        beam=tree.beam,
        parents=tree.parents,
        chain_gamma=int(found.gamma[chain]),
        gain=float(rate[chosen] / rate[chain]),
    )


def trees_left_out(row: Configuration, gamma: int, batch: float) -> str:
    """One sentence on what a tree would gain at the planned load, and which engine runs it, where
    the plan drafts a chain for want of an engine's trees; "" where no tree is in question."""
    draft = row.spec.draft
    if not gamma or row.spec.trees or draft is None or not draft.grows_trees:
        return ""
    engines = running_trees(draft)
    found = _shapes(replace(row, spec=replace(row.spec, trees="beam")), np.asarray([batch]))
    rate = found.tokens_per_round / found.round_seconds[0, 0]
    best = int(np.where(found.trees, rate, 0.0).argmax())
    gain = float(rate[best] / np.where(found.trees, 0.0, rate).max())
    chain = f"{draft.name} is planned as a chain"
    if not found.trees.any() or gain < TREE_GAIN:
        return f"{chain}: at the planned load no tree decodes {TREE_GAIN - 1:.0%} faster"
    shape = f"a tree of {found.gamma[best] + 1:.0f} nodes in {found.depth[best] + 1:.0f} levels"
    who = f"{' and '.join(engines)} can run it (stack, trees)" if engines else "no engine runs it"
    return f"{chain}: at the planned load {shape} would decode {gain:.2f} times as fast; {who}"


def tree_rules(
    row: Configuration,
    batches: Array,
    contexts: Array,
    fits: NDArray[np.bool_],
    planned: Planned | None,
    own: tuple[int, int],
) -> tuple[TreeRule, ...]:
    """The fewest ranges of batch and context, each with one tree or chain or none, as
    `thresholds` of draft lengths; () where the engine runs no tree.

    Trees count `TREE_GAIN` less than they emit, as in the search; losses are those of what is
    emitted. `own`, the tokens and levels that the plan itself drafts, stays where it is.
    """
    if not row.spec.trees:
        return ()
    found = [_shapes(row, batches, np.asarray([ctx])) for ctx in contexts]
    keys = sorted({key for shapes in found for key in _keys(shapes)})
    rate = np.zeros((batches.size, contexts.size, len(keys)))
    for column, shapes in enumerate(found):
        at = [keys.index(key) for key in _keys(shapes)]
        rate[:, column, at] = shapes.tokens_per_round / shapes.round_seconds[0]
    lost = _lost(rate, fits)
    branches = np.asarray([gamma > depth for gamma, depth in keys])
    wanted = _lost(np.where(branches, rate / TREE_GAIN, rate), fits)
    if planned is not None and own in keys:
        wanted = pinned(wanted, planned, batches, contexts, keys.index(own))
    rules = []
    for t in thresholds(wanted, batches, contexts):
        rows = (t.batch_lo <= batches) & (batches <= t.batch_hi)
        columns = (t.ctx_lo <= contexts) & (contexts <= t.ctx_hi)
        tree = _rule_tree(row, keys[t.gamma], float(contexts[columns].mean()))
        rules.append(
            TreeRule(
                batch_lo=t.batch_lo,
                batch_hi=t.batch_hi,
                ctx_lo=t.ctx_lo,
                ctx_hi=t.ctx_hi,
                size=tree.size,
                depth=tree.depth,
                beam=tree.beam,
                parents=tree.parents,
                loss=float(lost[rows][:, columns, t.gamma].max()),
            )
        )
    return tuple(rules)


def _lost(rate: Array, fits: NDArray[np.bool_]) -> Array:
    """Throughput lost against the best, 0 where nothing fits, so that it decides nothing."""
    return np.where(fits[..., None], 1 - rate / rate.max(axis=-1, keepdims=True), 0.0)


def _rule_tree(row: Configuration, key: tuple[int, int], ctx: float) -> Tree:
    gamma, depth = key
    return _topology(row, gamma + 1, depth + 1, ctx) if gamma > depth else Tree.chain(gamma)


def _keys(shapes: Shapes) -> list[tuple[int, int]]:
    return [(int(g), int(d)) for g, d in zip(shapes.gamma, shapes.depth, strict=True)]


def _shapes(row: Configuration, batch: Array, contexts: Array | None = None) -> Shapes:
    return shapes_of(at_loads(row.replica, row.layout, np.maximum(batch, 1.0), contexts), row.spec)


def _topology(row: Configuration, size: int, depth: int, ctx: float) -> Tree:
    """The best tree of that size and as many levels at a context."""
    assert row.spec.draft is not None
    assert row.spec.acceptance is not None
    return table_of(row.spec.draft, row.spec.acceptance, ctx, row.replica.longest).tree(size, depth)
