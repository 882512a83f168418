"""Plans as settings that engines read: what to paste, and what an engine cannot express.

Where it cannot, the nearest plan that it can run is given instead, with what that costs. Option
names stand here; which version knows which is in `engine_specs/versions/*.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from magicplan.engine_specs.capabilities import ENGINES, EngineVersion, cannot, load
from magicplan.engines.settings import Settings, accepted, cost, drafted
from magicplan.engines.sglang import sglang_chain
from magicplan.engines.vllm import vllm_chain
from magicplan.errors import FieldError, UsageError
from magicplan.prediction.choice.candidates import comparable, small_models
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, resolve
from magicplan.prediction.result import Prediction
from magicplan.prediction.thresholds import (
    TOLERANCE,
    Planned,
    Threshold,
    losses,
    schedule,
    segments,
)
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft

__all__ = [
    "ENGINES", "TOLERANCE", "Planned", "Settings", "Threshold", "losses", "schedule", "segments",
    "settings",
]  # fmt: skip


def settings(p: Prediction, engine: str, planned: Planned | None = None) -> Settings:
    """Settings of an engine, `vllm`, `sglang@0.5.9`, for a grid. Raises UsageError for an unknown
    engine, a grid that does not fit, or where the engine can run no draft at all.

    What a plan decided for its load stays; a note says what the engine gives there against it.
    """
    known = load(engine)
    if p.resolved.draft is None:
        raise FieldError("settings", "needs a draft; with $draft none there is nothing to set")
    if not p.placement.fits.any():
        raise FieldError("settings", ": no cell of this grid fits; ask for more $gpus")
    own = p
    p, nearest = _expressible(p, p.resolved.draft, known)
    if planned is not None:
        planned = planned if p is own else _instead(own, p, planned)
        nearest = [_against_plan(planned), *nearest]
    found = (vllm_chain if known.name == "vllm" else sglang_chain)(p, known, planned)
    return replace(found, notes=(*nearest, *found.notes, accepted(p.resolved)))


def _expressible(
    p: Prediction, draft: Draft, engine: EngineVersion
) -> tuple[Prediction, list[str]]:
    """The plan itself, or the fastest one that the engine can run, and what that costs."""
    why = cannot(draft, engine)
    if not why:
        return p, []
    options = predictions(other_requests(p.resolved, engine))
    if not options:
        raise UsageError(f"{engine.asked} {why}, and no other draft is known")
    best = min(options, key=lambda option: float(_lost(p, option).mean()))
    other = drafted(best.resolved).name
    note = f"{engine.asked} {why}; nearest: {other}, which is {cost(_lost(p, best))}"
    return best, [note, accepted(p.resolved)]


def _instead(own: Prediction, other: Prediction, planned: Planned) -> Planned:
    """The best draft length of another draft at the planned load, and what it gives there."""
    rows, column = planned.cells(own.resolved.batch[:, 0], own.workload.ctx_tokens[0])
    ours, theirs = (
        np.broadcast_to(p.rounds.tokens_per_s, (*p.placement.fits.shape, p.rounds.gammas.size))[
            rows[0], column
        ]
        for p in (own, other)
    )
    gamma = int(theirs.argmax())
    share = float(theirs[gamma] / ours[planned.gamma]) * planned.share
    return replace(planned, gamma=gamma, share=share, same=False)


def _against_plan(planned: Planned) -> str:
    """What an engine gives against the plan that it is launched for, in one line."""
    chain = f"a chain of {planned.gamma}" if planned.gamma else "no draft"
    if planned.same and planned.share == 1.0:
        return f"at the planned load this drafts what the plan counts on: {chain}"
    return (
        f"at the planned load this gives {planned.share:.2f} times the plan's decode throughput, "
        f"with {chain}"
    )


def other_requests(resolved: Resolved, engine: EngineVersion) -> list[Request]:
    """A question with its draft model over the whole cache, or with the other drafts that the
    engine can run for this target."""
    request, draft = resolved.request, resolved.draft
    if draft is not None and draft.method == "model" and "model" in engine.methods:
        return [replace(request, draft_kv=None, draft_dtype=None)]
    target = resolved.model.name
    names = [n for n in engine.methods if n != "model" and comparable(n, target)]
    if "model" in engine.methods:
        names += [shape.name for shape in small_models(resolved.model)[0]]
    plain = replace(request, draft_kv=None, draft_dtype=None, acceptance="auto")
    return [replace(plain, draft=name) for name in names]


def predictions(requests: Iterable[Request]) -> list[Prediction]:
    """Predictions of the drafts that apply to their target and for which acceptance is known."""
    found = []
    for request in requests:
        try:
            found.append(answer(resolve(request)))
        except UsageError:
            continue
    return found


def _lost(plan: Prediction, other: Prediction) -> Array:
    """Throughput lost against the plan in every cell that holds both."""
    fits = np.logical_and(plan.placement.fits, other.placement.fits)
    shape = fits.shape
    ours = np.broadcast_to(plan.rounds.tokens_per_s.max(axis=-1), shape)
    theirs = np.broadcast_to(other.rounds.tokens_per_s.max(axis=-1), shape)
    return (1 - theirs / ours)[fits] if fits.any() else np.ones(1)
