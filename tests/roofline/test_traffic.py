"""Bytes and FLOP: hand-worked numbers of Llama-3.1-8B, and laws over every kind of model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan import model_specs
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.traffic import KvView, Op, Pass, forward, touched_experts
from tests.shapes import LATENT, LLAMA, MIXTURE, SHAPES, SLIDING

counts = st.integers(1, 512).map(float)
contexts = st.integers(1, 131072).map(float)


def total(ops: tuple[Op, ...], name: str) -> float:
    return float(sum(op.count * getattr(op, name) for op in ops))


def one(ops: tuple[Op, ...], name: str) -> Op:
    return next(op for op in ops if op.name == name)


def test_llama_8b_reads_15_gb_of_weights() -> None:
    # 8,030,261,248 parameters less the input embedding of 128,256 x 4,096, two bytes each
    ops = forward(LLAMA, Deployment(), Pass(batch=1.0, ctx=1000.0))
    assert total(ops, "weight_bytes") == 2 * (8_030_261_248 - 128_256 * 4_096)


def test_llama_8b_reads_131072_kv_bytes_a_token() -> None:
    # 32 layers x 2 x 8 heads x 128 numbers x 2 bytes; read once a cached token, written once
    ops = forward(LLAMA, Deployment(), Pass(batch=3.0, ctx=1000.0))
    assert total(ops, "kv_bytes") == 3 * (1000 + 1) * 131_072


def test_llama_8b_flops_of_one_token() -> None:
    # 2 FLOP a weight that is multiplied, and 4 x 32 heads x 128 x (1000 + 1) a layer of attention
    ops = forward(LLAMA, Deployment(), Pass(batch=1.0, ctx=1000.0))
    norms, embedding = 65 * 4096, 128_256 * 4_096
    matrices = 8_030_261_248 - embedding - norms
    assert total(ops, "flops") == 2 * matrices + 32 * 4 * 32 * 128 * 1001


def test_attention_intensity_is_group_times_query_tokens() -> None:
    for query_tokens in (1.0, 5.0, 16.0):
        work = Pass(batch=8.0, ctx=1e6, query_tokens=query_tokens)
        op = one(forward(LLAMA, Deployment(), work), "attention")
        assert op.flops / op.kv_bytes == pytest.approx(4 * query_tokens, rel=1e-3)


def test_kv_passes_multiply_what_is_read_and_not_what_is_written() -> None:
    work = Pass(batch=2.0, ctx=100.0, query_tokens=5.0)
    once = total(forward(LLAMA, Deployment(), work), "kv_bytes")
    five = total(forward(LLAMA, Deployment(), replace(work, kv_passes=5.0)), "kv_bytes")
    assert five - once == 4 * 2 * 100 * 131_072


def test_sliding_layers_stop_at_their_window() -> None:
    def read(ctx: float) -> float:
        ops = forward(SLIDING, Deployment(), Pass(batch=1.0, ctx=ctx))
        return float(one(ops, "attention_sliding").kv_bytes)

    assert read(512.0) < read(1024.0) == read(30000.0)


def test_latent_cache_holds_576_numbers_and_is_read_whole_by_every_rank() -> None:
    work = Pass(batch=1.0, ctx=1000.0)
    for tp in (1.0, 8.0):
        op = one(forward(LATENT, Deployment(tp=tp), work), "attention")
        assert op.kv_bytes == 1001 * 576 * 2


def test_kv_heads_are_replicated_past_their_number() -> None:
    work = Pass(batch=4.0, ctx=1000.0)
    by_degree = {
        tp: float(one(forward(LLAMA, Deployment(tp=tp), work), "attention").kv_bytes)
        for tp in (1.0, 8.0, 16.0)
    }
    assert by_degree[1.0] == 8 * by_degree[8.0]
    assert by_degree[16.0] == by_degree[8.0]


def test_models_that_norm_queries_and_keys_launch_two_more_kernels_a_layer() -> None:
    """8 sequences of Qwen3-32B: 64 query and 8 KV heads of 128 numbers, read and written once."""
    qwen, work = model_specs.load("qwen3-32b"), Pass(batch=8, ctx=100)
    norms = one(forward(qwen, Deployment(), work), "query_key_norms")
    assert (norms.count, norms.activation_bytes) == (2 * 64, 8 * (64 + 8) * 128 * 2)
    plain = {op.name for op in forward(LLAMA, Deployment(), work)}
    assert "query_key_norms" not in plain


def test_touched_experts_by_hand() -> None:
    # one token visits 8 of 64; a second adds 8/64 visits an expert: 64 (1 - 7/8 (1 + 1/4)^-1/2);
    # uniform routing would give 64 (1 - (7/8)^2) = 15
    assert MIXTURE.experts is not None
    assert touched_experts(MIXTURE.experts, 1.0) == pytest.approx(8)
    assert touched_experts(MIXTURE.experts, 2.0) == pytest.approx(13.912, abs=1e-3)
    assert touched_experts(MIXTURE.experts, 1e10) == pytest.approx(64, rel=1e-4)


def test_all_experts_read_make_up_all_parameters() -> None:
    ops = forward(MIXTURE, Deployment(), Pass(batch=1e22, ctx=1.0))
    assert total(ops, "weight_bytes") == pytest.approx(2 * MIXTURE.parameters, rel=1e-9)


def test_quantised_cache_reads_its_scales() -> None:
    work = Pass(batch=1.0, ctx=1e5)
    full = total(forward(LLAMA, Deployment(), work), "kv_bytes")
    quant = replace(work, view=KvView(name="quant:4", kv_dtype="int4"))
    assert total(forward(LLAMA, Deployment(), quant), "kv_bytes") == full * (0.5 + 4 / 128) / 2


def test_int4_weights_leave_the_head_alone() -> None:
    ops = forward(LLAMA, Deployment(dtype="int4"), Pass(batch=1.0, ctx=1.0))
    assert one(ops, "lm_head").weight_bytes == 128_256 * 4_096 * 2
    assert one(ops, "output").weight_bytes == 4096 * 4096 * (0.5 + 2 / 128)


@given(shape=st.sampled_from(SHAPES), batch=counts, ctx=contexts)
def test_a_budget_that_holds_the_context_changes_nothing(
    shape: ModelShape, batch: float, ctx: float
) -> None:
    work = Pass(batch=batch, ctx=ctx)
    view = KvView(name="streaming", budget_tokens=ctx)
    assert total(forward(shape, Deployment(), work), "kv_bytes") == total(
        forward(shape, Deployment(), replace(work, view=view)), "kv_bytes"
    )


@given(
    shape=st.sampled_from(SHAPES),
    batch=counts,
    ctx=contexts,
    tokens=st.integers(1, 64).map(float),
    name=st.sampled_from(["flops", "weight_bytes", "kv_bytes", "activation_bytes"]),
    axis=st.sampled_from(["batch", "ctx", "query_tokens"]),
)
def test_nothing_shrinks_as_the_work_grows(
    shape: ModelShape, batch: float, ctx: float, tokens: float, name: str, axis: str
) -> None:
    work = Pass(batch=batch, ctx=ctx, query_tokens=tokens)
    more = replace(work, **{axis: getattr(work, axis) + 1})
    less, greater = (total(forward(shape, Deployment(), w), name) for w in (work, more))
    assert greater >= less * (1 - 1e-12)


@given(shape=st.sampled_from(SHAPES), data=st.data())
def test_a_scalar_equals_its_grid_cell(shape: ModelShape, data: st.DataObject) -> None:
    batch = np.array(data.draw(st.lists(counts, min_size=1, max_size=4)))[:, None, None]
    ctx = np.array(data.draw(st.lists(contexts, min_size=1, max_size=4)))[None, :, None]
    tokens = np.arange(1.0, 6.0)
    grid = forward(shape, Deployment(), Pass(batch=batch, ctx=ctx, query_tokens=tokens))
    cell = forward(
        shape,
        Deployment(),
        Pass(batch=float(batch[-1, 0, 0]), ctx=float(ctx[0, -1, 0]), query_tokens=5.0),
    )
    for whole, single in zip(grid, cell, strict=True):
        for name in ("flops", "weight_bytes", "kv_bytes", "activation_bytes"):
            full = np.broadcast_to(getattr(whole, name), (batch.size, ctx.size, 5))
            assert full[-1, -1, -1] == getattr(single, name)
