"""The best way to speculate in every cell of a grid: over drafts, KV budgets, chains and trees."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import tree_basis
from magicplan.prediction.candidates import LeftOut, candidate_drafts
from magicplan.prediction.compare_drafts import COMPARED_ON, notes_of, resolve_for_all
from magicplan.prediction.draft_names import acceptance_for
from magicplan.prediction.placement import Placement, held_by, most_nodes, place, scene_of
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.verdict import most_sentence
from magicplan.roofline.deployment import Array, Indices
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import Rounds, Scene, rounds
from magicplan.roofline.tree_grid import Limits, TreeCells, tree_cells

WORTH_A_TREE = 1.001
"""A tree has to beat its draft's best chain by this factor, for a chain is simpler."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """One draft over the whole grid: its chains, its trees, and the cells that hold it."""

    draft: Draft
    table: Rounds
    trees: TreeCells | None
    fits: Array

    def speedups(self, shape: tuple[int, ...]) -> tuple[Array, Indices]:
        """[batch, ctx] of the better of chain and tree, and the chain's draft length, 0 for a
        tree; -inf where the draft does not fit."""
        chains = np.broadcast_to(self.table.speedup, (*shape, self.table.gammas.size))
        gamma, best = 1 + chains[..., 1:].argmax(axis=-1), chains[..., 1:].max(axis=-1)
        if self.trees is not None:
            tree = self.trees.best.speedup
            wins = (tree > best * WORTH_A_TREE) & (self.trees.best.size > 1)
            best, gamma = np.where(wins, tree, best), np.where(wins, 0, gamma)
        return np.where(np.broadcast_to(self.fits, shape), best, -np.inf), gamma


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """What one cell should do. Draft `none`, size 1: do not speculate."""

    batch: int
    ctx_tokens: int
    fits: bool
    draft: str
    method: str
    kind: str
    """chain, tree or none."""
    size: int
    """Nodes, the root included: a chain of gamma tokens has gamma + 1."""
    depth: int
    tokens_per_round: float
    speedup: float
    speedup_low: float
    speedup_high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """The best choice of every cell, batches outside and contexts inside."""

    resolved: Resolved
    placement: Placement
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    assumptions: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """How much the best choices bring, and where."""
        gains = [
            (c.speedup, c.batch, c.ctx_tokens, c.draft) for c in self.cells if c.kind != "none"
        ]
        fits = any(cell.fits for cell in self.cells)
        return most_sentence("Speculation brings", gains, fits=fits)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan sweep --choice`, a record a cell."""
        return {
            "schema": "magicplan.choice/1",
            "accelerator": self.resolved.machine.accelerator.name,
            "model": self.resolved.model.name,
            "verdict": {"text": self.verdict},
            "cells": [asdict(cell) for cell in self.cells],
            "left_out": [{"method": e.method, "reason": e.reason} for e in self.left_out],
            "assumptions": list(self.assumptions),
        }


def choose_everywhere(request: Request, *, max_size: int = 64, max_depth: int = 12) -> Choice:
    """Every draft of the catalogue over the grid, the fastest in each cell; not to speculate is
    always a candidate."""
    ask = resolve_for_all(request, max_size)
    placement = place(ask)
    scene = scene_of(ask, placement)
    limits = Limits(size=max_size, depth=max_depth, ranks=request.tree_ranks)
    drafts, left_out = candidate_drafts(ask.model, own_pool=request.stack.startswith("magicdec"))
    contenders = []
    for draft in drafts:
        try:
            contenders.append(_contender(request, ask, placement, scene, draft, limits))
        except UsageError as problem:
            left_out.append(LeftOut(method=draft.name, reason=str(problem)))
    shape = np.broadcast_shapes(ask.batch.shape, ask.ctx.shape)
    found = [contender.speedups(shape) for contender in contenders]
    nothing = (np.ones(shape), np.zeros(shape, dtype=np.int64))
    speedup = np.stack([nothing[0], *(s for s, _ in found)])
    gamma = np.stack([nothing[1], *(g for _, g in found)])
    best = speedup.argmax(axis=0)
    cells = [
        _cell(ask, placement, contenders, at, int(best[at]), int(gamma[(best[at], *at)]))
        for at in np.ndindex(*shape)
    ]
    return Choice(
        resolved=ask,
        placement=placement,
        cells=tuple(cells),
        left_out=tuple(left_out),
        assumptions=(*ask.notes, *tree_basis(ask), COMPARED_ON, *notes_of(drafts)),
    )


def _contender(
    request: Request,
    ask: Resolved,
    placement: Placement,
    scene: Scene,
    draft: Draft,
    limits: Limits,
) -> Contender:
    """A draft's chains and trees. Raises UsageError without acceptance data, or where no cell
    holds it."""
    acceptance = acceptance_for(request.acceptance, ask.model, draft, ask.ctx, request.task)
    fits = np.asarray(held_by(ask, placement, draft.residents, request.max_gamma + 1.0).fits)
    if not fits.any():
        raise UsageError("does not fit beside the target in any cell")
    room = most_nodes(ask, placement, draft.residents)
    return Contender(
        draft=draft,
        table=rounds(scene, draft, acceptance, acceptance.longest(max(request.max_gamma, 1))),
        trees=tree_cells(scene, draft, acceptance, limits, room) if draft.grows_trees else None,
        fits=fits,
    )


def _cell(
    ask: Resolved,
    placement: Placement,
    contenders: list[Contender],
    at: tuple[int, ...],
    best: int,
    gamma: int,
) -> Cell:
    row, column = at
    where: dict[str, Any] = {
        "batch": int(ask.batch[row, 0]),
        "ctx_tokens": int(ask.final_ctx[0, column] - ask.request.output),
        "fits": bool(placement.fits[at]),
    }
    if best == 0 or not where["fits"]:
        return Cell(
            draft="none", method="none", kind="none", size=1, depth=1, tokens_per_round=1.0,
            speedup=1.0, speedup_low=1.0, speedup_high=1.0, **where,
        )  # fmt: skip
    winner = contenders[best - 1]
    named = where | {"draft": winner.draft.name, "method": winner.draft.method}
    if gamma:
        table, shape = winner.table, placement.fits.shape

        def take(values: Array) -> float:
            return float(np.broadcast_to(values, (*shape, table.gammas.size))[(*at, gamma)])

        return Cell(
            kind="chain", size=gamma + 1, depth=gamma + 1,
            tokens_per_round=take(table.tokens_per_round), speedup=take(table.speedup),
            speedup_low=take(table.speedup_low), speedup_high=take(table.speedup_high), **named,
        )  # fmt: skip
    cells = winner.trees
    assert cells is not None
    low, high = cells.interval(row, column)
    return Cell(
        kind="tree", size=int(cells.best.size[at]), depth=int(cells.best.depth[at]),
        tokens_per_round=float(cells.best.tokens_per_round[at]),
        speedup=float(cells.best.speedup[at]), speedup_low=low, speedup_high=high, **named,
    )  # fmt: skip


def choose(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Choice:
    """The best draft, chain or tree of every cell [batch, ctx]. Raises UsageError, DoesNotFit."""
    return choose_everywhere(request(gpu, options), max_size=max_size, max_depth=max_depth)
