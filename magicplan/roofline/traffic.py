"""Bytes and FLOP of one forward pass, op by op, for one GPU. Arithmetic only.

A pass feeds `query_tokens` tokens a sequence (1 decodes, gamma + 1 verifies a chain, n a tree)
against a cache of `ctx` tokens. Every count takes a float, an array or a symbol. Left out, as
less than 0.1 % of a decode step: embedding look-ups, page tables, split-KV partial results.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from magicplan.model_specs.formats import Format
from magicplan.model_specs.layers import (
    Attention,
    Compressed,
    Dense,
    Experts,
    Latent,
    Mixer,
    Projection,
    Split,
)
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Deployment, Namespace, Num
from magicplan.roofline.layers import context_ops
from magicplan.roofline.passes import FULL as FULL
from magicplan.roofline.passes import Kind as Kind
from magicplan.roofline.passes import KvView as KvView
from magicplan.roofline.passes import Op as Op
from magicplan.roofline.passes import Pass as Pass


def forward(
    model: ModelShape, layout: Deployment, work: Pass, xp: Namespace = np
) -> tuple[Op, ...]:
    """Every op of one forward pass on one GPU of a replica.

    Pipeline stages work on `pp` micro-batches in turn, so a step over the whole batch lasts as
    long as all layers take for one of them.
    """
    return tuple(_ops(model, layout, work, xp))


def attention(
    model: ModelShape, layout: Deployment, work: Pass, xp: Namespace = np
) -> tuple[Op, ...]:
    """The ops of `forward` that the context decides: all others are the same at any context."""
    batch = _batches(layout, work, xp)[1]
    return tuple(
        op
        for count, mixer in model.mixers
        for op in context_ops(mixer, count, layout, work, batch, xp)
    )


def _batches(layout: Deployment, work: Pass, xp: Namespace) -> tuple[Num, Num]:
    """Sequences of a micro-batch, and of those the ones of a data-parallel group."""
    micro_batch = xp.maximum(work.batch / layout.pp, 1.0)
    return micro_batch, xp.maximum(micro_batch / layout.attention_dp, 1.0)


def _ops(model: ModelShape, layout: Deployment, work: Pass, xp: Namespace) -> Iterator[Op]:
    micro_batch, batch = _batches(layout, work, xp)
    rows, all_rows = batch * work.query_tokens, micro_batch * work.query_tokens
    for count, mixer in model.mixers:
        for part in mixer.projections(model.hidden):
            yield _projected(part, "attention", layout, rows, count, xp)
    yield from attention(model, layout, work, xp)
    for count, extra in model.extras:
        yield _projected(extra, "attention", layout, rows, count, xp)
    yield from _feed_forward(model, layout, all_rows, xp)
    if model.layers:
        yield from _elementwise(model, layout, rows, all_rows)
        yield from _collectives(model, layout, rows, all_rows)
    yield lm_head(model, layout, rows)
    yield Op(
        name="sampling",
        kind="elementwise",
        dtype="fp32",
        activation_bytes=rows * model.vocab / layout.tp * 4,
    )


def linear(
    name: str,
    layout: Deployment,
    rows: Num,
    wide: Num,
    deep: Num,
    *,
    bias: Num = 0.0,
    count: Num = 1.0,
    part: str = "attention",
) -> Op:
    """Y[rows, wide] = X[rows, deep] W[wide, deep]^T: 2 rows wide deep FLOP, in the format of that
    part of the model."""
    form = layout.part(part)
    return Op(
        name=name,
        kind="linear",
        dtype=form.math,
        flops=rows * (2 * wide * deep),  # rows alone are large arrays: multiplied once
        weight_bytes=wide * deep * form.bytes + bias * layout.wide_bytes,
        activation_bytes=rows * ((wide + deep) * layout.wide_bytes),
        count=count,
    )


def lm_head(model: ModelShape, layout: Deployment, rows: Num) -> Op:
    """Logits of every query token; the vocabulary is split over the tensor-parallel ranks."""
    return linear("lm_head", layout, rows, model.vocab / layout.tp, model.hidden, part="head")


def _projected(
    part: Projection, of: str, layout: Deployment, rows: Num, count: int, xp: Namespace
) -> Op:
    """A mixer's linear layer, as wide and as deep as a rank holds of it."""
    wide = sum(_share(split, layout, xp) for split in part.wide)
    deep, bias = _share(part.deep, layout, xp), wide * int(part.biased)
    return linear(part.name, layout, rows, wide, deep, bias=bias, count=count, part=of)


def _share(split: Split, layout: Deployment, xp: Namespace) -> Num:
    """What a rank holds of a width: its part, or a copy of one piece at least."""
    if split.pieces == 1:
        return split.numbers
    return split.numbers / split.pieces * xp.maximum(split.pieces / layout.tp, 1.0)


def _feed_forward(model: ModelShape, layout: Deployment, rows: Num, xp: Namespace) -> Iterator[Op]:
    ranks, into = layout.ffn_ranks, 2 if model.gated else 1

    def dense(prefix: str, width: Num, count: int, part: str) -> Iterator[Op]:
        bias, share, hidden = int(model.ffn_bias), width / ranks, model.hidden
        for name, wide, deep, biases in (
            ("gate_up", into * share, hidden, into * share * bias),
            ("down", hidden, share, hidden * bias),
        ):
            yield linear(
                prefix + name, layout, rows, wide, deep, bias=biases, count=count, part=part
            )

    for count, kind in model.feed_forwards:
        if isinstance(kind, Dense):
            yield from dense("", kind.ffn, count, "mlp")
            continue
        yield from _experts(model, kind, count, layout, rows, xp)
        if kind.shared_ffn:
            yield from dense("shared_", kind.shared_ffn, count, "shared")


ROUTING_SHAPE = 0.5
"""How unevenly experts are visited: the shape of the gamma distribution of their popularity.

Uniform routing (an infinite shape) would read more weights than 600 published steps of DeepSeek-R1,
Qwen3-235B and gpt-oss-120b had time for; 0.5 fits them best.
"""


def touched_experts(experts: Experts, rows: Num) -> Num:
    """Expected distinct experts that `rows` tokens visit.

    An expert of gamma-distributed popularity is missed by all with (1 + visits / shape)^-shape
    (the zero of a negative binomial); one token always touches `per_token` different ones.
    """
    e = experts
    others = (rows - 1) * e.per_token / e.count
    missed = (1 - e.per_token / e.count) * (1 + others / ROUTING_SHAPE) ** -ROUTING_SHAPE
    return e.count * (1 - missed)


def _experts(
    model: ModelShape, e: Experts, count: int, layout: Deployment, rows: Num, xp: Namespace
) -> Iterator[Op]:
    """Router and routed experts: each rank holds 1 / ranks of all expert weights.

    `ep` ranks hold whole experts, split by columns over ranks / ep each; given balanced routing,
    a rank meets 1 / ep of the touched experts and of the (token, expert) pairs. Each pair reads
    and writes the activations between the products once. Ranks whose attention is data parallel
    are sent their own tokens alone; others see those of the whole group. Experts that work in a
    narrower width are entered and left through one projection each.
    """
    into, hidden, fed = (
        2 if model.gated else 1,
        e.hidden or model.hidden,
        rows / layout.attention_dp,
    )
    bias = e.count * int(e.bias)
    yield linear(
        "router", layout, fed, e.count, model.hidden, bias=bias, count=count, part="router"
    )
    if e.hidden:
        for name, wide, deep in (
            ("latent_down", hidden, model.hidden), ("latent_up", model.hidden, hidden)
        ):  # fmt: skip
            yield linear(name, layout, fed, wide, deep, count=count, part="shared")
    form = layout.part("experts")
    width = e.ffn * layout.ep / layout.ffn_ranks
    pairs = rows * e.per_token
    own = pairs / layout.ep
    elsewhere = xp.where(layout.attention_dp > 1, 0.0, pairs - own)
    # into the first product, out of it, through the activation, into the second, out of it, summed
    numbers = 3 * hidden + (2 * into + 2) * width
    weights = (into + 1) * width * hidden
    biases = (into * width + hidden * layout.ep / layout.ffn_ranks) * int(e.bias)
    touched = touched_experts(e, rows) / layout.ep
    yield Op(
        name="experts",
        kind="linear",
        dtype=form.math,
        flops=2 * own * weights,
        weight_bytes=touched * (weights * form.bytes + biases * layout.wide_bytes),
        activation_bytes=own * numbers * layout.wide_bytes,
        idle_bytes=elsewhere * numbers * layout.wide_bytes,
        count=count,
        grouped=True,
        weight_format=_stored(form),
        units=touched,
    )


def _stored(form: Format) -> str:
    """What kernels of experts tell apart of a format: its bits, and in 4 of them its math."""
    if form.bits >= 12:
        return "bf16"
    if form.bits >= 6:
        return "fp8"
    return "fp4" if form.math in ("fp4", "fp8") else "int4"


def _elementwise(model: ModelShape, layout: Deployment, rows: Num, all_rows: Num) -> Iterator[Op]:
    """Norms with residuals, RoPE, the activation function: read once, written once, fused so.

    Some models norm every head's query and key, latent attention its two latents. What surrounds
    the products of experts is part of them (`ExpertFit`).
    """

    def op(name: str, count: Num, activations: Num, weights: Num = 0.0) -> Op:
        return Op(
            name=name,
            kind="elementwise",
            dtype="fp32",
            weight_bytes=weights,
            activation_bytes=activations * layout.wide_bytes,
            count=count,
        )

    halves = model.mixing_layers + model.feeding_layers
    vectors = model.norm_parameters / halves * layout.wide_bytes
    yield op("norms", halves, 4 * rows * model.hidden, vectors)
    for count, mixer in model.mixers:
        turned = _turned(mixer, layout)
        if turned is not None:
            yield op("rope", count, 2 * rows * turned)
        if isinstance(mixer, Attention) and mixer.normed:
            yield op("query_key_norms", 2 * count, rows * turned)
        if isinstance(mixer, Latent):
            yield op("latent_norms", 2 * count, rows * (mixer.ranks.q_rank + mixer.ranks.kv_rank))
    for count, part in model.feed_forwards:
        width = part.ffn if isinstance(part, Dense) else part.shared_ffn
        if width:
            yield op("activation", count, 3 * all_rows * width / layout.ffn_ranks)


def _turned(mixer: Mixer, layout: Deployment) -> Num | None:
    """Numbers of a token's queries and keys that a rotary embedding passes over on one rank; None
    for a recurrence."""
    if isinstance(mixer, Attention):
        return (mixer.q_heads + mixer.kv_heads) * mixer.head_dim / layout.tp
    if isinstance(mixer, Latent):
        return (mixer.q_heads / layout.tp + 1) * mixer.ranks.rope_head_dim
    if isinstance(mixer, Compressed):
        return (mixer.q_heads / layout.tp + 1) * mixer.head_dim
    return None


def _collectives(model: ModelShape, layout: Deployment, rows: Num, all_rows: Num) -> Iterator[Op]:
    """One all-reduce after the mixers and one after the feed-forward of every layer.

    Experts under data-parallel attention exchange tokens instead: each rank sends its rows to
    `per_token` experts and gets them back.
    """
    row = model.hidden * layout.wide_bytes
    if model.mixing_layers:
        yield Op(
            name="attention_all_reduce",
            kind="collective",
            dtype="bf16",
            payload_bytes=rows * row,
            ranks=layout.tp,
            count=model.mixing_layers,
        )
    mixtures = [(count, part) for count, part in model.feed_forwards if isinstance(part, Experts)]
    exchange = bool(mixtures) and np.any(layout.ep > 1) and np.any(layout.attention_dp > 1)
    reduced = model.dense_layers if exchange else model.feeding_layers
    if reduced:
        yield Op(
            name="feed_forward_all_reduce",
            kind="collective",
            dtype="bf16",
            payload_bytes=all_rows * row,
            ranks=layout.ffn_ranks,
            count=reduced,
        )
    for count, experts in mixtures if exchange else ():
        sent = (experts.hidden or model.hidden) * layout.wide_bytes
        yield Op(
            name="expert_all_to_all",
            kind="collective",
            dtype="bf16",
            payload_bytes=rows / layout.tp * experts.per_token * sent,
            ranks=layout.ep,
            count=2 * count,
            pattern="all-to-all",
        )
