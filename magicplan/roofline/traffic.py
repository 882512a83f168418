"""Bytes and FLOP of one forward pass, op by op, for one GPU. Arithmetic only.

A pass feeds `query_tokens` tokens a sequence (1 decodes, gamma + 1 verifies a chain, n a tree)
against a KV cache of `ctx` tokens. Every count takes a float, an array or a symbol. Left out, as
less than 0.1 % of a decode step: embedding look-ups, page tables, split-KV partial results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magicplan.model_specs.shape import LatentAttention, ModelShape
from magicplan.roofline.deployment import (
    BYTES_PER_KV_NUMBER,
    Deployment,
    Namespace,
    Num,
)

Kind = Literal["linear", "attention", "collective", "elementwise"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """One op on one GPU: what a single run of it moves and computes, and how often it runs.

    `units` of an attention op are its independent (sequence, KV head) pairs; a collective moves
    `payload_bytes` of each of the `ranks` GPUs that take part.
    """

    name: str
    kind: Kind
    dtype: str
    flops: Num = 0.0
    weight_bytes: Num = 0.0
    kv_bytes: Num = 0.0
    activation_bytes: Num = 0.0
    reread_bytes: Num = 0.0
    """KV that a kernel which packs no query rows reads over again, beside `kv_bytes`."""
    count: Num = 1.0
    grouped: bool = False
    """Products of many experts in one kernel, which is another than that of a single product."""
    units: Num = 0.0
    ranks: Num = 1.0
    payload_bytes: Num = 0.0
    pattern: Literal["all-reduce", "all-to-all"] = "all-reduce"

    @property
    def bytes(self) -> Num:
        """All bytes one run moves to or from memory."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvView:
    """The part of a KV cache that a pass reads.

    `budget_tokens` caps the tokens attended, sinks included (StreamingLLM, arXiv 2309.17453;
    SnapKV, arXiv 2404.14469); `kv_dtype` is the cache's own format if it differs from the
    deployment's; `scan_fraction` of the whole cache is read to select tokens at every step.
    """

    name: str = "full"
    budget_tokens: float | None = None
    kv_dtype: str | None = None
    scan_fraction: float = 0.0

    def attended_tokens(self, ctx: Num, xp: Namespace = np) -> Num:
        """Tokens whose keys and values are read, of `ctx` in the cache."""
        return ctx if self.budget_tokens is None else xp.minimum(ctx, self.budget_tokens)


FULL = KvView()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass of one replica: what a round asks of a model.

    `batch` [sequences] and `ctx` [tokens in the cache] broadcast against `query_tokens`.
    `kv_passes` is how often the query tokens make the kernel read a sequence's KV: 1 where it packs
    them; None leaves it to the calibration (`AttentionFit.reread_share`).
    """

    batch: Num
    ctx: Num
    query_tokens: Num = 1.0
    view: KvView = FULL
    kv_passes: Num | None = None


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
    return tuple(_attends(model, layout, work, _batches(layout, work, xp)[1], xp))


def _batches(layout: Deployment, work: Pass, xp: Namespace) -> tuple[Num, Num]:
    """Sequences of a micro-batch, and of those the ones of a data-parallel group."""
    micro_batch = xp.maximum(work.batch / layout.pp, 1.0)
    return micro_batch, xp.maximum(micro_batch / layout.attention_dp, 1.0)


def _ops(model: ModelShape, layout: Deployment, work: Pass, xp: Namespace) -> Iterator[Op]:
    micro_batch, batch = _batches(layout, work, xp)
    rows, all_rows = batch * work.query_tokens, micro_batch * work.query_tokens
    if model.layers:
        if model.latent:
            yield from _latent_attention(model, model.latent, layout, work, batch, xp)
        else:
            yield from _attention(model, layout, work, batch, xp)
        yield from _feed_forward(model, layout, all_rows)
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
    quantised: bool = True,
) -> Op:
    """Y[rows, wide] = X[rows, deep] W[wide, deep]^T: 2 rows wide deep FLOP."""
    weight = layout.weight_bytes if quantised else layout.wide_bytes
    dtype = layout.math_dtype if quantised else layout.wide_dtype
    return Op(
        name=name,
        kind="linear",
        dtype=dtype,
        flops=rows * (2 * wide * deep),  # rows alone are large arrays: multiplied once
        weight_bytes=wide * deep * weight + bias * layout.wide_bytes,
        activation_bytes=rows * ((wide + deep) * layout.wide_bytes),
        count=count,
    )


def lm_head(model: ModelShape, layout: Deployment, rows: Num) -> Op:
    """Logits of every query token; the vocabulary is split over the tensor-parallel ranks."""
    return linear("lm_head", layout, rows, model.vocab / layout.tp, model.hidden, quantised=False)


def _attention(
    model: ModelShape, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """QKV, attention and output projections; past `kv_heads` ranks each holds a whole head."""
    rows = batch * work.query_tokens
    kv_heads = xp.maximum(model.kv_heads / layout.tp, 1.0)
    q_width, kv_width = model.q_heads / layout.tp * model.head_dim, kv_heads * model.head_dim
    wide = q_width + 2 * kv_width
    bias = wide * int(model.qkv_bias)
    yield linear("qkv", layout, rows, wide, model.hidden, bias=bias, count=model.layers)
    yield from _attends(model, layout, work, batch, xp)
    bias = model.hidden * int(model.output_bias)
    yield linear("output", layout, rows, model.hidden, q_width, bias=bias, count=model.layers)


def _attends(
    model: ModelShape, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """Scores and weighted values, by kind of layer. Latent attention's are in its absorbed form:
    query heads are split over the ranks, and every rank reads the whole latent cache."""
    q_heads, attended = model.q_heads / layout.tp, work.view.attended_tokens(work.ctx, xp)
    if model.latent:
        rank = model.latent.kv_rank
        latent = rank + model.latent.rope_head_dim
        yield attend(
            "attention",
            layout,
            work,
            batch,
            attended,
            work.ctx,
            heads=q_heads,
            score_width=latent,
            value_width=rank,
            kv_numbers=latent,
            units=batch,
            count=model.layers,
            sharing=1.0,
        )
        return
    kv_heads = xp.maximum(model.kv_heads / layout.tp, 1.0)
    for name, count, window in (
        ("attention", model.full_layers, None),
        ("attention_sliding", model.sliding_layers, model.window_tokens),
    ):
        if count:
            yield attend(
                name,
                layout,
                work,
                batch,
                _in_window(attended, window, xp),
                _in_window(work.ctx, window, xp),
                heads=q_heads,
                score_width=model.head_dim,
                value_width=model.head_dim,
                kv_numbers=2 * (kv_heads * model.head_dim),
                units=batch * kv_heads,
                count=count,
                sharing=q_heads / kv_heads,
            )


def _latent_attention(
    model: ModelShape,
    a: LatentAttention,
    layout: Deployment,
    work: Pass,
    batch: Num,
    xp: Namespace,
) -> Iterator[Op]:
    """Multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv 2405.04434, 2.1.2)."""
    rows, layers, heads = batch * work.query_tokens, model.layers, model.q_heads / layout.tp
    q_width = heads * (a.nope_head_dim + a.rope_head_dim)
    latent = a.kv_rank + a.rope_head_dim
    if a.q_rank:
        yield linear("query_down", layout, rows, a.q_rank, model.hidden, count=layers)
        yield linear("query_up", layout, rows, q_width, a.q_rank, count=layers)
    else:
        yield linear("query", layout, rows, q_width, model.hidden, count=layers)
    yield linear("kv_down", layout, rows, latent, model.hidden, count=layers)
    yield linear("key_up", layout, rows, heads * a.nope_head_dim, a.kv_rank, count=layers)
    yield from _attends(model, layout, work, batch, xp)
    yield linear("value_up", layout, rows, heads * a.value_head_dim, a.kv_rank, count=layers)
    yield linear("output", layout, rows, model.hidden, heads * a.value_head_dim, count=layers)


def _in_window(tokens: Num, window: int | None, xp: Namespace) -> Num:
    return tokens if window is None else xp.minimum(tokens, float(window))


def attend(
    name: str,
    layout: Deployment,
    work: Pass,
    batch: Num,
    attended: Num,
    cached: Num,
    *,
    heads: Num,
    score_width: Num,
    value_width: Num,
    kv_numbers: Num,
    units: Num,
    count: Num,
    sharing: Num,
) -> Op:
    """Scores and weighted values over `attended` cached tokens and, causally, the new ones.

    KV is read `kv_passes` times (once if None) and appended once; each of T query rows meets
    (T + 1) / 2 new tokens on average, which are still in registers or L2 and cost no traffic of
    their own. `sharing` query heads share a KV head.
    """
    rows = batch * work.query_tokens
    kv_dtype = work.view.kv_dtype or layout.kv_dtype
    token_bytes = kv_numbers * BYTES_PER_KV_NUMBER[kv_dtype]
    passes, tokens = (1.0, work.query_tokens) if work.kv_passes is None else (work.kv_passes, 1.0)
    read = attended * passes + cached * work.view.scan_fraction
    new = (work.query_tokens + 1) / 2
    return Op(
        name=name,
        kind="attention",
        dtype=kv_dtype,
        flops=2 * rows * heads * (score_width + value_width) * (attended + new),
        kv_bytes=batch * token_bytes * (read + work.query_tokens),
        activation_bytes=rows * heads * (score_width + value_width) * layout.wide_bytes,
        reread_bytes=batch * token_bytes * attended * passes * (sharing * tokens - 1),
        units=units,
        count=count,
    )


def _feed_forward(model: ModelShape, layout: Deployment, rows: Num) -> Iterator[Op]:
    ranks, into = layout.ffn_ranks, 2 if model.gated else 1

    def dense(prefix: str, width: Num, count: int) -> Iterator[Op]:
        bias, share = int(model.ffn_bias), width / ranks
        up, down = into * share * bias, model.hidden * bias
        yield linear(
            prefix + "gate_up", layout, rows, into * share, model.hidden, bias=up, count=count
        )
        yield linear(prefix + "down", layout, rows, model.hidden, share, bias=down, count=count)

    if model.dense_layers:
        yield from dense("", model.ffn, model.dense_layers)
    if model.experts:
        yield from _experts(model, layout, rows)
        if model.experts.shared_ffn:
            yield from dense("shared_", model.experts.shared_ffn, model.experts.layers)


ROUTING_SHAPE = 0.5
"""How unevenly experts are visited: the shape of the gamma distribution of their popularity.

Uniform routing (an infinite shape) would read more weights than 600 published steps of DeepSeek-R1,
Qwen3-235B and gpt-oss-120b had time for; 0.5 fits them best.
"""


def touched_experts(model: ModelShape, rows: Num) -> Num:
    """Expected distinct experts that `rows` tokens visit.

    An expert of gamma-distributed popularity is missed by all with (1 + visits / shape)^-shape
    (the zero of a negative binomial); one token always touches `per_token` different ones.
    """
    if model.experts is None:
        return 0.0
    e = model.experts
    others = (rows - 1) * e.per_token / e.count
    missed = (1 - e.per_token / e.count) * (1 + others / ROUTING_SHAPE) ** -ROUTING_SHAPE
    return e.count * (1 - missed)


def _experts(model: ModelShape, layout: Deployment, rows: Num) -> Iterator[Op]:
    """Router and routed experts: each rank holds 1 / ranks of all expert weights.

    Whether experts are split whole (ep) or each by columns (tp), a rank reads the same share of
    the touched ones and does the same share of the products, given balanced routing.
    """
    e = model.experts
    if e is None:
        return
    into = 2 if model.gated else 1
    yield linear(
        "router",
        layout,
        rows / layout.attention_dp,
        e.count,
        model.hidden,
        bias=e.count * int(e.bias),
        count=e.layers,
        quantised=False,
    )
    touched = touched_experts(model, rows) / layout.ffn_ranks
    visits = rows * e.per_token / layout.ffn_ranks
    for name, wide, deep in (
        ("experts_gate_up", into * e.ffn, model.hidden),
        ("experts_down", model.hidden, e.ffn),
    ):
        one = linear(name, layout, visits, wide, deep, count=e.layers)
        weights = touched * (
            wide * deep * layout.weight_bytes + wide * int(e.bias) * layout.wide_bytes
        )
        yield Op(
            name=name,
            kind="linear",
            dtype=one.dtype,
            flops=one.flops,
            weight_bytes=weights,
            activation_bytes=one.activation_bytes,
            count=e.layers,
            grouped=True,
        )


def _elementwise(model: ModelShape, layout: Deployment, rows: Num, all_rows: Num) -> Iterator[Op]:
    """Norms with residuals, RoPE, the activation function: read once, written once, fused so.

    Some models norm every head's query and key, latent attention its two latents; experts add the
    choice of experts, the sorting of tokens by expert and the weighted sum of what comes back.
    """
    norm = model.norm_parameters / (2 * model.layers) * layout.wide_bytes
    yield Op(
        name="norms",
        kind="elementwise",
        dtype="fp32",
        weight_bytes=norm,
        activation_bytes=4 * rows * model.hidden * layout.wide_bytes,
        count=2 * model.layers,
    )
    if model.latent:
        turned = (model.q_heads / layout.tp + 1) * model.latent.rope_head_dim
    else:
        turned = (model.q_heads + model.kv_heads) * model.head_dim / layout.tp
    yield Op(
        name="rope",
        kind="elementwise",
        dtype="fp32",
        activation_bytes=2 * rows * turned * layout.wide_bytes,
        count=model.layers,
    )
    if model.query_key_norms:
        yield Op(
            name="query_key_norms",
            kind="elementwise",
            dtype="fp32",
            activation_bytes=rows * turned * layout.wide_bytes,
            count=2 * model.layers,
        )
    if model.latent:
        latents = model.latent.q_rank + model.latent.kv_rank
        yield Op(
            name="latent_norms",
            kind="elementwise",
            dtype="fp32",
            activation_bytes=rows * latents * layout.wide_bytes,
            count=2 * model.layers,
        )
    width = model.ffn * model.dense_layers
    if model.experts:
        e = model.experts
        visits = all_rows * e.per_token / layout.ffn_ranks
        yield Op(
            name="routing",
            kind="elementwise",
            dtype="fp32",
            activation_bytes=2 * visits * model.hidden * layout.wide_bytes,
            count=3 * e.layers,
        )
        width += (e.ffn * e.per_token + e.shared_ffn) * e.layers
    yield Op(
        name="activation",
        kind="elementwise",
        dtype="fp32",
        activation_bytes=3 * all_rows * width / model.layers / layout.ffn_ranks * layout.wide_bytes,
        count=model.layers,
    )


def _collectives(model: ModelShape, layout: Deployment, rows: Num, all_rows: Num) -> Iterator[Op]:
    """One all-reduce after attention and one after the feed-forward of every layer.

    Experts under data-parallel attention exchange tokens instead: each rank sends its rows to
    `per_token` experts and gets them back.
    """
    row = model.hidden * layout.wide_bytes
    yield Op(
        name="attention_all_reduce",
        kind="collective",
        dtype="bf16",
        payload_bytes=rows * row,
        ranks=layout.tp,
        count=model.layers,
    )
    moe_layers = model.experts.layers if model.experts else 0
    exchange = bool(moe_layers) and np.any(layout.ep > 1) and np.any(layout.attention_dp > 1)
    reduced = model.dense_layers if exchange else model.layers
    if reduced:
        yield Op(
            name="feed_forward_all_reduce",
            kind="collective",
            dtype="bf16",
            payload_bytes=all_rows * row,
            ranks=layout.ffn_ranks,
            count=reduced,
        )
    if exchange and model.experts:
        yield Op(
            name="expert_all_to_all",
            kind="collective",
            dtype="bf16",
            payload_bytes=rows / layout.tp * model.experts.per_token * row,
            ranks=layout.ep,
            count=2 * moe_layers,
            pattern="all-to-all",
        )
