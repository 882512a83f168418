"""The best choice of every cell as settings of an engine, which runs one draft for all cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.engine_specs.capabilities import load
from magicplan.engines.nearest import TOLERANCE, other_requests, predictions, settings
from magicplan.engines.settings import Settings, cost, drafted
from magicplan.errors import FieldError, UsageError
from magicplan.prediction.choose import Choice, choose_everywhere
from magicplan.prediction.request import Request
from magicplan.prediction.result import Prediction
from magicplan.roofline.deployment import Array
from magicplan.units import human_tokens

MOST_CELLS = 5
"""Cells named that lose most."""


def choice_settings(request: Request, engine: str) -> Settings:
    """Settings of the one draft in chains that loses least against the best draft, chain or tree
    of every cell, on average over the grid; its notes say which cells lose what.

    Speedups are compared, for where GPUs are not given drafts may need different numbers of them.
    Raises UsageError for an unknown engine, or where it can run no draft that fits.
    """
    known = load(engine)
    choice = choose_everywhere(request)
    if not choice.placement.fits.any():
        raise FieldError("settings", ": no cell of this grid fits; ask for more $gpus")
    requests = other_requests(replace(choice.resolved, request=request, draft=None), known)
    options = predictions(replace(ask, acceptance=request.acceptance) for ask in requests)
    options = [option for option in options if option.placement.fits.any()]
    if not options:
        raise UsageError(f"{engine} can run no draft that is known for {request.model} and fits")
    best = min(options, key=lambda option: float(_lost(choice, option).mean()))
    found = settings(best, engine)
    return replace(found, notes=(*_notes(choice, best, known.asked), *found.notes))


def _lost(choice: Choice, option: Prediction) -> Array:
    """Speedup lost against every cell's choice, [batch, ctx]: 0 where nothing fits, and what the
    choice gains over no speculation where only the draft does not."""
    shape = option.placement.fits.shape
    best = np.array([cell.speedup for cell in choice.cells]).reshape(shape)
    chains = np.broadcast_to(option.rounds.speedup.max(axis=-1), shape)
    chains = np.where(option.placement.fits, chains, 1.0)
    return np.where(choice.placement.fits, 1 - chains / best, 0.0)


def _notes(choice: Choice, best: Prediction, engine: str) -> list[str]:
    lost = _lost(choice, best)
    name = drafted(best.resolved).name
    against = "at the draft lengths of the schedule, against the best draft, chain or tree of each"
    notes = [
        f"{engine} runs one draft for all cells: {name} loses least, "
        f"{cost(lost[choice.placement.fits])} ({against})"
    ]
    order = np.argsort(-lost, axis=None, kind="stable")
    alone = np.count_nonzero(choice.placement.fits) - np.count_nonzero(best.placement.fits)
    if alone > 0:
        notes.append(f"{alone} cells that hold the target do not hold {name} beside it: off there")
    losing = [(choice.cells[int(at)], float(lost.flat[at])) for at in order]
    losing = [(cell, share) for cell, share in losing if share > TOLERANCE]
    named = [
        f"batch {cell.batch} at {human_tokens(cell.ctx_tokens)} {share:.1%} "
        f"({cell.draft}, {cell.kind} of {cell.size})"
        for cell, share in losing[:MOST_CELLS]
    ]
    if named:
        some = f"{len(losing)} of {len(choice.cells)} cells lose more than {TOLERANCE:.0%}"
        notes.append(f"{some}, most of all {'; '.join(named)}")
    return notes
