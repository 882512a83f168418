"""Break-evens: the contexts, batches and acceptance rates at which regimes meet.

Each is read off a ladder of contexts or batches, evaluated at once and interpolated where the
sign changes; steps of 1/16 octave keep the error below 0.1 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.prediction.placement import Placement
from magicplan.prediction.resolve import MAX_BATCH, Resolved, passes_of
from magicplan.roofline.deployment import Array, Num
from magicplan.roofline.speculation import Rounds, Scene, required_acceptance, rounds
from magicplan.roofline.timing import compute_seconds, memory_seconds
from magicplan.roofline.traffic import Op, Pass, forward

CONTEXTS = np.exp2(np.arange(0, 24 * 16 + 1) / 16)
BATCHES = np.exp2(np.arange(0, np.log2(MAX_BATCH) * 16 + 1) / 16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BreakEven:
    """NaN where there is no such point. Contexts [batch], batches [ctx], rates [batch, ctx]."""

    kv_equals_weights_ctx_tokens: Any
    """KV read in a step equals weights read."""
    memory_bound_ctx_tokens: Any
    """Context from which a decode step spends longer on bytes than on FLOP; NaN if always."""
    compute_bound_batch: Any
    """Linear layers of a decode step turn compute-bound; sequences of the whole deployment."""
    speedup_one_ctx_tokens: Any
    """Context from which speculation pays; NaN if it pays everywhere or nowhere."""
    speedup_one_acceptance: Any
    """Smallest i.i.d. acceptance at which some draft length breaks even."""
    wanted_speedup_acceptance: Any
    """Acceptance rate that the speedup asked for needs; NaN if none was asked for."""


def break_even(ask: Resolved, placement: Placement, table: Rounds) -> BreakEven:
    """All of them, on the deployment that was chosen."""
    shape = table.round_seconds.shape[:2]
    wanted = ask.request.want_speedup
    kv, memory_bound, pays = _along_ctx(ask, placement)

    def squeeze(values: Array) -> Any:
        return float(values[0, 0]) if ask.scalar else values

    return BreakEven(
        kv_equals_weights_ctx_tokens=squeeze(kv),
        memory_bound_ctx_tokens=squeeze(memory_bound),
        compute_bound_batch=squeeze(_compute_bound_batch(ask, placement)),
        speedup_one_ctx_tokens=squeeze(pays),
        speedup_one_acceptance=squeeze(np.broadcast_to(required_acceptance(table), shape)),
        wanted_speedup_acceptance=squeeze(
            required_acceptance(table, wanted) if wanted else np.full(shape, np.nan)
        ),
    )


def _along_ctx(ask: Resolved, placement: Placement) -> tuple[Array, Array, Array]:
    """The three contexts, each [batch, 1], on the deployment of each batch's first context."""
    layout, first = placement.layout, slice(0, 1)
    fixed = replace(
        layout,
        tp=np.asarray(layout.tp)[:, first],
        pp=np.asarray(layout.pp)[:, first],
        replicas=np.asarray(layout.replicas)[:, first],
    )
    scene = Scene(
        target=ask.model,
        layout=fixed,
        machine=ask.machine,
        batch=np.ceil(ask.batch / fixed.replicas),
        sequences=ask.batch,
        ctx=CONTEXTS[None, :],
        kv_passes=passes_of(ask.request.verify_kv_passes),
        output_tokens=float(ask.request.output),
        static=ask.request.batching == "static",
    )
    ops = forward(ask.model, fixed, Pass(batch=scene.batch, ctx=scene.ctx))
    kv = _total(op.kv_bytes * op.count for op in ops)
    weights = _total(op.weight_bytes * op.count for op in ops)
    moving = _total(op.count * memory_seconds(op, ask.machine) for op in ops if _local(op))
    computing = _total(op.count * compute_seconds(op, ask.machine) for op in ops if _local(op))
    gain = np.full(np.broadcast_shapes(scene.batch.shape, scene.ctx.shape), -1.0)
    if ask.draft is not None and ask.max_gamma:
        speedup = rounds(scene, ask.draft, ask.acceptance, ask.max_gamma).speedup
        gain = np.broadcast_to(speedup[..., 1:].max(axis=-1) - 1, gain.shape)
    return (
        last_rise(CONTEXTS, np.broadcast_to(kv - weights, gain.shape)),
        last_rise(CONTEXTS, np.broadcast_to(moving - computing, gain.shape)),
        last_rise(CONTEXTS, gain),
    )


def _compute_bound_batch(ask: Resolved, placement: Placement) -> Array:
    """[1, ctx]; independent of context but for the deployment."""
    layout, first = placement.layout, slice(0, 1)
    fixed = replace(
        layout,
        tp=np.asarray(layout.tp)[first].T,
        pp=np.asarray(layout.pp)[first].T,
        replicas=np.asarray(layout.replicas)[first].T,
    )
    ops = [
        op
        for op in forward(ask.model, fixed, Pass(batch=BATCHES[None, :], ctx=1.0))
        if op.kind == "linear"
    ]
    excess = _total(
        op.count * (compute_seconds(op, ask.machine) - memory_seconds(op, ask.machine))
        for op in ops
    )
    shape = (np.shape(excess)[0], BATCHES.size)
    per_replica = last_rise(BATCHES, np.broadcast_to(excess, shape))
    return np.asarray((per_replica * fixed.replicas).T)


def _local(op: Op) -> bool:
    return op.kind != "collective"


def _total(parts: Iterable[Num]) -> Array:
    return np.asarray(sum(parts), dtype=np.float64)


def last_rise(ladder: Array, values: Array) -> Array:
    """The point from which rows of `values` [rows, ladder] stay positive, interpolated; [rows, 1].

    NaN where a row never does, or is positive from the start.
    """
    below = values <= 0
    last = values.shape[1] - 1 - np.argmax(below[:, ::-1], axis=1)
    found = below.any(axis=1) & (last < values.shape[1] - 1)
    at = np.where(found, last, 0)
    rows = np.arange(values.shape[0])
    low, high = values[rows, at], values[rows, np.minimum(at + 1, values.shape[1] - 1)]
    share = np.where(found, -low / np.where(high > low, high - low, 1.0), 0.0)
    point = ladder[at] + share * (ladder[np.minimum(at + 1, ladder.size - 1)] - ladder[at])
    return np.where(found, point, np.nan)[:, None]
