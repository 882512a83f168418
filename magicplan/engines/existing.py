"""Settings of the draft that pays most among those that exist for a model, and why it is off where
it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.acceptance_specs.heads import heads_for
from magicplan.engine_specs.capabilities import EngineVersion, cannot, load
from magicplan.engines.nearest import settings
from magicplan.engines.settings import Settings, drafted
from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.prediction.candidates import comparable
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.roofline.deployment import Array
from magicplan.units import human_tokens

LITTLE = 0.2
"""Tokens a round beyond which one drafted token is said to be accepted at all."""


def existing_drafts(model: ModelShape) -> tuple[str, ...]:
    """Ways to draft that need no training: published heads whose rates are known, layers of
    the checkpoint, and look-up."""
    published = dict.fromkeys(head.method for head in heads_for(model.name))
    own = ("mtp",) if model.mtp_layers else ()
    found = (*own, *published, "ngram")
    return tuple(name for name in found if comparable(name, model.name))


def best_existing(request: Request, engine: EngineVersion) -> Prediction:
    """The grid by the draft that gains most, of those that exist for the model and that the engine
    runs; by the one that is named, where one is. Raises UsageError.

    A draft gains the mean, over cells, of the logarithms of its speedup and of its low end: one
    whose interval holds a loss has to promise more.
    """
    if request.draft not in ("auto", "self"):
        return answer(resolve(request))
    model = resolve(replace(request, draft="none")).model
    options: list[Prediction] = []
    for name in existing_drafts(model):
        asked = resolve(replace(request, draft=name))
        if asked.draft is not None and not cannot(asked.draft, engine):
            options.append(answer(asked))
    if not options:
        raise UsageError(f"{engine.asked} runs no draft that exists for {model.name}")
    return max(options, key=_gain)


def _gain(p: Prediction) -> float:
    ends = np.asarray(p.best.speedup), np.asarray(p.best.speedup_low)
    return float(np.nanmean(np.log(ends)))


def schedule_settings(request: Request, engine: str) -> Settings:
    """Settings of the best existing draft with its head's id, and a note for every corner of the
    grid where it is off. Raises UsageError."""
    known = load(engine)
    p = best_existing(request, known)
    draft = drafted(p.resolved)
    heads = heads_for(p.resolved.model.name, draft.method)
    head = (f"{draft.name}: {heads[0].id} ({heads[0].source})",) if heads else ()
    found = settings(p, engine)
    return replace(found, notes=(*head, *_off(p), *found.notes))


def _off(p: Prediction) -> tuple[str, ...]:
    """Why drafting does not pay, at the smallest and the largest cell where it does not."""
    gammas = np.broadcast_to(p.best.gamma, p.placement.fits.shape)
    off = np.argwhere((gammas == 0) & p.placement.fits)
    if not off.size:
        return ()
    ends = dict.fromkeys(tuple(int(i) for i in at) for at in (off[0], off[-1]))
    return tuple(_reason(p, at[0], at[1]) for at in ends)


def _reason(p: Prediction, row: int, column: int) -> str:
    """What one drafted token brings and costs in a cell, in steps of plain decoding."""
    table, shape = p.rounds, p.placement.fits.shape

    def at(values: Array, gamma: int) -> float:
        whole = np.broadcast_to(values, (*shape, table.gammas.size))
        return float(whole[row, column, gamma])

    step = at(table.round_seconds, 0)
    gained = at(table.tokens_per_round, 1) - 1
    costs = {
        "drafting": at(table.draft_seconds, 1) / step,
        "verification": at(table.verify_seconds, 1) / step - 1,
        "the host's work of a round": at(table.overhead_seconds, 1) / step,
    }
    most = max(costs, key=lambda name: costs[name])
    why = "little is accepted" if gained < LITTLE else f"{most} takes most"
    spent = ", ".join(f"{name} {share:.2f}" for name, share in costs.items())
    batch = int(p.resolved.batch[row, 0])
    ctx = human_tokens(int(p.workload.ctx_tokens[0, column]))
    return (
        f"off at batch {batch}, {ctx}: {why}; one drafted token brings {gained:.2f} tokens a round "
        f"for, in steps, {spent}"
    )
