"""Sequoia's optimal draft trees (Chen et al., arXiv 2402.12374), for every size and depth at once.

A node is worth its survival probability: the product of the acceptance of its child ranks along
the path. Ranks are unconditional: p_k is the probability that the k-th child drawn is the one
accepted, so they sum to at most 1. G(n, d), the tokens a tree of n nodes and at most d levels
emits, is the sum of its nodes' worth; root and bonus token are counted.

Where ranks do not increase, the n heaviest nodes of level d or less are closed under parent and
elder sibling, so they are a tree, and no tree is worth more: one merge of levels gives the whole
table. For other ranks Sequoia's dynamic programme is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.errors import UsageError
from magicplan.roofline.deployment import Array, Indices
from magicplan.roofline.tree import Tree

__all__ = [
    "Tree", "TreeTable", "best_trees", "fitted_power_law", "non_increasing", "power_law",
]  # fmt: skip


LARGEST, DEEPEST = 4096, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeTable:
    """The best trees of every size and depth.

    `expected_tokens` [depth - 1, size - 1] is G, -inf where no such tree exists; `widths`
    [depth - 1, size - 1, level] counts that tree's nodes by level. Infeasible trees have no nodes.
    """

    expected_tokens: Array
    widths: Indices
    _build: _Merged | _Programme

    @cached_property
    def survival(self) -> Array:
        """Worth by level, [depth - 1, size - 1, level]: the chance that a round gets that far."""
        return np.where(np.isfinite(self.expected_tokens)[..., None], self._build.survival(), 0.0)

    @cached_property
    def variance(self) -> Array:
        """Variance of the tokens a round emits, [depth - 1, size - 1]: sum (2 l + 1) S_l - G^2."""
        levels = np.arange(self.survival.shape[-1])
        mean = self.survival.sum(axis=-1)
        second = ((2 * levels + 1) * self.survival).sum(axis=-1)
        return np.asarray(np.maximum(second - mean**2, 0.0))

    @cached_property
    def beams(self) -> Indices:
        """`Tree.beam` of every tree, [depth - 1, size - 1]; 0 where there is none."""
        return np.where(np.isfinite(self.expected_tokens), self._build.beams(), 0)

    def tree(self, size: int, depth: int) -> Tree:
        """The best tree of exactly `size` nodes and at most `depth` levels."""
        levels, nodes = self.expected_tokens.shape
        if not (1 <= depth <= levels and 1 <= size <= nodes):
            raise UsageError(
                f"tree of {size} nodes, {depth} levels: the table ends at "
                f"{nodes} nodes, {levels} levels"
            )
        if not np.isfinite(self.expected_tokens[depth - 1, size - 1]):
            raise UsageError(f"no tree of {depth} levels has {size} nodes with these ranks")
        return self._build.tree(size, depth)


def best_trees(
    ranks: Array, max_size: int, max_depth: int, weights: Array | None = None
) -> TreeTable:
    """The best trees for `ranks` [rank], [level, rank] or, with class `weights` [class], a mixture
    [class, level, rank].

    Raises UsageError for ranks that are no probabilities, or a mixture whose ranks increase.
    """
    table = _checked(ranks, max_size, max_depth, weights)
    shares = np.ones(1) if weights is None else np.asarray(weights, dtype=np.float64)
    if (np.diff(table, axis=-1) <= 0).all():
        return _merge(table, shares, max_size, max_depth)
    if weights is not None:
        raise UsageError("ranks of a mixture must not increase; smooth them first")
    return _programme(table[0], max_size, max_depth)


def _checked(ranks: Array, max_size: int, max_depth: int, weights: Array | None) -> Array:
    """[class, level, rank] with one level a step down; probabilities that sum to at most 1."""
    if not 1 <= max_size <= LARGEST:
        raise UsageError(f"tree size {max_size}: expected 1 to {LARGEST}")
    if not 1 <= max_depth <= DEEPEST:
        raise UsageError(f"tree depth {max_depth}: expected 1 to {DEEPEST}")
    table = np.asarray(ranks, dtype=np.float64)
    if table.size == 0 or table.ndim > 3 or not ((table >= 0) & (table <= 1)).all():
        raise UsageError("acceptance by rank must be numbers from 0 to 1")
    if (table.sum(axis=-1) > 1 + 1e-9).any():
        raise UsageError("acceptance by rank sums to more than 1")
    classes = 1 if weights is None else len(weights)
    if table.ndim == 1 or (table.ndim == 2 and weights is not None):
        table = table[..., None, :]
    table = table.reshape(classes, -1, table.shape[-1])
    level = np.minimum(np.arange(max(1, max_depth - 1)), table.shape[1] - 1)
    return np.asarray(table[:, level])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Level:
    """The heaviest nodes of one level, heaviest first: worth by class, parent's place, rank."""

    by_class: Array
    worth: Array
    parent: Indices
    rank: Indices


@dataclass(frozen=True, kw_only=True, eq=False)
class _Merged:
    """Levels of heaviest nodes, and for every depth the order in which trees take them."""

    levels: list[_Level]
    order: list[Indices]
    max_size: int

    def survival(self) -> Array:
        """[depth - 1, size - 1, level], whether feasible or not."""
        worth = np.concatenate([level.worth for level in self.levels])
        found = np.zeros((len(self.order), self.max_size, len(self.levels)))
        for depth, order in enumerate(self.order):
            found[depth, np.arange(order.size), self.labels[order]] = worth[order]
        return np.cumsum(found, axis=1)

    def beams(self) -> Indices:
        """[depth - 1, size - 1], whether feasible or not. Elder siblings come first, so that the
        children of rank 0 in a level count the parents in the level above."""
        ranks = np.concatenate([level.rank for level in self.levels])
        found = np.ones((len(self.order), self.max_size), dtype=np.int64)
        for depth, order in enumerate(self.order):
            parents = np.zeros((order.size, len(self.levels)), dtype=np.int64)
            parents[np.arange(order.size), self.labels[order]] = ranks[order] == 0
            siblings = np.maximum.accumulate(ranks[order]) + 1
            found[depth, : order.size] = np.maximum(siblings, parents.cumsum(axis=0).max(axis=1))
        return found

    @cached_property
    def labels(self) -> Indices:
        """Level of every node of all levels, one after another."""
        return np.repeat(np.arange(len(self.levels)), [level.worth.size for level in self.levels])

    def tree(self, size: int, depth: int) -> Tree:
        """The first `size` nodes of the order, breadth first; parents before elder siblings."""
        start = np.cumsum([0, *(level.worth.size for level in self.levels)])
        chosen = np.sort(self.order[depth - 1][:size])
        place = {int(node): i for i, node in enumerate(chosen)}
        parents = [-1]
        for node in chosen[1:]:
            level = int(self.labels[node])
            above = int(self.levels[level].parent[node - start[level]])
            parents.append(place[int(start[level - 1]) + above])
        return _breadth_first(parents)


def _breadth_first(parents: list[int]) -> Tree:
    """Nodes of a level in the order of their parents, so that children lie together."""
    order, at = [0], 0
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents[1:], 1):
        children.setdefault(parent, []).append(node)
    while at < len(order):
        order += children.get(order[at], [])
        at += 1
    place = {node: i for i, node in enumerate(order)}
    return Tree(parents=tuple(-1 if n == 0 else place[parents[n]] for n in order))


def _merge(ranks: Array, shares: Array, max_size: int, max_depth: int) -> TreeTable:
    """Non-increasing ranks: keep the heaviest nodes of each level, merge levels for each depth.

    Sorting is stable with upper levels and elder siblings first, so equal weights keep parents in.
    """
    levels = _heaviest_levels(ranks, shares, max_size, max_depth)
    worth = np.concatenate([level.worth for level in levels])
    labels = np.repeat(np.arange(len(levels)), [level.worth.size for level in levels])
    tokens = np.full((max_depth, max_size), -np.inf)
    widths = np.zeros((max_depth, max_size, max_depth), dtype=np.int64)
    orders = []
    for depth in range(1, max_depth + 1):
        nodes = int(np.searchsorted(labels, depth))
        order = np.argsort(-worth[:nodes], kind="stable")[:max_size]
        orders.append(order)
        tokens[depth - 1, : order.size] = np.cumsum(worth[order])
        widths[depth - 1, np.arange(order.size), labels[order]] = 1
    np.cumsum(widths, axis=1, out=widths)
    widths[~np.isfinite(tokens)] = 0
    build = _Merged(levels=levels, order=orders, max_size=max_size)
    return TreeTable(expected_tokens=tokens, widths=widths, _build=build)


def _heaviest_levels(ranks: Array, shares: Array, max_size: int, max_depth: int) -> list[_Level]:
    zero = np.zeros(1, dtype=np.int64)
    root = np.ones((shares.size, 1))
    levels = [_Level(by_class=root, worth=shares @ root, parent=zero - 1, rank=zero)]
    width = ranks.shape[-1]
    for depth in range(max_depth - 1):
        parent, rank = _contenders(levels[-1].worth.size, width, max_size, shares.size)
        children = levels[-1].by_class[:, parent] * ranks[:, depth, rank]
        worth = shares @ children
        top = np.argsort(-worth, kind="stable")[:max_size]
        levels.append(
            _Level(by_class=children[:, top], worth=worth[top], parent=parent[top], rank=rank[top])
        )
    return levels


def _contenders(parents: int, width: int, max_size: int, classes: int) -> tuple[Indices, Indices]:
    """Parents and ranks of children that may be among the heaviest, parents first.

    In one class the k-th child of the i-th heaviest parent has i k - 1 others that are no lighter,
    so it matters only if i k is at most the size of the largest tree.
    """
    place, rank = np.divmod(np.arange(parents * width), width)
    if classes > 1:
        return place, rank
    matters = (place + 1) * (rank + 1) <= max_size
    return place[matters], rank[matters]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stage:
    """Best subtrees below a node of one level with so many levels left.

    `tokens` [size], nodes and worth by level of the best [size, level], its branches [size], and
    how many nodes the last branch of a node with b branches takes, [branch, size].
    """

    tokens: Array
    widths: Indices
    survival: Array
    branches: Indices
    taken: Indices


@dataclass(frozen=True, kw_only=True, eq=False)
class _Programme:
    """Stages by (level, levels left)."""

    stages: dict[tuple[int, int], _Stage]
    same_levels: bool
    max_depth: int

    def survival(self) -> Array:
        """[depth - 1, size - 1, level], whether feasible or not."""
        return np.stack([self.stage(0, d).survival for d in range(1, self.max_depth + 1)])

    def beams(self) -> Indices:
        """[depth - 1, size - 1], 0 where infeasible."""
        tokens = np.stack([self.stage(0, d).tokens for d in range(1, self.max_depth + 1)])
        found = np.zeros(tokens.shape, dtype=np.int64)
        for depth, size in np.argwhere(np.isfinite(tokens)):
            found[depth, size] = self.tree(int(size) + 1, int(depth) + 1).beam
        return found

    def stage(self, level: int, left: int) -> _Stage:
        """Levels with the same ranks share their stages."""
        return self.stages[(0 if self.same_levels else level, left)]

    def tree(self, size: int, depth: int) -> Tree:
        """Follow the choices from the root down."""
        parents: list[int] = []
        pending = [(-1, size, 0)]
        while pending:
            parent, nodes, level = pending.pop(0)
            node = len(parents)
            parents.append(parent)
            stage = self.stage(level, depth - level)
            sizes, left = [], nodes
            for branch in range(int(stage.branches[nodes - 1]), 0, -1):
                taken = int(stage.taken[branch - 1, left - 1])
                sizes.append(taken)
                left -= taken
            pending += [(node, taken, level + 1) for taken in reversed(sizes)]
        return Tree(parents=tuple(parents))


def _programme(ranks: Array, max_size: int, max_depth: int) -> TreeTable:
    """Sequoia's recurrence (Algorithm 1) for any ranks [level, rank]:

    T[n, d, b] = max over m of T[n - m, d, b - 1] + p_b max_j T[m, d - 1, j].
    """
    same = bool((ranks == ranks[0]).all())
    plan = _Programme(stages={}, same_levels=same, max_depth=max_depth)
    for left in range(1, max_depth + 1):
        for level in range(1 if same else max_depth - left + 1):
            below = plan.stages.get((0 if same else level + 1, left - 1))
            at = ranks[min(level, len(ranks) - 1)]
            plan.stages[(level, left)] = _stage(at, below, max_size, max_depth)
    stages = [plan.stage(0, depth) for depth in range(1, max_depth + 1)]
    tokens = np.stack([stage.tokens for stage in stages])
    widths = np.stack([stage.widths for stage in stages])
    feasible = np.isfinite(tokens)[..., None]
    return TreeTable(expected_tokens=tokens, widths=np.where(feasible, widths, 0), _build=plan)


def _stage(ranks: Array, below: _Stage | None, max_size: int, max_depth: int) -> _Stage:
    """One level of the recurrence: branches are added one by one, each a max-plus product."""
    best = np.full(max_size, -np.inf)
    best[0] = 1.0
    branches = np.zeros(max_size, dtype=np.int64)
    taken = np.zeros((ranks.size, max_size), dtype=np.int64)
    widths = np.zeros((max_size, max_depth), dtype=np.int64)
    widths[:, 0] = 1
    survival = widths.astype(np.float64)
    if below is None:
        return _Stage(tokens=best, widths=widths, survival=survival, branches=branches, taken=taken)
    current, wide, alive, place = best.copy(), widths, survival, np.arange(max_size)
    feasible = np.isfinite(below.tokens)
    lower, lower_alive = _a_level_down(below.widths), _a_level_down(below.survival)
    for branch, p in enumerate(ranks):
        # a branch of rank 0 is worth nothing, but may hold nodes: mask, never multiply by -inf
        gain = np.full(max_size, -np.inf)
        gain[feasible] = p * below.tokens[feasible]
        current, taken[branch] = _max_plus(current, gain)
        rest, into = place - taken[branch], taken[branch] - 1
        wide, alive = wide[rest] + lower[into], alive[rest] + p * lower_alive[into]
        better = current > best
        best = np.where(better, current, best)
        branches = np.where(better, branch + 1, branches)
        widths = np.where(better[:, None], wide, widths)
        survival = np.where(better[:, None], alive, survival)
        if not np.isfinite(current).any():
            break
    return _Stage(tokens=best, widths=widths, survival=survival, branches=branches, taken=taken)


def _a_level_down(by_level: NDArray[Any]) -> NDArray[Any]:
    """[size, level] of a subtree, counted from the level above it."""
    lower = np.roll(by_level, 1, axis=1)
    lower[:, 0] = 0
    return lower


def _max_plus(first: Array, second: Array) -> tuple[Array, Indices]:
    """max over m of first[n - m] + second[m], sizes counted from 1, and the m that attains it."""
    size = first.size
    padded = np.concatenate([np.full(size, -np.inf), first])
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:size]
    # row n holds first[n - size .. n - 1]; reversed, its column m - 1 is first[n - m]
    sums = windows[:, ::-1] + second
    place = sums.argmax(axis=1)
    return sums[np.arange(size), place], place + 1


def fitted_power_law(ranks: Array) -> Array:
    """The power law through a measured vector: its first rank, which is the best known, and the
    decay of r_k = r_1 k^-b that fits the others in least squares of logarithms."""
    ranks = np.asarray(ranks, dtype=np.float64)
    reject = 1 - np.cumsum(ranks)
    k = np.log(np.arange(1.0, ranks.size + 1))
    usable = (reject > 1e-12) & (k > 0)
    if reject[0] <= 0 or not usable.any():
        return non_increasing(ranks)
    fall = np.log(reject[usable] / reject[0])
    decay = max(0.0, -float(k[usable] @ fall / (k[usable] @ k[usable])))
    # where little is accepted the second rank would exceed the first
    return np.asarray(np.minimum(power_law(float(ranks[0]), decay, ranks.size), ranks[0]))


def power_law(first: float, decay: float, width: int) -> Array:
    """Ranks whose reject-all probability is r_k = (1 - first) k^-decay: two numbers for all."""
    reject = (1 - first) * np.arange(1.0, width + 1) ** -decay
    return np.concatenate([[first], -np.diff(reject)])


def non_increasing(ranks: Array) -> Array:
    """The nearest non-increasing vector in least squares, by pooling adjacent violators."""
    pools: list[tuple[float, int]] = []
    for value in np.asarray(ranks, dtype=np.float64):
        total, count = float(value), 1
        while pools and pools[-1][0] / pools[-1][1] < total / count:
            more, members = pools.pop()
            total, count = total + more, count + members
        pools.append((total, count))
    return np.concatenate([np.full(count, total / count) for total, count in pools])
