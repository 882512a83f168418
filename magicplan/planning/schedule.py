"""The best plan's draft length over batch x context, and its step along either axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.candidates import SizedChoice, tree_rules
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Candidate, Curve, Schedule, ThresholdUsed, TreeRule
from magicplan.planning.search import acceptance_of, drafts_of
from magicplan.prediction.adaptive_trees import TreePoint, adaptive_trees
from magicplan.prediction.predict import answer
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.prediction.thresholds import Planned
from magicplan.prediction.thresholds import schedule as thresholds
from magicplan.roofline.deployment import Array
from magicplan.serving.step_time import step_parts

SCHEMA = "magicplan.schedule/1"
SHORTEST_CTX = 512.0
MOST_NODES, DEEPEST = 48, 10
KINDS = ("linear", "attention", "collective", "elementwise", "host")


def grid_prediction(
    ask: PlanRequest, choice: SizedChoice, best: Candidate, planned: Planned | None
) -> Prediction | None:
    """One replica of the best plan over batch x context with its draft, its own batch included;
    without one, with the first of the request's that can be predicted. None where there is none.
    """
    row = choice.row
    asked = drafts_of(ask, row.resolved.model)
    names = [best.draft] if best.draft != "none" else [d for d in asked if d != "none"]
    batches = sorted({*_batches(best), *([planned.batch_lo] if planned else [])})
    for text in names:
        name, _, view = text.partition(" ")
        question = replace(
            row.resolved.request, draft=name, draft_kv=view or None,
            acceptance=acceptance_of(ask, text), task=ask.choices.task,
            max_gamma=ask.choices.max_gamma,
            gpus=row.gpus_per_replica, tp=row.tp, pp=row.pp, ep=row.ep,
            attention_dp=row.attention_dp, batch=batches, ctx=_contexts(choice),
        )  # fmt: skip
        try:
            return answer(resolve(question))
        except UsageError:
            continue
    return None


def _batches(best: Candidate) -> list[int]:
    most = max(best.max_batch_per_replica, int(best.batch_per_replica) + 1, 2)
    return sorted({int(b) for b in np.unique(np.rint(np.geomspace(1, most, 9)))})


def _contexts(choice: SizedChoice) -> list[int]:
    """Doublings from 512 tokens to past the longest request."""
    lengths = choice.row.replica.load.lengths
    longest = max(float((lengths.prompt + lengths.output).max()), 2 * SHORTEST_CTX)
    octaves = int(np.ceil(np.log2(longest / SHORTEST_CTX)))
    return [int(SHORTEST_CTX * 2**n) for n in range(octaves + 1)]


def planned_of(choice: SizedChoice, best: Candidate) -> Planned | None:
    """The plan's own draft length and where it holds; None where it drafts nothing."""
    if not best.gamma:
        return None
    batches = sorted((best.batch_per_replica, choice.sized.batch))
    low, high = (max(int(np.rint(batch)), 1) for batch in batches)
    return Planned(
        batch_lo=low,
        batch_hi=high,
        ctx_tokens=best.ctx_tokens,
        gamma=best.tree.chain_gamma if best.tree else best.gamma,
        share=1 / best.tree.gain if best.tree else 1.0,
    )


def schedule_of(
    grid: Prediction, choice: SizedChoice, best: Candidate, planned: Planned | None
) -> Schedule:
    """The table and its thresholds, for chains and, where the draft can, for trees."""
    trees = _trees(grid)
    shape = grid.placement.fits.shape
    edges = grid.break_even.speedup_one_ctx_tokens
    return Schedule(
        draft=grid.resolved.draft.name if grid.resolved.draft else "none",
        batches=tuple(int(b) for b in grid.resolved.batch[:, 0]),
        ctx_tokens=tuple(int(c) for c in grid.resolved.ctx[0]),
        gammas=tuple(tuple(int(g) for g in row) for row in np.broadcast_to(grid.best.gamma, shape)),
        speedups=_rows(grid.best.speedup, shape),
        speedups_low=_rows(grid.best.speedup_low, shape),
        speedups_high=_rows(grid.best.speedup_high, shape),
        break_even_ctx_tokens=tuple(float(e) for e in np.asarray(edges).reshape(-1)),
        thresholds=tuple(
            ThresholdUsed(
                batch_lo=t.batch_lo, batch_hi=t.batch_hi, ctx_lo=t.ctx_lo, ctx_hi=t.ctx_hi,
                gamma=t.gamma, loss=t.loss,
            )
            for t in thresholds(grid, planned)
        ),
        tree_sizes=tuple(tuple(point.size for point in row) for row in trees),
        tree_depths=tuple(tuple(point.depth for point in row) for row in trees),
        tree_speedups=tuple(tuple(point.speedup for point in row) for row in trees),
        tree_rules=tree_rules(
            choice.row,
            grid.resolved.batch[:, 0],
            grid.resolved.ctx[0],
            np.broadcast_to(grid.placement.fits, shape),
            planned,
            (best.tree.size - 1, best.tree.depth - 1) if best.tree else (best.gamma, best.gamma),
        ),
    )  # fmt: skip


def _rows(values: Any, shape: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """[batch][ctx]."""
    return tuple(tuple(float(v) for v in row) for row in np.broadcast_to(values, shape))


def schedule_document(schedule: Schedule) -> dict[str, Any]:
    """What a scheduler reads: ranges of batch and context, both ends included, and the draft
    length there; 0 is off. `trees` are ranges of their own with the parents of every node, breadth
    first; a root alone is off. Cells beyond the last ranges take the nearest."""
    return {
        "schema": SCHEMA,
        "draft": schedule.draft,
        "thresholds": [_span(t) | {"gamma": t.gamma} for t in schedule.thresholds],
        "trees": [_span(t) | {"parents": list(t.parents)} for t in schedule.tree_rules],
    }


def _span(t: ThresholdUsed | TreeRule) -> dict[str, Any]:
    return {"batch": [t.batch_lo, t.batch_hi], "ctx_tokens": [t.ctx_lo, t.ctx_hi]}


def _trees(grid: Prediction) -> list[list[TreePoint]]:
    """The best tree of every cell, [batch][ctx]; [] where the draft drafts none."""
    draft = grid.resolved.draft
    if draft is None or draft.shape is None or draft.middle is not None:
        return []
    found = adaptive_trees(grid.resolved.request, max_size=MOST_NODES, max_depth=DEEPEST)
    columns = grid.resolved.ctx.shape[1]
    points = list(found.points)  # by batch, then context
    return [points[i : i + columns] for i in range(0, len(points), columns)]


def curves(choice: SizedChoice, best: Candidate) -> tuple[Curve, ...]:
    """Step breakdown over batch at the mean context, and over context at the planned batch."""
    batches = np.asarray(_batches(best), dtype=np.float64)
    contexts = np.asarray(_contexts(choice), dtype=np.float64)
    mean = np.asarray(best.ctx_tokens)
    planned = np.asarray(max(best.batch_per_replica, 1.0))
    return (
        _curve(choice, "batch", batches, batches, mean),
        _curve(choice, "ctx_tokens", contexts, planned, contexts),
    )


def _curve(choice: SizedChoice, axis: str, values: Array, batch: Array, ctx: Array) -> Curve:
    row = choice.row
    cost, _ = step_parts(row.resolved.model, row.one_layout, row.resolved.machine, batch, ctx)
    parts = {
        f"{kind}_seconds": tuple(
            float(s) for s in np.broadcast_to(getattr(cost, f"{kind}_seconds"), values.shape)
        )
        for kind in KINDS
    }
    return Curve(axis=axis, values=tuple(float(v) for v in values), **parts)
