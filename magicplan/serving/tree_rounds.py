"""Rounds that a replica may run, chains and trees side by side, in every layout at every batch.

Trees are Sequoia's, as in `roofline.trees`; a context stands for the distribution, as it does for
chains. Axes are [layout, b, shape].
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array, Indices
from magicplan.roofline.drafts import Draft
from magicplan.roofline.tree_grid import Limits, ranks_of
from magicplan.roofline.tree_speculation import TreeKind
from magicplan.roofline.trees import TreeTable, best_trees

SIZES = np.array([*range(3, 17), 20, 24, 28, 32, 40, 48], dtype=np.float64)
"""Nodes of the trees looked at, the root's included; engines capture graphs for a few sizes."""


WIDTHS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48], dtype=np.float64)
"""Nodes of the draft passes that are computed; those between lie on straight lines."""


LARGEST = int(SIZES[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """Rounds of one draft. [layout, b, shape], or [shape] for what no layout or batch changes."""

    gamma: Array
    """Tokens drafted: of a chain its length, of a tree its nodes without the root."""
    depth: Array
    """Levels drafted; of a chain its length too."""
    draft_seconds: Array
    """Drafting and its bookkeeping."""
    round_seconds: Array
    tokens_per_round: Array

    @property
    def trees(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which shapes branch."""
        return np.asarray(self.gamma > self.depth)


def side_by_side(first: Shapes, second: Shapes) -> Shapes:
    """The shapes of both, one behind the other along the last axis."""
    return Shapes(
        **{
            entry.name: np.concatenate(
                [getattr(first, entry.name), getattr(second, entry.name)], axis=-1
            )
            for entry in fields(Shapes)
        }
    )


def table_of(draft: Draft, acceptance: Acceptance, ctx: float, longest: int) -> TreeTable:
    """The best trees of at most `longest` drafted levels."""
    limits = Limits(size=LARGEST, depth=longest + 1)
    ranks = ranks_of(acceptance, draft, ctx, limits)
    return best_trees(ranks.table, limits.size, limits.depth, ranks.shares)


def tree_shapes(
    table: TreeTable, kind: TreeKind, *, passes: Array, once: Array, verify: Array
) -> Shapes:
    """All trees of a table that branch.

    `passes` [layout, b, width] are draft passes over `WIDTHS` nodes a request, `once` [layout, b]
    what a round pays besides, `verify` [layout, b, size] the target's passes over `SIZES`.
    """
    sizes = SIZES.astype(int)
    widths = table.widths[1:, sizes - 1]
    depth = (widths > 0).sum(axis=-1) - 1
    # each tree once: where a level more is allowed than the best takes, it is the same tree
    limit = np.arange(1, len(widths) + 1)[:, None]
    branching = (depth == limit) & (sizes - 1 > depth) & (widths[..., 0] > 0)
    level, size = np.nonzero(branching)
    wide = widths[level, size]
    if kind == "beam":
        wide = _beam(wide, table.beams[1:, sizes - 1][level, size])
    drafting = passes @ _shares(wide).T + once[..., None]
    return Shapes(
        gamma=SIZES[size] - 1,
        depth=depth[level, size].astype(np.float64),
        draft_seconds=drafting,
        round_seconds=verify[..., size] + drafting,
        tokens_per_round=table.expected_tokens[1:, sizes - 1][level, size],
    )


def _beam(wide: Indices, beams: Indices) -> Indices:
    """Nodes that a beam expands at every level of trees [shape, level]: the root, then its own."""
    found = np.where(wide > 0, beams[:, None], 0)
    found[:, 0] = 1
    return np.asarray(found)


def _shares(wide: Indices) -> Array:
    """[shape, width] how many passes over each of `WIDTHS` the levels [shape, level] take: one for
    every level but the last, shared between its neighbours where it lies between two."""
    passed = np.where(np.roll(wide, -1, axis=1) > 0, wide, 0)
    passed[:, -1] = 0
    high = np.clip(np.searchsorted(WIDTHS, passed), 1, WIDTHS.size - 1)
    upper = np.clip((passed - WIDTHS[high - 1]) / (WIDTHS[high] - WIDTHS[high - 1]), 0.0, 1.0)
    shares = np.zeros((len(wide), WIDTHS.size))
    rows = np.broadcast_to(np.arange(len(wide))[:, None], wide.shape)
    taken = passed > 0
    np.add.at(shares, (rows, high - 1), np.where(taken, 1 - upper, 0.0))
    np.add.at(shares, (rows, high), np.where(taken, upper, 0.0))
    return shares
