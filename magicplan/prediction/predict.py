"""`predict`: one question about decoding, with the draft named or the best one chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np

from magicplan.prediction.answer import Drafter, Drafters, Others, answer
from magicplan.prediction.choice.contenders import (
    COMPARED_ON,
    Contest,
    Way,
    alternative_of,
    contest,
    first_of,
    rival_of,
)
from magicplan.prediction.choice.ways import Plan, plan_of
from magicplan.prediction.draft_names import NOTHING, draft_notes
from magicplan.prediction.placement import Placement, held_by
from magicplan.prediction.request import Request, request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction, Round
from magicplan.prediction.verdict import better_elsewhere
from magicplan.roofline.speculation import rounds

__all__ = ["answer", "answered", "predict"]


def predict(gpu: str, **options: Any) -> Prediction:
    """Decode step, best draft and draft length, speedup and memory of a workload.

    Takes the fields of `Request`: `predict(gpu="h100", model="llama-3.1-8b", batch=[1, 8],
    ctx=[4096, 65536])` answers for the grid, with arrays [batch, ctx]. Times are seconds, sizes
    bytes. Raises UsageError for names and numbers that make no sense, DoesNotFit for a single
    workload that the GPUs asked for do not hold.
    """
    return answered(request(gpu, options))


def answered(ask: Request) -> Prediction:
    """The prediction of a question: of the draft that it names, or of the one that comes first in
    each cell (`contest`)."""
    if ask.draft != "auto":
        return answer(resolve(ask))
    found = contest(ask, everything=False)
    shape = np.broadcast_shapes(found.ask.batch.shape, found.ask.ctx.shape)
    chosen = _chosen(found, shape)
    drafters = _drafters(chosen, shape)
    most = np.bincount(drafters.which.ravel()).argmax()
    main = drafters.every[most]
    notes = draft_notes(ask, found.ask.model, main.draft, found.ask.ctx, float(ask.output))
    resolved = replace(
        found.ask,
        request=ask,
        draft=main.draft,
        acceptance=main.acceptance,
        max_gamma=main.max_gamma,
        notes=tuple(dict.fromkeys((*found.ask.notes, *notes))),
    )
    others = _others(found, chosen)
    return answer(resolved, _placement(found, main), drafters, others)


def _placement(found: Contest, main: Drafter) -> Placement:
    """The common GPUs with what they hold under the draft of most cells."""
    draft = main.draft
    tokens = main.max_gamma + 1.0
    memory = held_by(found.ask, found.placement, draft.residents if draft else (), tokens)
    most = memory.max_batch_per_replica * found.placement.layout.replicas
    shape = found.placement.fits.shape
    return replace(found.placement, memory=memory, max_batch=np.broadcast_to(most, shape))


def _chosen(found: Contest, shape: tuple[int, ...]) -> dict[tuple[int, ...], Way | None]:
    """The way that comes first in each cell, or the first of those that lose."""
    first = first_of(found.ways, shape)
    return {
        at: found.ways[first[at]] if first[at] >= 0 else rival_of(found.ways, at)
        for at in np.ndindex(*shape)
    }


def _drafters(chosen: dict[tuple[int, ...], Way | None], shape: tuple[int, ...]) -> Drafters:
    """Who drafts in each cell."""
    every: list[Any] = []
    which = np.zeros(shape, dtype=np.int64)
    for at, way in chosen.items():
        one = way.contender if way else None
        if one not in every:
            every.append(one)
        which[at] = every.index(one)
    return Drafters(every=tuple(_drafter(one) for one in every), which=which)


def _drafter(one: Any) -> Drafter:
    if one is None:
        return Drafter(draft=None, acceptance=NOTHING, max_gamma=0)
    return Drafter(
        draft=one.draft,
        acceptance=one.acceptance,
        max_gamma=one.table.gammas.size - 1,
        standing=one.standing,
        table=one.table,
    )


def _others(found: Contest, chosen: dict[tuple[int, ...], Way | None]) -> Others:
    """Trees in the cells that choose one, and for one workload the best that another stack runs."""
    plain = rounds(found.scene, None, NOTHING, 0).tokens_per_s
    rates = np.broadcast_to(plain[..., 0], found.placement.fits.shape)
    plans = {at: plan_of(way, found.placement, at) for at, way in chosen.items() if _is_tree(way)}
    trees = {
        at: round_of(plan, float(rates[at]))
        for at, plan in plans.items()
        if plan.speedup_high >= 1 and found.placement.fits[at]
    }
    if not found.ask.scalar:
        return Others(trees=trees, notes=(COMPARED_ON,))
    at = (0, 0)
    way, other = chosen[at], alternative_of(found.ways, at)
    best = plan_of(way, found.placement) if way else None
    elsewhere = plan_of(other, found.placement) if other else None
    return Others(
        trees=trees,
        alternative=round_of(elsewhere, float(rates[at])) if elsewhere else None,
        beside=better_elsewhere(elsewhere, best, found.ask.request.stack),
        notes=(COMPARED_ON, *_left_out(found)),
    )


def _is_tree(way: Way | None) -> TypeGuard[Way]:
    return way is not None and way.kind == "tree"


def _left_out(found: Contest) -> Sequence[str]:
    """A line on what could not be compared, where anything was."""
    names = [entry.method for entry in found.left_out]
    return [f"not compared: {', '.join(names)}; magicplan drafts says why"] if names else []


def round_of(plan: Plan, plain_tokens_per_s: float) -> Round:
    """A plan as a round, of a deployment that decodes so fast without drafts."""
    spent = plan.draft_seconds + plan.verify_seconds
    return Round(
        draft=plan.draft,
        gamma=plan.tree.depth - 1,
        size=plan.size,
        runs_on_stack=plan.runs_on_stack,
        exists_for_model=plan.exists_for_model,
        head=plan.head,
        tokens_per_round=plan.tokens_per_round,
        draft_seconds=plan.draft_seconds,
        verify_seconds=plan.verify_seconds,
        overhead_seconds=plan.round_seconds - spent,
        round_seconds=plan.round_seconds,
        tokens_per_s=plain_tokens_per_s * plan.speedup,
        speedup=plan.speedup,
        speedup_low=plan.speedup_low,
        speedup_high=plan.speedup_high,
    )
