"""One draft tree: its topology, and what its nodes are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.errors import UsageError
from magicplan.roofline.deployment import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A draft tree by its parents: breadth first, the root -1. Raises UsageError if it is none."""

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parents or self.parents[0] != -1:
            raise UsageError("a tree starts with its root, whose parent is -1")
        for node, parent in enumerate(self.parents[1:], 1):
            if parent == -1:
                raise UsageError(f"node {node} is a second root; a tree has one")
            if not 0 <= parent < node:
                raise UsageError(f"node {node} has parent {parent}, expected an earlier node")
        levels = self.levels
        if any(levels[i] > levels[i + 1] for i in range(len(levels) - 1)):
            raise UsageError("nodes are not in breadth-first order")

    @classmethod
    def chain(cls, gamma: int) -> Tree:
        """The chain of `gamma` drafted tokens."""
        return cls(parents=tuple(range(-1, gamma)))

    @property
    def size(self) -> int:
        """Nodes, the root included."""
        return len(self.parents)

    @property
    def levels(self) -> tuple[int, ...]:
        """Level of every node, the root's 0."""
        found: list[int] = []
        for parent in self.parents:
            found.append(found[parent] + 1 if parent >= 0 else 0)
        return tuple(found)

    @property
    def depth(self) -> int:
        """Levels, the root's included."""
        return self.levels[-1] + 1

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Nodes in every level."""
        return tuple(np.bincount(self.levels).tolist())

    @property
    def ranks(self) -> tuple[int, ...]:
        """Which child of its parent every node is, from 0; 0 for the root."""
        seen: dict[int, int] = {}
        found = []
        for parent in self.parents:
            found.append(seen.get(parent, 0))
            seen[parent] = found[-1] + 1
        return tuple(found)

    @property
    def beam(self) -> int:
        """Nodes that an engine has to expand at every level to hold this tree, with as many
        children each: the most siblings, or the most parents in a level."""
        levels = self.levels
        parents = np.bincount([levels[p] for p in set(self.parents[1:])] or [0])
        return int(max(max(self.ranks) + 1, parents.max()))

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """Child ranks from the root down to every node but the root."""
        found: list[tuple[int, ...]] = [()]
        for parent, rank in zip(self.parents[1:], self.ranks[1:], strict=True):
            found.append((*found[parent], rank))
        return tuple(found[1:])

    def mask(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """[node, node]: whether the column is the row's node or one of its ancestors."""
        mask = np.eye(self.size, dtype=np.bool_)
        for node, parent in enumerate(self.parents[1:], 1):
            mask[node] |= mask[parent]
        return mask

    def weights(self, ranks: Array, shares: Array | None = None) -> Array:
        """Survival probability of every node under `ranks` [rank], [level, rank] or, with class
        `shares` [class], [class, level, rank]."""
        table = np.asarray(ranks, dtype=np.float64)
        if shares is not None:
            return np.asarray(sum(s * self.weights(t) for s, t in zip(shares, table, strict=True)))
        by_level = np.atleast_2d(table)
        by_level = np.concatenate([by_level, np.zeros((len(by_level), 1))], axis=1)
        rank = np.minimum(np.array(self.ranks), by_level.shape[1] - 1)
        parents, start = np.array(self.parents), 1
        worth = np.ones(self.size)
        for level, width in enumerate(self.level_widths[1:]):
            nodes = slice(start, start + width)
            step = by_level[min(level, len(by_level) - 1), rank[nodes]]
            worth[nodes] = worth[parents[nodes]] * step
            start += width
        return worth

    def expected_tokens(self, ranks: Array, shares: Array | None = None) -> float:
        """G of this tree."""
        return float(self.weights(ranks, shares).sum())
