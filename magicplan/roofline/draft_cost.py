"""What drafting costs: one pass of a draft, and all passes of a chain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.roofline.deployment import Array, Deployment, Namespace, Num
from magicplan.roofline.drafts import Draft, Projection
from magicplan.roofline.memory import largest_draft_degree
from magicplan.roofline.timing import Machine, StepCost, step_cost
from magicplan.roofline.traffic import Op, Pass, forward, linear


def draft_step(
    draft: Draft,
    layout: Deployment,
    machine: Machine,
    batch: Num,
    ctx: Num,
    *,
    width: Num = 1.0,
    xp: Namespace = np,
) -> StepCost:
    """Cost of one draft pass over `width` tokens a sequence: 1 in a chain, a level of a tree.

    batch [sequences a replica], ctx [tokens]. With a middle level the cost is that of one middle
    round over the tokens it emits.
    """
    if draft.shape is None:
        return StepCost()
    own = draft_layout(draft, layout, machine)
    if draft.middle:
        width = draft.middle.gamma + 1.0
    work = Pass(batch=batch, ctx=ctx, query_tokens=width, view=draft.view)
    ops = [*forward(draft.shape, own, work, xp), *_projections(draft, own, batch * width)]
    fit = machine.calibration.host
    host = fit.draft_seconds(batch * width, own_vocabulary=draft.own_vocabulary)
    if fit.draft_query_seconds:
        host = host + fit.draft_query_seconds * batch * width * query_numbers(draft, own)
    cost = step_cost(ops, machine, host, xp)
    if draft.middle is None:
        return cost
    inner = draft_step(draft.middle.inner, layout, machine, batch, ctx, xp=xp)
    return _combine(inner, draft.middle.gamma, cost, 1 / draft.middle.tokens_per_pass)


def chain_seconds(
    draft: Draft, layout: Deployment, machine: Machine, batch: Num, ctx: Num, gammas: Array
) -> Array:
    """Seconds of drafting chains of `gammas` tokens, 0 for none.

    `batch`, `ctx` and the layout's degrees broadcast against a last axis of `gammas`. A draft that
    needs one pass pays it once, over as many positions as it drafts.
    """
    asked = draft, layout, machine, batch, ctx
    if not draft.one_pass:
        one, more = draft_step(*asked).seconds, catch_up_seconds(*asked)
        return np.asarray(gammas * one + (gammas > 0) * more)
    whole = draft_step(*asked, width=np.maximum(gammas, 1.0)).seconds
    own = draft_layout(draft, layout, machine)
    ops = [_projection(p, own, batch) for p in draft.sequential]
    each = step_cost(ops, machine).seconds if ops else 0.0
    return np.asarray((gammas > 0) * whole + gammas * each)


def query_numbers(draft: Draft, layout: Deployment) -> Num:
    """Numbers of the queries of one token of a draft on one GPU: layers, heads and dimensions."""
    shape = draft.shape
    return 0.0 if shape is None else shape.layers * shape.q_heads * shape.head_dim / layout.tp


def catch_up_seconds(
    draft: Draft, layout: Deployment, machine: Machine, batch: Num, ctx: Num
) -> Num:
    """Seconds by which a round's first draft pass exceeds the ones behind it."""
    if draft.first_pass_tokens == 1.0:
        return 0.0
    first, later = (
        draft_step(draft, layout, machine, batch, ctx, width=width).seconds
        for width in (draft.first_pass_tokens, 1.0)
    )
    return first - later


def _projections(draft: Draft, layout: Deployment, rows: Num) -> list[Op]:
    return [_projection(p, layout, rows) for p in draft.projections]


def _projection(p: Projection, layout: Deployment, rows: Num) -> Op:
    part = "attention" if p.quantised else "head"
    return linear(p.name, layout, rows, p.wide / layout.tp, p.deep, part=part)


def draft_layout(draft: Draft, layout: Deployment, machine: Machine) -> Deployment:
    """The draft's number formats, and the largest degree that divides its heads."""
    dtype = draft.weight_dtype or layout.dtype
    weight_only = draft.weight_dtype is not None
    math = machine.accelerator.math_dtype if weight_only else layout.math_dtype
    shape = draft.shape
    tp = layout.tp
    if shape is not None and not draft.same_model:
        degrees = largest_draft_degree(shape, tp)
        tp = degrees if np.ndim(tp) else float(degrees)
    formats = None
    if layout.formats is not None and shape is not None and not weight_only:
        a = machine.accelerator
        formats = shape.formats.on(frozenset(a.dense_flops_per_s), a.math_dtype)
    return replace(layout, dtype=dtype, math_dtype=math, tp=tp, formats=formats)


def _combine(first: StepCost, times: float, second: StepCost, scale: float) -> StepCost:
    """(times * first + second) * scale, field by field."""
    return StepCost(
        **{
            name: (times * getattr(first, name) + getattr(second, name)) * scale
            for name in StepCost.__dataclass_fields__
        }
    )
