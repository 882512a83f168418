"""What is drafted in a round: a chain, or a tree level by level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Topology


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeLevel:
    """Nodes start to end of a tree, one level: `above` [nodes] is each one's parent among the nodes
    of the level above, `rank` [nodes] its place among its siblings, `widest` the most siblings."""

    start: int
    end: int
    above: Tensor
    rank: Tensor
    widest: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DraftShape:
    """What is drafted: a chain of `drafted` tokens, or a tree's nodes without its root.

    parents: as in a tree file, also for a chain. levels: of a tree, below the root; none: a chain.
    """

    parents: tuple[int, ...]
    topology: Topology
    levels: tuple[TreeLevel, ...] = ()

    @classmethod
    def chain(cls, gamma: int, device: torch.device | str = "cpu") -> DraftShape:
        """A chain of that many tokens. Raises UsageError for fewer than one."""
        if gamma < 1:
            raise UsageError(f"gamma {gamma}: a draft has at least one token")
        parents = tuple(range(-1, gamma))
        return cls(parents=parents, topology=Topology.of(parents, device))

    @classmethod
    def tree(cls, parents: tuple[int, ...], device: torch.device | str = "cpu") -> DraftShape:
        """Nodes breadth first, parents[0] = -1. Raises UsageError for another order or no draft."""
        if len(parents) < 2:
            raise UsageError("a draft tree has at least one node below its root")
        topology = Topology.of(parents, device)
        depths = topology.depths.tolist()
        if depths != sorted(depths):
            raise UsageError("nodes of a draft tree are not in breadth-first order")
        levels = tuple(
            _level(parents, depths, level, device) for level in range(1, max(depths) + 1)
        )
        return cls(parents=parents, topology=topology, levels=levels)

    @property
    def seen(self) -> Tensor | None:
        """The ancestor masks that verification's attention takes as `tree`; None for a chain."""
        return self.topology.ancestors if self.levels else None

    @property
    def drafted(self) -> int:
        """The number of tokens drafted a round."""
        return len(self.parents) - 1

    @property
    def most(self) -> int:
        """The most tokens a verification can accept."""
        return len(self.levels) or self.drafted


def _level(
    parents: tuple[int, ...], depths: list[int], level: int, device: torch.device | str
) -> TreeLevel:
    nodes = [node for node, depth in enumerate(depths) if depth == level]
    first_above = depths.index(level - 1)
    above = [parents[node] - first_above for node in nodes]
    rank = [above[:i].count(parent) for i, parent in enumerate(above)]
    return TreeLevel(
        start=nodes[0],
        end=nodes[-1] + 1,
        above=torch.tensor(above, device=device),
        rank=torch.tensor(rank, device=device),
        widest=max(rank) + 1,
    )
