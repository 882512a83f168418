"""The best tree of one draft in every cell of a grid, with its interval."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import Scene, batch_efficiency, speedup_factors
from magicplan.roofline.tree_speculation import BestTree, best_tree, tree_times
from magicplan.roofline.trees import (
    Tree,
    TreeTable,
    best_trees,
    fitted_power_law,
    non_increasing,
)

RANKS = 32
"""Children of a node that a tree may have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limits:
    """How large trees may become, and how they take measured ranks (`Request.tree_ranks`)."""

    size: int
    depth: int
    ranks: str = "pooled"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankAcceptance:
    """Acceptance by [level, rank], or by [class, level, rank] with the classes' shares."""

    table: Array
    shares: Array | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """All trees for one context: the table, its ranks, and the ranks at the interval's ends."""

    table: TreeTable
    ranks: RankAcceptance
    ends: tuple[RankAcceptance, RankAcceptance]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeCells:
    """The best tree of every cell [batch, ctx]; topologies and intervals are built when asked."""

    scene: Scene
    draft: Draft
    best: BestTree
    columns: tuple[Column, ...]

    def tree(self, row: int, column: int) -> Tree:
        """Its topology."""
        at = (row, column)
        return self.columns[column].table.tree(int(self.best.size[at]), int(self.best.depth[at]))

    def weights(self, row: int, column: int) -> Array:
        """Survival probability of every node."""
        ranks = self.columns[column].ranks
        return self.tree(row, column).weights(ranks.table, ranks.shares)

    def interval(self, row: int, column: int) -> tuple[float, float]:
        """80 % interval of this tree's speedup: its topology stays, acceptance and times vary."""
        speedup = float(self.best.speedup[row, column])
        tree = self.tree(row, column)
        if tree.size == 1:
            return speedup, speedup
        where = self.columns[column]
        middle, low, high = (
            self._rate(tree, ranks, row, column) for ranks in (where.ranks, *where.ends)
        )
        calibration, whole = self.scene.machine.calibration, self.best.round_seconds[row, column]
        host, own = calibration.host, self.draft.own_vocabulary
        steps = (self.best.depth[row, column] - 1) * host.draft_launch_seconds(own)
        batch = np.broadcast_to(self.scene.batch, self.best.size.shape)[row, column]
        below, above = speedup_factors(
            calibration, (middle / low, high / middle), steps / whole,
            host.batch_seconds(batch) / whole,
        )  # fmt: skip
        return speedup / float(below), speedup * float(above)

    def _rate(self, tree: Tree, ranks: RankAcceptance, row: int, column: int) -> float:
        """Tokens a round, less what a static batch loses."""
        survival = np.bincount(tree.levels, weights=tree.weights(ranks.table, ranks.shares))
        mean = float(survival.sum())
        second = float(((2 * np.arange(survival.size) + 1) * survival).sum())
        cells = np.broadcast_to(self.scene.batch, self.best.size.shape)
        scene = replace(self.scene, batch=np.array([[cells[row, column]]]))
        share = batch_efficiency(scene, np.array([[mean]]), max(second - mean**2, 0.0))
        return mean * float(share[0, 0])


def tree_cells(
    scene: Scene,
    draft: Draft,
    acceptance: Acceptance,
    limits: Limits,
    most_nodes: Array | None = None,
) -> TreeCells:
    """The best tree by time in every cell; all batches of a context share a table of trees.

    `most_nodes` [batch, ctx] is what memory allows, where that is known.
    """
    times = tree_times(scene, draft, limits.size)
    contexts = np.broadcast_to(scene.ctx, (1, times.verify_seconds.shape[1]))[0]
    ends = acceptance.interval()
    columns, found = [], []
    for index, ctx in enumerate(contexts):
        ranks = ranks_of(acceptance, draft, float(ctx), limits)
        low, high = (ranks_of(end, draft, float(ctx), limits) for end in ends)
        table = best_trees(ranks.table, limits.size, limits.depth, ranks.shares)
        columns.append(Column(table=table, ranks=ranks, ends=(low, high)))
        found.append(best_tree(times, table, scene, slice(index, index + 1), most_nodes))
    return TreeCells(scene=scene, draft=draft, best=_side_by_side(found), columns=tuple(columns))


def _side_by_side(columns: list[BestTree]) -> BestTree:
    return BestTree(
        **{
            field.name: np.concatenate([getattr(column, field.name) for column in columns], axis=1)
            for field in fields(BestTree)
        }
    )


def ranks_of(acceptance: Acceptance, draft: Draft, ctx: float, limits: Limits) -> RankAcceptance:
    """Acceptance by rank for a draft at one context, in the form asked for."""
    levels = max(1, limits.depth - 1)
    tables = [
        _formed(part.level_ranks(levels, RANKS, ctx, draft.budget_tokens), limits.ranks)
        for _, part in acceptance.classes
    ]
    if len(tables) == 1:
        return RankAcceptance(table=tables[0], shares=None)
    shares = np.array([share for share, _ in acceptance.classes])
    return RankAcceptance(table=np.stack(tables), shares=shares)


def _formed(table: Array, form: str) -> Array:
    """Noise taken out of [level, rank]: pooled where ranks increase, or a power law; or raw."""
    if form == "power-law":
        return np.stack([fitted_power_law(row) for row in table])
    if form == "raw" or (np.diff(table, axis=-1) <= 0).all():
        return table
    return np.stack([non_increasing(row) for row in table])
