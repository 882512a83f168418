"""One way to speculate on one workload, with its numbers and its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.prediction.choice.contenders import Way
from magicplan.prediction.choice.standing import who_runs
from magicplan.prediction.placement import Placement
from magicplan.roofline.speculation import Rounds
from magicplan.roofline.tree_grid import TreeCells
from magicplan.roofline.trees import Tree


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """One way to speculate on one workload: a chain (`tree` is one too) or a tree."""

    draft: str
    method: str
    kind: str
    runs_on_stack: bool
    exists_for_model: bool
    head: str | None
    """The Hugging Face id of the head that it drafts with, where it needs one."""
    measured: bool
    """Whether its acceptance was stated, or measured with this very target."""
    kv_growth: str
    tree: Tree
    tokens_per_round: float
    draft_seconds: float
    verify_seconds: float
    round_seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float
    draft_bytes: float
    max_batch: int
    acceptance: str
    runners: str
    """Which stacks run it, as a clause."""

    @property
    def launchable(self) -> bool:
        """Whether the stack runs it and it exists for the target."""
        return self.runs_on_stack and self.exists_for_model

    @property
    def gamma(self) -> int | None:
        """Draft length of a chain; None for a tree."""
        return self.tree.size - 1 if self.kind == "chain" else None

    @property
    def size(self) -> int | None:
        """Nodes of a tree, its root counted; None for a chain."""
        return self.tree.size if self.kind == "tree" else None


def plan_of(way: Way, placement: Placement, at: tuple[int, ...] = (0, 0)) -> Plan:
    """One way to speculate in one cell."""
    one = way.contender
    most = np.broadcast_to(
        one.held.max_batch_per_replica * placement.layout.replicas, way.speedup.shape
    )
    if way.kind == "chain":
        tree, numbers = Tree.chain(int(way.gamma[at])), _chain(one.table, at, int(way.gamma[at]))
    else:
        assert one.trees is not None
        tree, numbers = one.trees.tree(*at), _tree(one.trees, at)
    return Plan(
        kind=way.kind,
        draft=one.draft.name,
        method=one.draft.method,
        runs_on_stack=way.standing.runs_on_stack,
        exists_for_model=way.standing.exists_for_model,
        head=way.standing.head,
        measured=way.standing.measured,
        kv_growth=one.draft.kv_growth,
        draft_bytes=float(np.max(one.held.draft_bytes)),
        max_batch=int(most[at]),
        acceptance=one.acceptance.origin,
        runners=who_runs(one.draft, tree=way.kind == "tree"),
        tree=tree,
        **numbers,
    )


PARTS = ("tokens_per_round", "draft_seconds", "verify_seconds", "round_seconds", "speedup")


def _chain(table: Rounds, at: tuple[int, ...], gamma: int) -> dict[str, float]:
    def value(name: str) -> float:
        values = np.broadcast_to(getattr(table, name), table.round_seconds.shape)
        return float(values[(*at, gamma)])

    return {name: value(name) for name in (*PARTS, "speedup_low", "speedup_high")}


def _tree(trees: TreeCells, at: tuple[int, ...]) -> dict[str, float]:
    low, high = trees.interval(*at)
    numbers = {name: float(getattr(trees.best, name)[at]) for name in PARTS}
    return numbers | {"speedup_low": low, "speedup_high": high}
