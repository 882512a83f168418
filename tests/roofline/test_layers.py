"""Each kind of layer: hand-worked bytes, laws of verification, and memory by part and by state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan import model_specs
from magicplan.model_specs.layers import Attention, Dense, Layer, Recurrent
from magicplan.model_specs.shape import ModelShape, runs_of
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.layers import cache_bytes, context_ops, state_bytes
from magicplan.roofline.memory import (
    footprint,
    kv_sequence_bytes,
    splits_evenly,
    state_sequence_bytes,
    weights_bytes,
)
from magicplan.roofline.traffic import FULL, Op, Pass, forward
from tests.shapes import LATENT, LLAMA, MIXTURE, SLIDING

KINDS = (
    "gpt-oss-120b", "deepseek-v3", "deepseek-v3.2", "glm-5.2", "deepseek-v4-flash", "minimax-m3",
    "qwen3.5-27b", "qwen3-next-80b-a3b", "kimi-linear-48b-a3b", "kimi-k3",
    "nemotron-3-super-120b-a12b", "gemma-3n-e4b", "gemma-4-26b-a4b", "mimo-v2-flash",
    "nemotron-super-49b",
)  # fmt: skip
"""One preset and more of every kind of layer."""
contexts = st.integers(1, 262144).map(float)


def total(ops: tuple[Op, ...], name: str) -> float:
    return float(sum(op.count * getattr(op, name) for op in ops))


def of_layer(ops: tuple[Op, ...], layer: str) -> list[Op]:
    return [op for op in ops if op.layer == layer]


@pytest.mark.parametrize("shape", [LLAMA, SLIDING, MIXTURE, LATENT], ids=lambda s: s.name)
def test_a_model_is_the_list_of_its_layers(shape: ModelShape) -> None:
    """A model said by its widths costs what the same model costs with its layers listed."""
    listed = replace(shape, listed=shape.runs)
    for work in (Pass(batch=8.0, ctx=5000.0), Pass(batch=2.0, ctx=100.0, query_tokens=5.0)):
        for layout in (Deployment(), Deployment(tp=4.0)):
            for name in ("flops", "weight_bytes", "kv_bytes", "activation_bytes"):
                told, said = (total(forward(m, layout, work), name) for m in (shape, listed))
                assert told == pytest.approx(said, rel=1e-15)
    assert weights_bytes(shape, Deployment()) == weights_bytes(listed, Deployment())


def test_layers_have_to_add_up() -> None:
    with pytest.raises(ValueError, match="other than its 32 layers"):
        replace(LLAMA, listed=((31, Layer()),))


def test_order_costs_nothing() -> None:
    ops = forward(SLIDING, Deployment(), Pass(batch=4.0, ctx=9000.0))
    layers = [layer for count, layer in SLIDING.runs for _ in range(count)]
    turned = replace(SLIDING, listed=runs_of(layers[::-1]))
    other = forward(turned, Deployment(), Pass(batch=4.0, ctx=9000.0))
    assert total(ops, "kv_bytes") == pytest.approx(total(other, "kv_bytes"), rel=1e-15)


def test_gated_delta_state_by_hand() -> None:
    """Qwen3.5-27B: 48 layers of 48 value heads x 128 x 128 numbers of 4 bytes, and a window of 3
    tokens of 2 x 16 x 128 + 48 x 128 channels in 16 bits; decode reads and writes it once."""
    model = model_specs.load("qwen3.5-27b")
    state = 48 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 48 * 128) * 2
    assert state_sequence_bytes(model, Deployment()) == 48 * state
    (op,) = of_layer(forward(model, Deployment(), Pass(batch=3.0, ctx=9.0)), "gated_delta")
    assert (op.count, op.kv_bytes) == (48, 3 * 2 * state)


@pytest.mark.parametrize(("tokens", "times"), [(1, 1.0), (4, 2.5), (8, 4.5)])
def test_verifying_t_tokens_moves_one_state_and_t(tokens: int, times: float) -> None:
    """Measured on H100 with 96 heads, batch 64: 2.4 to 2.6 decode times at 4, 4.3 to 4.8 at 8
    (kernel tables of aiconfigurator, commit 095f58a)."""
    model = model_specs.load("kimi-k3")
    (one,) = of_layer(forward(model, Deployment(), Pass(batch=64.0, ctx=1.0)), "kda")
    work = Pass(batch=64.0, ctx=1.0, query_tokens=float(tokens))
    (more,) = of_layer(forward(model, Deployment(), work), "kda")
    assert more.kv_bytes / one.kv_bytes == pytest.approx(times)
    (prompt,) = of_layer(forward(model, Deployment(), replace(work, prefill=True)), "kda_prompt")
    assert prompt.kv_bytes == one.kv_bytes


def test_a_state_is_the_same_at_any_context_and_saved_states_take_memory() -> None:
    model = model_specs.load("qwen3.5-27b")
    short, long = (
        total(tuple(of_layer(forward(model, Deployment(), Pass(batch=1.0, ctx=c)), "gated_delta")),
              "kv_bytes")
        for c in (1.0, 1e6)
    )  # fmt: skip
    assert short == long
    plain, drafted = (
        footprint(model, Deployment(), 1.0, 1000.0, 1e12, query_tokens=t) for t in (1.0, 6.0)
    )
    states = state_sequence_bytes(model, Deployment())
    added = drafted.sequence_bytes_per_gpu - plain.sequence_bytes_per_gpu
    assert added > 5 * states


def test_latent_sparse_attention_by_hand() -> None:
    """DeepSeek-V3.2, one sequence of 100,000 tokens: the indexer reads 132 bytes of each, attention
    2048 latents of 576 numbers; a layer of DeepSeek-V3 reads all of them."""
    sparse, dense = (model_specs.load(n) for n in ("deepseek-v3.2", "deepseek-v3"))
    ops = forward(sparse, Deployment(), Pass(batch=1.0, ctx=100_000.0))
    (index,), (attention,) = of_layer(ops, "index"), of_layer(ops, "indexed")
    assert index.kv_bytes == 100_001 * 132
    assert attention.kv_bytes == (2048 + 1) * 576 * 2
    (whole,) = of_layer(forward(dense, Deployment(), Pass(batch=1.0, ctx=100_000.0)), "latent")
    assert whole.kv_bytes == 100_001 * 576 * 2
    held = kv_sequence_bytes(sparse, Deployment(), 1000.0, FULL)
    assert held == 61 * 1000 * (576 * 2 + 132)


def test_query_tokens_pick_for_themselves_and_read_no_more_than_there_is() -> None:
    model = model_specs.load("deepseek-v3.2")

    def read(ctx: float, tokens: float, passes: float | None = None) -> float:
        work = Pass(batch=1.0, ctx=ctx, query_tokens=tokens, kv_passes=passes)
        (op,) = of_layer(forward(model, Deployment(), work), "indexed")
        return float(op.kv_bytes) - tokens * 576 * 2

    assert read(100_000.0, 5.0) == 5 * 2048 * 576 * 2
    assert read(100_000.0, 5.0, passes=1.0) == 2048 * 576 * 2
    assert read(4096.0, 5.0) == 4096 * 576 * 2
    assert read(1000.0, 5.0) == 1000 * 576 * 2


def test_shared_choices_hold_no_keys_and_score_nothing() -> None:
    """GLM-5.2: of 78 layers, 57 take over the choice of one before them."""
    model = model_specs.load("glm-5.2")
    ops = forward(model, Deployment(), Pass(batch=1.0, ctx=50_000.0))
    assert sum(op.count for op in of_layer(ops, "index")) == 21
    assert sum(op.count for op in of_layer(ops, "indexed")) == 78
    latents, keys = 78 * 576 * 2, 21 * 132
    assert kv_sequence_bytes(model, Deployment(), 1.0, FULL) == latents + keys


def test_compressed_attention_by_hand() -> None:
    """DeepSeek-V4-Flash holds 128 whole tokens a layer; 21 of its 43 layers an entry of 512 numbers
    and an index key of 132 bytes for every 4 tokens, 20 an entry for every 128."""
    model = model_specs.load("deepseek-v4-flash")
    tokens = 128_000.0
    window, entry = 43 * 128 * 512 * 2, 512 * 2
    expected = window + tokens / 4 * 21 * (entry + 132) + tokens / 128 * 20 * entry
    assert kv_sequence_bytes(model, Deployment(), tokens, FULL) == pytest.approx(expected)


def test_a_reader_of_another_layers_cache_holds_none() -> None:
    own = Attention(q_heads=8, kv_heads=2, head_dim=64)
    reader = replace(own, owns_cache=False)
    assert cache_bytes(reader, Deployment(), 1000.0) == 0
    work = Pass(batch=1.0, ctx=1000.0)
    (writes,) = context_ops(own, 1, Deployment(), work, 1.0)
    (reads,) = context_ops(reader, 1, Deployment(), work, 1.0)
    assert writes.kv_bytes - reads.kv_bytes == 2 * 2 * 64 * 2
    gemma = model_specs.load("gemma-3n-e4b")
    holding = sum(c for c, m in gemma.mixers if isinstance(m, Attention) and m.owns_cache)
    assert (holding, gemma.layers) == (20, 35)


def test_states_split_by_heads_and_copy_past_them() -> None:
    mixer = Recurrent(
        kind="mamba2", heads=8, state_numbers=8 * 64 * 128, window_numbers=0, update_flops=1,
        linear=(),
    )  # fmt: skip
    assert state_bytes(mixer, Deployment(tp=8.0)) == mixer.state_bytes
    assert state_bytes(mixer, Deployment(tp=16.0)) == 2 * mixer.state_bytes
    shape = replace(LLAMA, layers=1, listed=((1, Layer(mixers=(mixer,), feed_forwards=())),))
    assert splits_evenly(shape, 4)
    assert not splits_evenly(shape, 3)


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_is_read_where_all_experts_are(name: str) -> None:
    """What a pass over endless rows reads is every weight but the tables that rows are looked up
    in."""
    model = model_specs.load(name)
    ops = forward(model, Deployment(), Pass(batch=1e22, ctx=1.0))
    looked_up = 0 if model.tied_embeddings else model.head_parameters
    read = 2 * (model.parameters - looked_up - model.gathered_parameters)
    assert total(ops, "weight_bytes") == pytest.approx(read, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
@given(ctx=contexts, tokens=st.integers(1, 16).map(float))
def test_a_verification_costs_more_than_a_step_and_less_than_steps(
    name: str, ctx: float, tokens: float
) -> None:
    model = model_specs.load(name)
    one = forward(model, Deployment(), Pass(batch=1.0, ctx=ctx))
    more = forward(model, Deployment(), Pass(batch=1.0, ctx=ctx, query_tokens=tokens))
    step, verify = total(one, "kv_bytes"), total(more, "kv_bytes")
    assert step * (1 - 1e-12) <= verify <= tokens * step * (1 + 1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_a_cache_never_shrinks_and_a_grid_is_its_cells(name: str) -> None:
    model, ctx = model_specs.load(name), np.array([1.0, 100.0, 5000.0, 200_000.0])
    held = kv_sequence_bytes(model, Deployment(tp=2.0), ctx, FULL)
    assert (np.diff(held) >= 0).all()
    whole = forward(model, Deployment(), Pass(batch=4.0, ctx=ctx, query_tokens=3.0))
    for at, single in enumerate(ctx):
        alone = forward(model, Deployment(), Pass(batch=4.0, ctx=float(single), query_tokens=3.0))
        for grid, cell in zip(whole, alone, strict=True):
            assert np.broadcast_to(grid.kv_bytes, ctx.shape)[at] == cell.kv_bytes


def test_formats_decide_bytes_and_math_part_by_part() -> None:
    """gpt-oss-120b on a part without fp4: experts of 4.25 bits multiply in 16."""
    model = model_specs.load("gpt-oss-120b")
    hopper = model.formats.on(frozenset({"bf16", "fp8"}), "bf16")
    ops = {op.name: op for op in forward(model, Deployment(formats=hopper), Pass(batch=1, ctx=1))}
    experts, head = ops["experts"], ops["lm_head"]
    assert (experts.dtype, head.dtype) == ("bf16", "bf16")
    assert head.weight_bytes == 201_088 * 2880 * 2
    # four experts of three matrices and their biases (gate, up, down), all of width 2880
    assert experts.weight_bytes == pytest.approx(4 * 3 * (2880 * 2880 * 4.25 / 8 + 2880 * 2))


def test_dense_layers_without_attention() -> None:
    """NVIDIA's searched models leave attention out of some layers: no op, no all-reduce."""
    model = replace(
        LLAMA, layers=2, listed=((1, LLAMA.runs[0][1]), (1, Layer(feed_forwards=(Dense(ffn=8),))))
    )
    ops = {op.name: op for op in forward(model, Deployment(tp=2.0), Pass(batch=1.0, ctx=1.0))}
    assert ops["attention_all_reduce"].count == 1
    assert ops["feed_forward_all_reduce"].count == 2
