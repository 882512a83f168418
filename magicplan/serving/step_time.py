"""Seconds of one step of a serving engine: decode tokens, and the prompt chunks that ride along.

The roofline's passes, arranged for a scheduler's question. Layouts are the first axis of every
array, so that all degrees of parallelism of one GPU are answered at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Array, Deployment, Num
from magicplan.roofline.draft_cost import catch_up_seconds, chain_seconds, draft_step
from magicplan.roofline.drafts import Draft
from magicplan.roofline.timing import (
    Machine,
    StepCost,
    op_seconds,
    prompt_seconds,
    step_cost,
)
from magicplan.roofline.traffic import Op, Pass, attention, forward

ROW_POINTS = 96
PROBE = 4096.0
"""Prompt tokens of the pass that prompts' coefficients are read off."""
PER_SEQUENCE = ("lm_head", "sampling")
"""Ops that run for tokens to be sampled only, not for every token of a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTable:
    """Seconds of all work that depends on the number of tokens alone, by tokens of a step: linear
    layers, collectives, element-wise ops.

    Straight lines, [layout, piece] each, between `rows` [piece + 1] tokens.
    """

    rows: Array
    slope: Array
    """Seconds a token."""
    start: Array
    """Seconds where the line meets 0 tokens."""

    @classmethod
    def through(cls, rows: Array, seconds: Array) -> RowTable:
        """Through points of `rows` [r] tokens and `seconds` [layout, r]."""
        slope = np.diff(seconds) / np.diff(rows)
        return cls(rows=rows, slope=slope, start=seconds[:, :-1] - slope * rows[:-1])

    def at(self, rows: Array) -> Array:
        """Seconds at `rows` [layout, ...] tokens."""
        layouts, pieces = self.slope.shape
        piece = np.clip(np.searchsorted(self.rows, rows) - 1, 0, pieces - 1)
        piece = piece + pieces * np.arange(layouts).reshape(-1, *([1] * (np.ndim(rows) - 1)))
        return np.asarray(self.start.take(piece) + self.slope.take(piece) * rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillCost:
    """What prompts cost beyond the work that `RowTable` knows, [layout] each.

    Attention costs `pass_seconds` once, `cached_token_seconds` for each cached token that layers
    which see everything read, `full_pair_seconds` for each (query, key) pair of those layers and
    `window_pair_seconds` for each pair within `window_tokens`; `token_seconds` are those of a new
    token, recurrent layers' among them, `draft_seconds` those of building the draft's own cache.
    `request_seconds` pass at the host, beside all steps.
    """

    pass_seconds: Array
    cached_token_seconds: Array

    full_pair_seconds: Array
    window_pair_seconds: Array
    token_seconds: Array
    window_tokens: float
    draft_seconds: Array
    stages: Array
    """Pipeline stages: a prompt passes all of them in turn, while others fill them."""
    request_seconds: float = 0.0

    def of(self, new: Array, cached: Array) -> Array:
        """Seconds of `new` [n] prompt tokens behind `cached` [n] ones, [layout, n]."""
        pairs = new * cached + new * (new + 1) / 2
        short = _pairs_within(self.window_tokens, new, cached)
        return np.asarray(
            self.pass_seconds[:, None]
            + self.cached_token_seconds[:, None] * cached
            + self.full_pair_seconds[:, None] * pairs
            + self.window_pair_seconds[:, None] * short
            + (self.token_seconds + self.draft_seconds)[:, None] * new
        )


def _pairs_within(window: float, new: Array, cached: Array) -> Array:
    """Pairs of `new` causal queries behind `cached` keys, each seeing at most `window` keys."""
    growing = np.clip(window - cached, 0.0, new)  # queries that still see everything
    return np.asarray(growing * cached + growing * (growing + 1) / 2 + (new - growing) * window)


def row_table(model: ModelShape, layout: Deployment, machine: Machine, most: float) -> RowTable:
    """Linear layers, collectives and element-wise ops from 1 to `most` tokens a step."""
    rows = np.unique(np.rint(np.geomspace(1.0, most, ROW_POINTS)))
    ops = forward(model, with_axes(layout, 1), Pass(batch=rows[None, :], ctx=1.0))
    kept = [op for op in ops if op.kind != "attention" and op.name not in PER_SEQUENCE]
    return RowTable.through(rows, _layouts(step_cost(kept, machine).seconds, layout))


def decode_seconds(
    model: ModelShape,
    layout: Deployment,
    machine: Machine,
    batch: Array,
    ctx: Array,
    query_tokens: Array,
    kv_passes: float | None = None,
) -> Array:
    """Target passes over decoding requests alone, [layout, batch, query_tokens].

    `batch` [batch], `query_tokens` [gamma], and contexts `ctx` [node] or [batch, node], equally
    likely: the mean over nodes keeps what windows and budgets make of a distribution.
    """
    nodes = np.broadcast_to(np.atleast_2d(ctx), (batch.size, np.atleast_2d(ctx).shape[1]))
    work = Pass(
        batch=batch[None, :, None, None],
        ctx=nodes[None, :, :, None],
        query_tokens=query_tokens,
        kv_passes=kv_passes if kv_passes in (None, 1.0) else np.minimum(kv_passes, query_tokens),
    )
    wide = with_axes(layout, 3)
    host = machine.calibration.host.pass_seconds(work.batch, work.batch * query_tokens)
    seconds = np.asarray(step_cost(forward(model, wide, work), machine, host).seconds)
    full = (np.size(layout.tp), batch.size, nodes.shape[1], query_tokens.size)
    return np.asarray(np.broadcast_to(seconds, full).mean(axis=2))


def drafting_passes(
    draft: Draft, layout: Deployment, machine: Machine, batch: Array, ctx: Array, widths: Array
) -> Array:
    """Draft passes over `widths` tokens a request, [layout, batch, width]: 1 in a chain, the nodes
    of a level in a tree; contexts as in `decode_seconds`."""
    nodes = np.broadcast_to(np.atleast_2d(ctx), (batch.size, np.atleast_2d(ctx).shape[1]))
    wide = with_axes(layout, 3)
    work = batch[None, :, None, None], nodes[None, :, :, None]
    cost = draft_step(draft, wide, machine, *work, width=widths)
    full = (np.size(layout.tp), batch.size, nodes.shape[1], widths.size)
    return np.asarray(np.broadcast_to(np.asarray(cost.seconds), full).mean(axis=2))


def chain_passes(
    draft: Draft, layout: Deployment, machine: Machine, batch: Array, ctx: Array, gammas: Array
) -> Array:
    """All draft passes of chains of `gammas` tokens, [layout, batch, gamma], without catching up;
    contexts as in `decode_seconds`."""
    nodes = np.broadcast_to(np.atleast_2d(ctx), (batch.size, np.atleast_2d(ctx).shape[1]))
    middle = nodes.mean(axis=1)
    if not draft.one_pass:
        return gammas * drafting_passes(draft, layout, machine, batch, ctx, np.ones(1))
    wide = with_axes(layout, 2)
    work = batch[None, :, None], middle[None, :, None]
    found = chain_seconds(draft, wide, machine, *work, gammas)
    return np.asarray(np.broadcast_to(found, (np.size(layout.tp), batch.size, gammas.size)))


def catching_up_seconds(
    draft: Draft, layout: Deployment, machine: Machine, batch: Array, ctx: Array
) -> Array:
    """What a round's first draft pass costs more, [layout, batch], at the mean context."""
    middle = np.atleast_2d(ctx).mean(axis=1)
    more = catch_up_seconds(draft, with_axes(layout, 1), machine, batch[None, :], middle[None, :])
    return np.asarray(np.broadcast_to(more, (np.size(layout.tp), batch.size)))


def prefill_cost(model: ModelShape, layout: Deployment, machine: Machine) -> PrefillCost:
    """Coefficients of prompts, read off one pass over 4096 tokens, where compute decides.

    Groups of data-parallel attention and pipeline stages work on different prompts at once.
    """
    at_once = np.asarray(layout.pp).reshape(-1) * layout.attention_dp
    zero = np.zeros(np.size(layout.tp))
    seconds = dict.fromkeys(("pass", "token", "cached", "full", "window"), zero)
    reach = 0.0
    behind = _prompt_ops(model, layout, PROBE)
    for op, later in zip(_prompt_ops(model, layout, 0.0), behind, strict=True):
        if op.reach_tokens and not math.isinf(op.reach_tokens):
            reach = max(reach, op.reach_tokens)
        for name, value in _coefficients(op, later, machine).items():
            seconds[name] = seconds[name] + _layouts(op.count * value, layout)[:, 0] / at_once
    return PrefillCost(
        pass_seconds=seconds["pass"],
        cached_token_seconds=seconds["cached"],
        full_pair_seconds=seconds["full"],
        window_pair_seconds=seconds["window"],
        token_seconds=seconds["token"],
        window_tokens=reach,
        draft_seconds=draft_prefill(layout, machine, None),
        stages=np.broadcast_to(np.asarray(layout.pp, dtype=np.float64), np.shape(layout.tp)),
        request_seconds=machine.calibration.host.request_seconds,
    )


def _coefficients(op: Op, later: Op, machine: Machine) -> dict[str, Num]:
    """What one run of a prompt's attention costs a pass, a new token, a cached one and a pair;
    `later` is the same behind as many cached tokens."""
    whole = op_seconds(op, machine)
    if not op.reach_tokens:
        return {"token": whole / PROBE}
    full = math.isinf(op.reach_tokens)
    kind = "full" if full else "window"
    window = PROBE if full else op.reach_tokens
    pairs = float(_pairs_within(window, np.asarray(PROBE), np.asarray(0.0)))
    fit = machine.calibration.prefill_fit(op.dtype)
    if fit is None or op.layer in machine.calibration.layers:
        return {kind: whole / pairs}
    rate = fit.memory_efficiency * machine.bytes_per_s
    return {
        "pass": fit.launch_seconds,
        "token": op.bytes / PROBE / rate,
        "cached": (later.kv_bytes - op.kv_bytes) / PROBE / rate if full else 0.0,
        kind: prompt_seconds(op, machine) / fit.compute_efficiency / pairs,
    }


def _prompt_ops(model: ModelShape, layout: Deployment, cached: float) -> list[Op]:
    """Attention of `PROBE` prompt tokens behind `cached` ones, as a prefill runs it: latent
    attention decodes in absorbed form but prefills with keys and values written out, whose heads
    are narrower (DeepSeek-V2, arXiv 2405.04434, 2.1.2)."""
    work = Pass(batch=1.0, ctx=cached, query_tokens=PROBE, prefill=True)
    ops = list(attention(model, with_axes(layout, 1), work))
    if model.latent is None:
        return ops
    a = model.latent
    wide = a.nope_head_dim + a.rope_head_dim + a.value_head_dim
    share = wide / (2 * a.kv_rank + a.rope_head_dim)
    return [
        replace(op, flops=op.flops * share, activation_bytes=op.activation_bytes * share)
        if op.layer == "latent" else op
        for op in ops
    ]  # fmt: skip


def draft_prefill(layout: Deployment, machine: Machine, draft: Draft | None) -> Array:
    """Seconds a prompt token in which a draft with a cache of its own reads it, [layout]."""
    if draft is None or draft.shape is None or not draft.holds_cache or draft.same_model:
        return np.zeros(np.size(layout.tp))
    cost = draft_step(draft, with_axes(layout, 1), machine, 1.0, 1.0, width=PROBE)
    gpu = np.asarray(cost.seconds) - np.asarray(cost.host_seconds)
    return _layouts(gpu, layout)[:, 0] / PROBE


def step_parts(
    model: ModelShape, layout: Deployment, machine: Machine, batch: Array, ctx: Array
) -> tuple[StepCost, tuple[Op, ...]]:
    """Breakdown and ops of plain decode steps, over `batch` and `ctx` broadcast together."""
    ops = forward(model, layout, Pass(batch=batch, ctx=ctx))
    return step_cost(ops, machine, machine.calibration.host.pass_seconds(batch, batch)), ops


def _layouts(seconds: object, layout: Deployment) -> Array:
    """[layout, r] of what may be constant over layouts."""
    array = np.atleast_2d(np.asarray(seconds, dtype=np.float64))
    return np.array(np.broadcast_to(array, (np.size(layout.tp), array.shape[-1])))


def with_axes(layout: Deployment, more: int) -> Deployment:
    """Degrees [layout, 1] with further axes behind."""

    def widen(value: object) -> Array:
        array = np.asarray(value, dtype=np.float64)
        return array.reshape(-1, *([1] * more))

    return replace(
        layout, tp=widen(layout.tp), pp=widen(layout.pp), ep=widen(layout.ep),
        attention_dp=widen(layout.attention_dp),
    )  # fmt: skip
