"""Points of h200_model.py that depend on a prediction: trees, and the transferred calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from h200_suites import Suite

from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import Calibration, HostFit
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.roofline.speculation import Scene
from magicplan.roofline.timing import Machine
from magicplan.roofline.tree_speculation import best_tree, tree_times
from magicplan.roofline.trees import Tree, best_trees
from magicplan.validate.forecast import Forecaster
from magicplan.validate.measure.grid import Point

LARGEST_TREE, DEEPEST = 64, 12
FIXED_DEPTH = {8: 5, 16: 6, 32: 7, 64: 8}
"""Levels of the fixed trees, the root's included: about one more each time their size doubles."""


def points_of(
    suite: Suite, forecaster: Forecaster, batch: int, ctx: int, chosen: Tree | None
) -> Iterator[Point]:
    """Chains, fixed trees, and last the tree chosen for this workload, if it is another one."""
    for gamma in suite.gammas:
        yield Point(batch=batch, ctx=ctx, gamma=gamma)
    trees = [fixed_tree(forecaster, size) for size in suite.trees]
    if chosen is not None:
        trees = [tree for tree in trees if tree != chosen] + [chosen]
    for tree in trees:
        yield Point(batch=batch, ctx=ctx, gamma=tree.depth - 1, tree=tree)


def fixed_tree(forecaster: Forecaster, size: int) -> Tree:
    """The tree of that size that emits most within its levels, whatever the workload."""
    ranks = forecaster.acceptance.ranks(LARGEST_TREE, np.asarray(1.0))
    return best_trees(ranks, LARGEST_TREE, DEEPEST).tree(size, FIXED_DEPTH[size])


def adaptive_tree(forecaster: Forecaster, batch: int, ctx: int) -> Tree | None:
    """The tree that the calibrated model takes for this workload; None: do not speculate."""
    s = forecaster.subject
    if s.draft is None:
        return None
    at = np.asarray([[float(batch)]]), np.asarray([[float(ctx)]])
    machine = Machine(accelerator=forecaster.accelerator, calibration=forecaster.calibration)
    scene = Scene(target=s.model, layout=s.layout, machine=machine, batch=at[0], sequences=at[0],
                  ctx=at[1])  # fmt: skip
    table = best_trees(
        forecaster.acceptance.ranks(LARGEST_TREE, np.asarray(1.0)), LARGEST_TREE, DEEPEST
    )
    best = best_tree(tree_times(scene, s.draft, LARGEST_TREE), table, scene)
    size, depth = int(best.size[0, 0]), int(best.depth[0, 0])
    return table.tree(size, depth) if size > 1 else None


def transfer(accelerator: Accelerator) -> Calibration:
    """Kernels of the nearest GPU with a public calibration; a captured graph has no host time."""
    found, _ = calibration_for(accelerator, "vllm")
    return replace(found, host=HostFit(kernel_seconds=found.host.kernel_seconds))


def restored(line: dict[str, Any]) -> Point:
    """The point of a prediction's line."""
    tree = Tree(parents=tuple(line["tree"]["parents"])) if "tree" in line else None
    gamma = tree.depth - 1 if tree else line["gamma"]
    return Point(batch=line["batch"], ctx=line["ctx_tokens"], gamma=gamma, tree=tree)
