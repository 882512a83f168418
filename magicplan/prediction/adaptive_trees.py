"""Adaptive Sequoia Trees: the best tree of one draft for every batch and context."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import FieldError, SpecError, UsageError
from magicplan.fields import Table, parse_json, read_text
from magicplan.prediction.choice.contenders import settled
from magicplan.prediction.placement import most_nodes, place, scene_of
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import Resolved, resolve
from magicplan.prediction.verdict import most_sentence
from magicplan.roofline.deployment import Array
from magicplan.roofline.draft_cost import catch_up_seconds
from magicplan.roofline.speculation import rounds, verify_seconds
from magicplan.roofline.tree_grid import Limits, tree_cells
from magicplan.roofline.tree_speculation import draft_pass_seconds
from magicplan.roofline.trees import LARGEST, Tree


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreePoint:
    """The best tree of one cell; size 1 does not speculate."""

    batch: int
    ctx_tokens: int
    size: int
    depth: int
    tokens_per_round: float
    speedup: float
    speedup_low: float
    speedup_high: float
    chain_speedup: float
    """Speedup of the best chain of the same draft."""
    chain_gamma: int
    fits: bool
    tree: Tree
    weights: Array
    """Survival probability of every node."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreePlan:
    """Best trees over a grid of batches and contexts."""

    resolved: Resolved
    points: tuple[TreePoint, ...]
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan tree`, which is also its file. A row of `mask` tells which nodes
        that node sees, itself included."""
        gains = [
            (p.speedup, p.batch, p.ctx_tokens, f"{p.size} nodes in {p.depth} levels")
            for p in self.points
            if p.fits and p.size > 1
        ]
        fits = any(p.fits for p in self.points)
        return {
            "schema": SCHEMA,
            "accelerator": self.resolved.machine.accelerator.name,
            "model": self.resolved.model.name,
            "draft": self.resolved.draft.name if self.resolved.draft else "none",
            "verdict": {"text": most_sentence("Trees bring", gains, fits=fits)},
            "points": [_document(point) for point in self.points],
            "assumptions": list(self.assumptions),
        }


def _document(point: TreePoint) -> dict[str, Any]:
    names = (
        "batch", "ctx_tokens", "size", "depth", "tokens_per_round", "speedup", "speedup_low",
        "speedup_high", "chain_speedup", "chain_gamma", "fits",
    )  # fmt: skip
    tree = point.tree
    return {name: getattr(point, name) for name in names} | {
        "parents": list(tree.parents),
        "accepted": [float(weight) for weight in point.weights],
        "level_widths": list(tree.level_widths),
        "mask": ["".join("01"[seen] for seen in row) for row in tree.mask().tolist()],
    }


def adaptive_trees(request: Request, *, max_size: int = 64, max_depth: int = 12) -> TreePlan:
    """The best tree in every cell. Raises UsageError for a draft that grows no trees."""
    request = settled(request, trees=True)
    ask = resolve(request)
    draft = ask.draft
    if draft is None or not draft.grows_trees:
        raise FieldError("draft", f"{request.draft} cannot draft a tree; choose self or a model")
    placement = place(ask)
    scene = scene_of(ask, placement)
    limits = Limits(size=max_size, depth=max_depth, ranks=request.tree_ranks)
    room = most_nodes(ask, placement, draft.residents)
    cells = tree_cells(scene, draft, ask.acceptance, limits, room)
    longest = max(1, min(ask.max_gamma, max_depth - 1))
    table = rounds(scene, draft, ask.acceptance, longest)
    shape = cells.best.size.shape
    chains = np.broadcast_to(table.speedup, (*shape, longest + 1))
    points = []
    for row, column in np.ndindex(*shape):
        tree = cells.tree(row, column)
        low, high = cells.interval(row, column)
        points.append(
            TreePoint(
                batch=int(ask.batch[row, 0]),
                ctx_tokens=int(ask.final_ctx[0, column] - ask.request.output),
                size=tree.size,
                depth=tree.depth,
                tokens_per_round=float(cells.best.tokens_per_round[row, column]),
                speedup=float(cells.best.speedup[row, column]),
                speedup_low=low,
                speedup_high=high,
                chain_speedup=float(chains[row, column].max()),
                chain_gamma=int(chains[row, column].argmax()),
                fits=bool(placement.fits[row, column]),
                tree=tree,
                weights=cells.weights(row, column),
            )
        )
    return TreePlan(
        resolved=ask,
        points=tuple(sorted(points, key=lambda point: (point.batch, point.ctx_tokens))),
        assumptions=(
            *ask.notes,
            f"acceptance: {ask.acceptance.origin}",
            *tree_basis(ask),
            *at_the_limit(max((point.size for point in points), default=1), max_size),
        ),
    )


def at_the_limit(largest: int, max_size: int) -> tuple[str, ...]:
    """Said where a larger tree was not looked for."""
    return (f"trees stop at {max_size} nodes (--max-size): more might gain",) * (
        largest >= max_size
    )


def tree_basis(ask: Resolved) -> tuple[str, ...]:
    """What trees and their intervals rest on."""
    timing = ask.machine.calibration.speedup_residual.basis
    return (
        f"speedup interval (80 %): acceptance, and {timing}",
        "where ranks were not measured, later children fall as in Sequoia's shipped vector",
    )


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

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan tree --from`."""
        names = ("tokens_per_round", "round_seconds", "speedup", "loss")
        return {
            "schema": "magicplan.tree_worth/1",
            "best": {"size": self.best_size, "speedup": self.best_speedup},
            "trees": [
                {"size": worth.tree.size, "depth": worth.tree.depth}
                | {name: getattr(worth, name) for name in names}
                for worth in self.worths
            ],
        }


def value_trees(request: Request, trees: list[Tree], *, max_depth: int = 12) -> Valued:
    """Time and worth of every tree. Raises UsageError for a grid or a draft without trees."""
    request = settled(request, trees=True)
    ask = resolve(request)
    draft = ask.draft
    if not ask.scalar:
        raise FieldError("from", "values trees on one workload: give one $batch and one $ctx")
    if draft is None or not draft.grows_trees:
        raise FieldError("draft", f"{request.draft} cannot draft a tree; choose self or a model")
    largest = max(tree.size for tree in trees)
    if largest > LARGEST:
        raise FieldError("from", f": a tree of {largest} nodes, expected at most {LARGEST}")
    scene = scene_of(ask, place(ask))
    depth = max(max_depth, *(tree.depth for tree in trees))
    limits = Limits(size=max(64, largest), depth=depth, ranks=request.tree_ranks)
    cells = tree_cells(scene, draft, ask.acceptance, limits)
    ranks, best = cells.columns[0].ranks, float(cells.best.speedup[0, 0])
    plain = float(verify_seconds(scene, np.ones(1))[0, 0, 0])
    host = scene.machine.calibration.host
    overhead = float(np.max(host.between_passes_seconds(scene.batch)))
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


def trees(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> TreePlan:
    """The best tree of one draft in every cell [batch, ctx]. Raises UsageError, DoesNotFit."""
    return adaptive_trees(request(gpu, options), max_size=max_size, max_depth=max_depth)


SCHEMA = "magicplan.tree/1"


def write_trees(path: Path, document: dict[str, Any]) -> None:
    """Write a tree document. Raises UsageError if the file cannot be written."""
    try:
        path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as problem:
        raise FieldError("out", f"{path}: cannot be written ({problem.strerror})") from None


def read_trees(path: Path) -> list[Tree]:
    """The trees of a JSON file, in its order. Raises SpecError naming the point that is wrong."""
    document = parse_json(read_text(path), path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SpecError(path, f"expected a document of schema {SCHEMA}")
    points = Table(data=document, file=str(path)).tables("points")
    if not points:
        raise SpecError(path, "points is missing or empty")
    return [_tree(point) for point in points]


def _tree(point: Table) -> Tree:
    """A tree whose size and depth, where a point states them, are what its parents say."""
    parents = point.data.get("parents")
    whole = isinstance(parents, list) and all(type(parent) is int for parent in parents)
    if not whole or not parents:
        point.fail("parents", "is no list of whole numbers")
    try:
        tree = Tree(parents=tuple(parents))
    except UsageError as problem:
        point.fail("parents", f": {problem}")
    for name, real in (("size", tree.size), ("depth", tree.depth)):
        if point.data.get(name, real) != real:
            point.fail(name, f"is {point.data[name]}, its parents say {real}")
    return tree
