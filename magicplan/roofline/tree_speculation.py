"""The best tree for a workload: Sequoia's search by time from the roofline.

Adaptive Sequoia Trees (Together AI, 2024-09-05): for every (batch, context) the tree of n nodes
and at most d levels that maximises G(n, d) T_target / (T_draft(n, d) + T_verify(n) + overhead).
Level l of a tree costs one draft pass over the nodes of level l - 1, so a chain of gamma tokens
costs gamma draft steps here as in `speculation`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from magicplan.roofline.deployment import Array, Indices, Num
from magicplan.roofline.draft_cost import catch_up_seconds, draft_step
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import Scene, batch_efficiency, verify_seconds
from magicplan.roofline.trees import TreeTable

LEAST_GAIN = 1.05
"""Speedup from which a tree is worth switching on: below lies the error of predicted speedups
(docs/accuracy.md), and every size costs an engine a set of CUDA graphs."""


def tree_sizes(largest: int) -> Array:
    """Sizes worth trying: every one up to 32, then steps of 1/8 to keep CUDA-graph sets few."""
    sizes = list(range(1, min(largest, 32) + 1))
    while sizes[-1] < largest:
        step = max(1, 2 ** (sizes[-1].bit_length() - 4))
        sizes.append(min(largest, sizes[-1] + step))
    return np.array(sizes, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeTimes:
    """What trees cost in a scene, whatever their topology: filled once, read for every table."""

    sizes: Array
    verify_seconds: Array
    """[batch, ctx, size]"""
    pass_seconds: Array
    """[batch, ctx, width + 1]: a draft pass over `width` nodes a sequence; 0 for width 0."""
    catch_up_seconds: Num
    """What a round's first draft pass costs more, [batch, ctx] or the same everywhere."""
    round_seconds: Num
    """Overhead of a round, [batch, ctx] or the same everywhere."""


def tree_times(scene: Scene, draft: Draft, largest: int) -> TreeTimes:
    """Verification of every size and a draft pass over every width up to `largest`."""
    sizes = tree_sizes(largest)
    widths = sizes
    cost = [np.asarray(draft_pass_seconds(scene, draft, widths))]
    shape = np.broadcast_shapes(cost[0].shape[:-1], scene.batch.shape, scene.ctx.shape)
    known = np.broadcast_to(cost[0], (*shape, widths.size))
    every = np.arange(largest + 1.0)
    at = np.clip(np.searchsorted(widths, every), 0, widths.size - 1)
    passes = known[..., at]
    passes = np.where(every == 0, 0.0, passes)
    return TreeTimes(
        sizes=sizes,
        verify_seconds=np.broadcast_to(verify_seconds(scene, sizes), (*shape, sizes.size)),
        pass_seconds=passes,
        catch_up_seconds=catch_up_seconds(
            draft, scene.layout, scene.machine, scene.batch, scene.ctx
        ),
        round_seconds=scene.machine.calibration.host.between_passes_seconds(scene.batch),
    )


def draft_pass_seconds(scene: Scene, draft: Draft, widths: Array) -> Array:
    """Seconds of one draft pass over `widths` nodes a sequence, on a new last axis."""
    layout = replace(
        scene.layout,
        tp=np.asarray(scene.layout.tp, dtype=np.float64)[..., None],
        pp=np.asarray(scene.layout.pp, dtype=np.float64)[..., None],
        replicas=np.asarray(scene.layout.replicas, dtype=np.float64)[..., None],
    )
    cost = draft_step(
        draft, layout, scene.machine, scene.batch[..., None], scene.ctx[..., None], width=widths
    )
    return np.asarray(cost.seconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BestTree:
    """The best tree of one table in every cell [batch, ctx]; size 1 does not speculate."""

    size: Array
    depth: Array
    tokens_per_round: Array
    batch_efficiency: Array
    """Throughput over that of a batch that is refilled: 1 unless batching is static."""
    draft_seconds: Array
    verify_seconds: Array
    round_seconds: Array
    speedup: Array


def best_tree(
    times: TreeTimes,
    table: TreeTable,
    scene: Scene,
    column: slice | None = None,
    most_nodes: Array | None = None,
) -> BestTree:
    """Scan every (size, depth) of a table. `column` picks the contexts the table is for; no tree
    has more than `most_nodes` [batch, ctx], and none gains less than `LEAST_GAIN`."""
    at = column or slice(None)
    sizes = times.sizes.astype(int)
    verify = times.verify_seconds[:, at]
    emitted, widths = table.expected_tokens[:, sizes - 1], table.widths[:, sizes - 1]
    catch_up, overhead = (
        np.broadcast_to(once, times.verify_seconds.shape[:2])[:, at, None, None] * (sizes > 1)
        for once in (times.catch_up_seconds, times.round_seconds)
    )
    drafting = _drafting(times.pass_seconds[:, at], widths) + catch_up
    total = drafting + verify[..., None, :] + overhead
    mean = np.where(np.isfinite(emitted), emitted, 1.0)
    share = np.ones((1, 1, 1, 1))
    if scene.static:
        batch = scene.batch[:, at] if scene.batch.shape[1] > 1 else scene.batch
        share = batch_efficiency(
            replace(scene, batch=batch), mean[None, None], table.variance[:, sizes - 1]
        )
    rate = np.where(np.isfinite(emitted), emitted * share, 0.0) / total
    if most_nodes is not None:
        rate = np.where(sizes <= most_nodes[:, at, None, None], rate, 0.0)
    flat = rate.reshape(*rate.shape[:2], -1)
    enough = flat.max(axis=-1) * verify[..., 0] >= LEAST_GAIN
    chosen = np.where(enough, flat.argmax(axis=-1), 0)  # the first is the root alone

    def take(values: Array) -> Array:
        full = np.broadcast_to(values, rate.shape).reshape(flat.shape)
        return np.take_along_axis(full, chosen[..., None], axis=-1)[..., 0]

    return BestTree(
        size=take(sizes),
        depth=take((widths > 0).sum(axis=-1)),
        tokens_per_round=take(emitted),
        batch_efficiency=take(share),
        draft_seconds=take(drafting),
        verify_seconds=take(verify[..., None, :]),
        round_seconds=take(total),
        speedup=take(rate) * verify[..., 0],
    )


def _drafting(passes: Array, widths: Indices) -> Array:
    """Seconds of all draft passes, [batch, ctx, depth, size]: one over every level but the last."""
    total = np.zeros((*passes.shape[:2], *widths.shape[:2]))
    for level in range(widths.shape[-1] - 1):
        total += passes[..., np.where(widths[..., level + 1] > 0, widths[..., level], 0)]
    return total


TreeKind = Literal["", "levels", "beam"]
"""How an engine drafts a tree: a pass over all nodes of each level, as for a topology of one's own;
a pass over `Tree.beam` nodes at every level below the first, as SGLang's topk does; "" for none."""
