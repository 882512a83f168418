"""What speculation makes of a step: the time of a round, its tokens, and the best draft length.

A round drafts gamma tokens one after another, verifies them in one target pass over gamma + 1
query tokens, and emits between 1 and gamma + 1 (Leviathan et al., arXiv 2211.17192; MagicDec,
arXiv 2408.11049, eq. 1): speedup = T_target Omega / (gamma T_draft + T_verify + overhead).
Axes are (batch, ctx, draft length); gamma 0 is plain decoding, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.spread import combined_spread
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.acceptance import (
    Acceptance,
    accept_length_variance,
    alpha_from_tokens_per_round,
    tokens_per_round,
)
from magicplan.roofline.deployment import Array, Deployment, Indices, Num
from magicplan.roofline.draft_cost import chain_seconds
from magicplan.roofline.drafts import Draft
from magicplan.roofline.timing import Machine, StepCost, step_cost
from magicplan.roofline.traffic import Pass, attention, forward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything a round depends on besides the draft.

    `batch` [sequences a replica], `sequences` [of the whole deployment] and `ctx` [tokens in the
    cache] are [batch, ctx] arrays or broadcast to them; `kv_passes` is how often verification
    reads the KV cache, capped at gamma + 1, or None for what the calibration knows. `ctx` lies in
    the middle of `output_tokens`, over which acceptance is averaged; times are nearly straight in
    context, so the middle is their mean. A `static` batch is not refilled: it lasts until its
    slowest sequence is done.
    """

    target: ModelShape
    layout: Deployment
    machine: Machine
    batch: Array
    sequences: Array
    ctx: Array
    kv_passes: float | None = None
    output_tokens: float = 0.0
    static: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounds:
    """Speculation rounds over [batch, ctx, gamma]; index g of the last axis drafts g tokens."""

    gammas: Array
    tokens_per_round: Array
    batch_efficiency: Array
    """Throughput over that of a batch that is refilled: 1 unless batching is static."""
    draft_seconds: Array
    verify_seconds: Array
    overhead_seconds: Array
    round_seconds: Array
    tokens_per_s: Array
    """Tokens per second of the whole deployment, all replicas together."""
    speedup: Array
    speedup_low: Array
    speedup_high: Array

    @property
    def best(self) -> Indices:
        """Index of the fastest draft length, [batch, ctx]; the shortest among equals."""
        return np.asarray(np.argmax(self.tokens_per_s, axis=-1))


def decode(scene: Scene) -> StepCost:
    """One plain decode step: one query token a sequence."""
    work = Pass(batch=scene.batch, ctx=scene.ctx)
    host = scene.machine.calibration.host.pass_seconds(scene.batch, scene.batch)
    return step_cost(forward(scene.target, scene.layout, work), scene.machine, host)


CACHED_CELLS = 1 << 14
"""Cells of a grid that are worked on at a time: their arrays stay in a processor's cache."""


WITHOUT_CONTEXT = ("linear_seconds", "collective_seconds", "elementwise_seconds", "host_seconds")
"""Parts of a `StepCost` that are the same at any context."""


def verify_seconds(scene: Scene, query_tokens: Array) -> Array:
    """Seconds of one target pass over `query_tokens` a sequence, [batch, ctx, query_tokens].

    Only attention depends on the context: the rest is computed once for every batch and layout
    that occur, and looked up in each cell.
    """
    shape = np.broadcast_shapes(np.shape(scene.batch), np.shape(scene.ctx))
    other, cell = _distinct(scene)
    work = _work(other, query_tokens)
    host = scene.machine.calibration.host.pass_seconds(work.batch, work.batch * query_tokens)
    cost = step_cost(forward(scene.target, _with_axis(other.layout), work), scene.machine, host)
    size = other.batch.size, query_tokens.size
    rest = [(name, np.broadcast_to(getattr(cost, name), size)) for name in WITHOUT_CONTEXT]
    found = np.empty((*shape, query_tokens.size))
    blocks = math.ceil(found.size / CACHED_CELLS)
    for rows in np.array_split(np.arange(shape[0]), min(blocks, shape[0])):
        part, at = _rows_of(scene, rows), _rows(cell, rows)
        ops = attention(scene.target, _with_axis(part.layout), _work(part, query_tokens))
        attended = step_cost(ops, scene.machine).attention_seconds
        found[rows] = StepCost(attention_seconds=attended, **{k: v[at] for k, v in rest}).seconds
    return found


def _distinct(scene: Scene) -> tuple[Scene, Indices]:
    """The batches and degrees that occur, [distinct], at a context of 1; which of them is each
    cell's, [batch, ctx]."""
    degrees = scene.layout
    values = np.broadcast_arrays(scene.batch, degrees.tp, degrees.pp)
    if values[0].size == 1:
        alone = [value.reshape(1) for value in values]
        layout = replace(degrees, tp=alone[1], pp=alone[2])
        cell = np.zeros(values[0].shape, dtype=np.int64)
        return replace(scene, layout=layout, batch=alone[0], ctx=np.ones(1)), cell
    code = np.zeros(values[0].shape, dtype=np.int64)
    for value in values:
        _, number = np.unique(value, return_inverse=True)
        code = code * (number.max() + 1) + number.reshape(code.shape)
    _, first, cell = np.unique(code, return_index=True, return_inverse=True)
    batch, tp, pp = (value.ravel()[first] for value in values)
    layout = replace(degrees, tp=tp, pp=pp)
    return replace(scene, layout=layout, batch=batch, ctx=np.ones(1)), cell.reshape(code.shape)


def _rows_of(scene: Scene, rows: Indices) -> Scene:
    """A part of the batches."""
    degrees = scene.layout
    layout = replace(degrees, tp=_rows(degrees.tp, rows), pp=_rows(degrees.pp, rows))
    return replace(scene, layout=layout, batch=_rows(scene.batch, rows), ctx=_rows(scene.ctx, rows))


def _rows(value: Num, rows: Indices) -> Any:
    """A value's rows for a part of the batches; the value itself where all batches share it."""
    array = np.asarray(value)
    return array[rows] if array.ndim and array.shape[0] > 1 else value


def _work(scene: Scene, query_tokens: Array) -> Pass:
    return Pass(
        batch=_axis(scene.batch),
        ctx=_axis(scene.ctx),
        query_tokens=query_tokens,
        kv_passes=_kv_passes(scene.kv_passes, query_tokens),
    )


def _kv_passes(asked: float | None, query_tokens: Array) -> Num | None:
    return asked if asked in (None, 1.0) else np.minimum(asked, query_tokens)


def _axis(value: Num) -> Num:
    """A value as an array with one axis more at the end, for the draft length."""
    return np.asarray(value, dtype=np.float64)[..., None]


def _with_axis(layout: Deployment) -> Deployment:
    return replace(
        layout, tp=_axis(layout.tp), pp=_axis(layout.pp), replicas=_axis(layout.replicas)
    )


def rounds(
    scene: Scene,
    draft: Draft | None,
    acceptance: Acceptance,
    max_gamma: int,
    verified: Array | None = None,
) -> Rounds:
    """Every draft length from 0 to `max_gamma`; no draft leaves gamma 0 alone. `verified` is what
    verification takes after 0, 1, ... drafted tokens, [batch, ctx, gamma], where that is known."""
    gammas = np.arange((max_gamma if draft else 0) + 1, dtype=np.float64)
    known = verified is not None and verified.shape[-1] >= gammas.size
    verify = verified[..., : gammas.size] if known else verify_seconds(scene, gammas + 1)  # type: ignore[index]
    baseline = verify[..., :1]
    drafting = _drafting(scene, draft, gammas)
    calibration, own = scene.machine.calibration, draft is not None and draft.own_vocabulary
    host = calibration.host
    # an ideal calibration has no spread, and no code of anybody's
    released = draft.round_seconds if draft and calibration.speedup_residual.high > 1 else 0.0
    overhead = (gammas > 0) * _axis(host.between_passes_seconds(scene.batch) + released)
    total = drafting + verify + overhead
    tokens, rates = _emitted(scene, draft, acceptance, len(gammas) - 1)
    middle, low, high = rates
    steps, work = (
        gammas * host.draft_launch_seconds(own),
        host.batch_seconds(scene.batch) + released,
    )
    below, above = speedup_factors(
        calibration, (middle / low, high / middle), steps / total, _axis(work) / total
    )
    speedup = middle * (baseline / total)
    return Rounds(
        gammas=gammas,
        tokens_per_round=tokens,
        batch_efficiency=middle / tokens,
        draft_seconds=drafting,
        verify_seconds=verify,
        overhead_seconds=overhead,
        round_seconds=total,
        tokens_per_s=_axis(scene.sequences) * middle / total,
        speedup=speedup,
        speedup_low=speedup / np.where(gammas == 0, 1.0, below),
        speedup_high=speedup * np.where(gammas == 0, 1.0, above),
    )


def _drafting(scene: Scene, draft: Draft | None, gammas: Array) -> Array:
    """Seconds of `gammas` draft passes, on a new last axis."""
    if draft is None:
        return 0.0 * gammas
    wide = _with_axis(scene.layout), scene.machine, _axis(scene.batch), _axis(scene.ctx)
    return chain_seconds(draft, *wide, gammas)


def _emitted(
    scene: Scene, draft: Draft | None, acceptance: Acceptance, depth: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Tokens a round emits, [..., gamma], and the rates at which a batch is worked off: expected,
    and at the ends of the acceptance interval."""
    if draft is None:
        one = np.ones((*np.shape(scene.ctx), 1))
        return one, (one, one, one)
    first, *ends = (
        _over_output(scene, draft, model, depth) for model in (acceptance, *acceptance.interval())
    )
    rates = [mean * batch_efficiency(scene, mean, variance) for mean, variance in (first, *ends)]
    return first[0], (rates[0], rates[1], rates[2])


OUTPUT_POINTS = 32
"""Contexts at which acceptance is sampled over an output."""


def _over_output(
    scene: Scene, draft: Draft, acceptance: Acceptance, depth: int
) -> tuple[Array, Array]:
    """Mean and variance of the tokens a round emits, [..., gamma], over the output.

    Every context is passed at Omega tokens a round, so it holds a share 1 / Omega of the rounds.
    """
    if not scene.output_tokens:
        survival = acceptance.survival(depth, scene.ctx, draft.budget_tokens)
        return tokens_per_round(survival), accept_length_variance(survival)
    places = (np.arange(OUTPUT_POINTS) + 0.5) / OUTPUT_POINTS - 0.5
    contexts = np.maximum(scene.ctx[..., None] + places * scene.output_tokens, 1.0)
    survival = acceptance.survival(depth, contexts, draft.budget_tokens)
    tokens, variance = tokens_per_round(survival), accept_length_variance(survival)
    rounds_in = 1 / tokens / (1 / tokens).sum(axis=-2, keepdims=True)
    mean = np.minimum((rounds_in * tokens).sum(axis=-2), np.arange(1.0, depth + 2))
    second = (rounds_in * (variance + tokens**2)).sum(axis=-2)
    return mean, np.maximum(second - mean**2, 0.0)


MOST_SAVED = 0.9
"""Largest share of a round that an engine is taken to save: it keeps the interval finite."""


def speedup_factors(
    calibration: Calibration, tokens: tuple[Num, Num], draft_share: Num, batch_share: Num
) -> tuple[Array, Array]:
    """Factors from a speedup down to the low and up to the high end of its 80 % interval.

    Four independent causes add up (`combined_spread`): acceptance, by the factors on emitted
    `tokens` at both ends; round times; the host's time of draft steps, and what grows with the
    batch. On the last two published sweeps and versions disagree, so that they count by the share
    of a round that they take; an engine may take that share less as well as more.
    """
    timing, host = calibration.speedup_residual, calibration.host
    disputed = draft_share * host.draft_step_spread, batch_share * host.round_batch_spread
    slower = np.hypot(*(np.log1p(share) for share in disputed))
    faster = np.hypot(*(-np.log1p(-np.minimum(share, MOST_SAVED)) for share in disputed))

    def factor(emitted: Num, residual: float, host_logs: Num) -> Array:
        return np.asarray(combined_spread(emitted, max(residual, 1.0), np.exp(host_logs)))

    low, high = tokens
    return factor(low, 1 / timing.low, slower), factor(high, timing.high, faster)


def batch_efficiency(scene: Scene, mean: Num, variance: Num) -> Array:
    """`static_efficiency` of a scene's batch for rounds of such mean and variance [batch, ctx, ..];
    1 where finished sequences are replaced."""
    if not scene.static:
        return np.ones(np.shape(mean))
    axes = (1,) * (np.ndim(mean) - np.ndim(scene.batch))
    batch = np.reshape(scene.batch, (*np.shape(scene.batch), *axes))
    return static_efficiency(mean, variance, scene.output_tokens, batch)


def static_efficiency(mean: Num, variance: Num, output_tokens: float, batch: Num) -> Array:
    """Throughput of a static batch over that of continuous batching, for rounds that emit a random
    number of tokens of this mean and variance.

    A static batch ends with its slowest sequence: after R / G + sqrt(R Var / G^3) sqrt(2 ln B)
    rounds for R output tokens each, where a refilled one spends R / G. Within 2 % of simulation
    for outputs of 128 tokens and more.
    """
    steps = output_tokens / mean
    lag = np.sqrt(output_tokens * variance / mean**3) * np.sqrt(2 * np.log(batch))
    return np.asarray(steps / (steps + lag), dtype=np.float64)


def required_acceptance(table: Rounds, wanted_speedup: float = 1.0) -> Array:
    """Smallest i.i.d. acceptance at which some draft length reaches a speedup, [batch, ctx].

    Needs no acceptance data: it inverts the expected length at every gamma. NaN where none does.
    """
    gammas = table.gammas[1:]
    if gammas.size == 0:
        return np.full(table.round_seconds.shape[:-1], np.nan)
    relative = table.round_seconds[..., 1:] / table.round_seconds[..., :1]
    needed = alpha_from_tokens_per_round(gammas, wanted_speedup * relative)
    return np.asarray(_nanmin(needed))


def _nanmin(values: Array) -> Array:
    smallest = np.where(np.isnan(values), np.inf, values).min(axis=-1)
    return np.where(np.isinf(smallest), np.nan, smallest)


def optimal_gamma(alpha: Num, fixed_seconds: Num, slope_seconds: Num) -> Array:
    """gamma* for i.i.d. acceptance `alpha` and a round of fixed + slope gamma seconds; 0 where no
    draft pays, and where a < s.

    Newton on u - ln u = c from the right of its root, where it falls monotonically onto it:
    u0 = c + sqrt(2 (c - 1)), because e^y >= 1 + y + y^2 / 2. Nothing underflows.
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    ratio = np.asarray(fixed_seconds, dtype=np.float64) / slope_seconds
    lam = -np.log(np.clip(alpha, 1e-300, 1 - 1e-15))
    c = 1 + lam * np.maximum(ratio - 1, 0.0)
    u = c + np.sqrt(2 * (c - 1))
    for _ in range(60):
        step = (u - np.log(u) - c) / np.where(u > 1, 1 - 1 / np.where(u > 1, u, 2.0), 1.0)
        u = np.maximum(u - step, 1.0)
    gamma = np.log(u) / lam - 1
    pays = (ratio > 1) & (alpha > 0)
    return np.asarray(np.where(pays, np.maximum(gamma, 0.0), 0.0))
