"""What given topologies are worth on a workload, beside the best tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.placement import place, scene_of
from magicplan.planning.request import Request, Resolved, resolve
from magicplan.planning.tree_cells import Limits, tree_cells
from magicplan.roofline.drafts import catch_up_seconds
from magicplan.roofline.speculation import verify_seconds
from magicplan.roofline.tree_speculation import draft_pass_seconds
from magicplan.roofline.trees import LARGEST, Tree


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Worth:
    """One topology on the workload; `loss` is the throughput it loses against the best tree."""

    tree: Tree
    tokens_per_round: float
    round_seconds: float
    speedup: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Valued:
    """Given trees in their order, and the size and speedup of the best one."""

    resolved: Resolved
    worths: tuple[Worth, ...]
    best_size: int
    best_speedup: float


def value_trees(request: Request, trees: list[Tree], *, max_depth: int = 12) -> Valued:
    """Time and worth of every tree. Raises UsageError for a grid or a draft without trees."""
    ask = resolve(request)
    draft = ask.draft
    if not ask.scalar:
        raise UsageError("--from values trees on one workload: give one --batch and one --ctx")
    if draft is None or not draft.grows_trees:
        raise UsageError(f"--draft {request.draft} cannot draft a tree; choose self or a model")
    largest = max(tree.size for tree in trees)
    if largest > LARGEST:
        raise UsageError(f"--from: a tree of {largest} nodes, expected at most {LARGEST}")
    scene = scene_of(ask, place(ask))
    depth = max(max_depth, *(tree.depth for tree in trees))
    limits = Limits(size=max(64, largest), depth=depth, ranks=request.tree_ranks)
    cells = tree_cells(scene, draft, ask.acceptance, limits)
    ranks, best = cells.columns[0].ranks, float(cells.best.speedup[0, 0])
    plain = float(verify_seconds(scene, np.ones(1))[0, 0, 0])
    overhead = scene.machine.calibration.host.round_seconds
    asked = draft, scene.layout, scene.machine, scene.batch, scene.ctx
    catch_up = float(np.max(catch_up_seconds(*asked)))
    worths = []
    for tree in trees:
        emitted = tree.expected_tokens(ranks.table, ranks.shares)
        passes = np.array(tree.level_widths[:-1], dtype=np.float64)
        drafting = catch_up + float(draft_pass_seconds(scene, draft, passes).sum())
        verify = float(verify_seconds(scene, np.array([float(tree.size)]))[0, 0, 0])
        total = verify + (drafting + overhead if tree.size > 1 else 0.0)
        gain = emitted * plain / total
        worths.append(
            Worth(
                tree=tree,
                tokens_per_round=emitted,
                round_seconds=total,
                speedup=gain,
                loss=max(0.0, 1 - gain / best),
            )
        )
    size = int(cells.best.size[0, 0])
    return Valued(resolved=ask, worths=tuple(worths), best_size=size, best_speedup=best)
