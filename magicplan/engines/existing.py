"""Settings of the draft that pays most among those that exist for a model, and why it is off where
it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.acceptance_specs.heads import heads_for
from magicplan.engine_specs.capabilities import EngineVersion, load
from magicplan.engines.nearest import settings
from magicplan.engines.settings import Settings, drafted
from magicplan.errors import UsageError
from magicplan.prediction.choice.contenders import settled
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.roofline.deployment import Array
from magicplan.units import human_tokens

LITTLE = 0.2
"""Tokens a round beyond which one drafted token is said to be accepted at all."""


def best_existing(request: Request, engine: EngineVersion) -> Prediction:
    """The grid by the draft that the engine runs, that exists for the model and that gains most on
    average (`settled`); by the one that is named, where one is. Raises UsageError."""
    chosen = settled(replace(request, stack=engine.asked))
    if chosen.draft == "none":
        raise UsageError(f"{engine.asked} runs no draft that exists for {request.model} and fits")
    return answer(resolve(replace(chosen, stack=request.stack)))


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
