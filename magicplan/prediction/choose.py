"""The best way to speculate in every cell of a grid: over drafts, KV budgets, chains and trees."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from magicplan.prediction.adaptive_trees import tree_basis
from magicplan.prediction.choice.candidates import LeftOut
from magicplan.prediction.choice.contenders import (
    COMPARED_ON,
    Contest,
    alternative_of,
    contest,
    first_of,
)
from magicplan.prediction.choice.ways import plan_of
from magicplan.prediction.compare_drafts import notes_of
from magicplan.prediction.placement import Placement
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.verdict import most_sentence
from magicplan.roofline.tree_grid import Limits


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
    runs_on_stack: bool = True
    exists_for_model: bool = True
    head: str | None = None
    """Hugging Face id of the head that it drafts with, where it needs one."""
    alternative: str | None = None
    """The fastest draft that exists for the model and that another stack runs, not this one."""
    alternative_speedup: float | None = None


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
    """Every draft of the catalogue over the grid; in each cell the first of those that can be
    launched (`contest`). Not to speculate is always a candidate."""
    found = contest(request, limits=Limits(size=max_size, depth=max_depth))
    shape = np.broadcast_shapes(found.ask.batch.shape, found.ask.ctx.shape)
    first = first_of(found.ways, shape)
    cells = [_cell(found, at, int(first[at])) for at in np.ndindex(*shape)]
    return Choice(
        resolved=replace(found.ask, request=request),
        placement=found.placement,
        cells=tuple(cells),
        left_out=found.left_out,
        assumptions=(
            *found.ask.notes, *tree_basis(found.ask), COMPARED_ON,
            *notes_of(one.draft for one in found.contenders),
        ),
    )  # fmt: skip


def _cell(found: Contest, at: tuple[int, ...], first: int) -> Cell:
    row, column = at
    ask = found.ask
    where: dict[str, Any] = {
        "batch": int(ask.batch[row, 0]),
        "ctx_tokens": int(ask.final_ctx[0, column] - ask.request.output),
        "fits": bool(found.placement.fits[at]),
    }
    other = alternative_of(found.ways, at) if where["fits"] else None
    if other is not None:
        where["alternative"] = other.contender.draft.name
        where["alternative_speedup"] = float(other.speedup[at])
    if first < 0 or not where["fits"]:
        return Cell(
            draft="none", method="none", kind="none", size=1, depth=1, tokens_per_round=1.0,
            speedup=1.0, speedup_low=1.0, speedup_high=1.0, **where,
        )  # fmt: skip
    plan = plan_of(found.ways[first], found.placement, (row, column))
    names = ("draft", "method", "kind", "tokens_per_round", "speedup", "speedup_low",
             "speedup_high", "runs_on_stack", "exists_for_model", "head")  # fmt: skip
    own = {name: getattr(plan, name) for name in names}
    return Cell(size=plan.tree.size, depth=plan.tree.depth, **own, **where)


def choose(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Choice:
    """The best draft, chain or tree of every cell [batch, ctx]. Raises UsageError, DoesNotFit."""
    return choose_everywhere(request(gpu, options), max_size=max_size, max_depth=max_depth)
