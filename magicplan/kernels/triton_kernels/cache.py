"""RoPE with append, and compaction of an accepted tree path."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from magicplan.kernels.backend import LayerCache
from magicplan.kernels.triton_kernels.tiles import next_power


@triton.jit
def _rotated(x, at, cos, sin, dim, live, HALF: tl.constexpr):
    low = tl.load(x + at + dim, mask=live, other=0.0).to(tl.float32)
    high = tl.load(x + at + HALF + dim, mask=live, other=0.0).to(tl.float32)
    return low * cos - high * sin, high * cos + low * sin


@triton.jit(do_not_specialize=["first"])
def rope_append(
    query, key, value, out, key_pool, value_pool, table, lengths, depths, cos, sin,
    tokens, first, q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    o_batch, o_token, o_head, kv_page, kv_slot, kv_head, table_batch, angle_row,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr,
    HEADS_TILE: tl.constexpr, KV_TILE: tl.constexpr, HALF_TILE: tl.constexpr,
):  # fmt: skip
    """Grid: (batch x tokens, 2): one program rotates the queries of a token, one its K and V."""
    sequence = (tl.program_id(0) // tokens).to(tl.int64)
    token = tl.program_id(0) % tokens
    length = tl.load(lengths + sequence)
    position = length + tl.load(depths + token)
    dim = tl.arange(0, HALF_TILE)[None, :]
    angle = position.to(tl.int64) * angle_row + dim
    c = tl.load(cos + angle, mask=dim < HALF, other=0.0)
    s = tl.load(sin + angle, mask=dim < HALF, other=0.0)
    if tl.program_id(1) == 0:
        q_heads = tl.arange(0, HEADS_TILE)[:, None]
        live_q = (q_heads < HEADS) & (dim < HALF)
        source = sequence * q_batch + token * q_token + q_heads * q_head
        q_low, q_high = _rotated(query, source, c, s, dim, live_q, HALF)
        target = sequence * o_batch + token * o_token + q_heads * o_head + dim
        tl.store(out + target, q_low.to(out.dtype.element_ty), mask=live_q)
        tl.store(out + target + HALF, q_high.to(out.dtype.element_ty), mask=live_q)
    else:
        slot = length + first + token
        page = tl.load(table + sequence * table_batch + slot // PAGE).to(tl.int64)
        head = tl.arange(0, KV_TILE)[:, None]
        live = (head < KV_HEADS) & (dim < HALF)
        to = page * kv_page + (slot % PAGE) * kv_slot + head * kv_head + dim
        at = sequence * k_batch + token * k_token + head * k_head
        low, high = _rotated(key, at, c, s, dim, live, HALF)
        tl.store(key_pool + to, low.to(key_pool.dtype.element_ty), mask=live)
        tl.store(key_pool + to + HALF, high.to(key_pool.dtype.element_ty), mask=live)
        at = sequence * v_batch + token * v_token + head * v_head + dim
        v_low = tl.load(value + at, mask=live, other=0.0)
        v_high = tl.load(value + at + HALF, mask=live, other=0.0)
        tl.store(value_pool + to, v_low.to(value_pool.dtype.element_ty), mask=live)
        tl.store(value_pool + to + HALF, v_high.to(value_pool.dtype.element_ty), mask=live)


@triton.jit
def compact(
    key, value, table, lengths, nodes, depth, kv_page, kv_slot, kv_head, table_batch, node_batch,
    DIM: tl.constexpr, DIM_TILE: tl.constexpr, PAGE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Grid: (batch, KV heads). All of a path is read before any of it is written."""
    sequence = tl.program_id(0).to(tl.int64)
    step = tl.arange(0, DEPTH)
    node = tl.load(nodes + sequence * node_batch + step, mask=step < depth, other=-1)
    live = node >= 0
    old = tl.load(lengths + sequence) + tl.maximum(node, 0)
    new = tl.load(lengths + sequence) + 1 + step
    table += sequence * table_batch
    old_page = tl.load(table + old // PAGE, mask=live, other=0).to(tl.int64)
    new_page = tl.load(table + new // PAGE, mask=live, other=0).to(tl.int64)
    dim = tl.arange(0, DIM_TILE)[None, :]
    head = tl.program_id(1) * kv_head
    source = (old_page * kv_page + (old % PAGE) * kv_slot + head)[:, None] + dim
    target = (new_page * kv_page + (new % PAGE) * kv_slot + head)[:, None] + dim
    moved = live[:, None] & (dim < DIM)
    k = tl.load(key + source, mask=moved, other=0.0)
    v = tl.load(value + source, mask=moved, other=0.0)
    # a row may be another row's target: threads wait for each other
    tl.debug_barrier()
    tl.store(key + target, k, mask=moved)
    tl.store(value + target, v, mask=moved)


def launch_rope_append(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: LayerCache,
    lengths: Tensor,
    depths: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    first: int,
) -> Tensor:
    """Rotates queries and keys and writes keys and values to the cache, as `Backend.rope_append`
    defines it."""
    batch, tokens, heads, dim = query.shape
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    half = dim // 2
    rope_append[(batch * tokens, 2)](
        query, key, value, out, cache.key, cache.value, cache.page_table, lengths, depths,
        cos, sin, tokens, first, *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        *out.stride()[:3], *cache.strides, cache.page_table.stride(0), cos.stride(0),
        HEADS=heads, KV_HEADS=key.shape[2], HALF=half, PAGE=cache.page_size,
        HEADS_TILE=next_power(heads), KV_TILE=next_power(key.shape[2]),
        HALF_TILE=next_power(half), num_warps=4,
    )  # fmt: skip
    return out


def launch_compact(cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
    """Moves an accepted path to consecutive cache slots, as `Backend.compact` defines it."""
    batch, depth = nodes.shape
    dim = cache.key.shape[3]
    compact[(batch, cache.key.shape[2])](
        cache.key, cache.value, cache.page_table, lengths, nodes, depth,
        *cache.strides, cache.page_table.stride(0), nodes.stride(0),
        DIM=dim, DIM_TILE=next_power(dim), PAGE=cache.page_size, DEPTH=next_power(depth),
        num_warps=4,
    )  # fmt: skip
