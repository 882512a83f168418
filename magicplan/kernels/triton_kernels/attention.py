"""Split-KV attention on a paged cache: decode, verify, tree and windowed draft in one kernel.

A program takes a tile of query rows (t, g) of one KV head and a work item: a run of tiles of slots
of one sequence. Items are dealt on the device from the lengths, in proportion, so that a ragged
batch is balanced and nothing waits for the host. Each item leaves a normalised partial result and
its base-2 log-sum; `_combine` weighs them. A sequence with one item is written directly.

Only what masks need is masked: tiles that every query sees are the fast loop, the last tiles (and
all tiles of a windowed view) go through the masked one.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from magicplan.kernels.backend import LayerCache, Window
from magicplan.kernels.triton_kernels.tiles import SMS_UNKNOWN, Tile, next_power, tile, work_items

LEAST_BLOCKS = 4
"""Tiles an item has at least: below, the second kernel costs more than the split saves."""


@triton.jit
def _blocks(
    length, first, tokens, sinks, window,
    SLOTS: tl.constexpr, WINDOWED: tl.constexpr, TREE: tl.constexpr,
):  # fmt: skip
    """The tiles of sinks of each sequence, the first tile of the rest, and its tiles in all."""
    end = (length + first + tokens + SLOTS - 1) // SLOTS
    if WINDOWED:
        near = length + 1 - window
        if not TREE:
            near += first
        sink_blocks = tl.minimum((sinks + SLOTS - 1) // SLOTS, end)
        start = tl.minimum(tl.maximum(tl.maximum(near, 0) // SLOTS, sink_blocks), end)
    else:
        sink_blocks = length * 0
        start = length * 0
    return sink_blocks, start, sink_blocks + end - start


@triton.jit
def _deal(
    lengths, batch, first, tokens, sinks, window, items, least,
    SLOTS: tl.constexpr, BATCH: tl.constexpr, WINDOWED: tl.constexpr, TREE: tl.constexpr,
):  # fmt: skip
    """Tiles an item has, and for every sequence the number of items up to and with its own."""
    lane = tl.arange(0, BATCH)
    length = tl.load(lengths + lane, mask=lane < batch, other=0)
    _, _, blocks = _blocks(length, first, tokens, sinks, window, SLOTS, WINDOWED, TREE)
    blocks = tl.where(lane < batch, blocks, 0)
    each = tl.maximum((tl.sum(blocks, 0) + items - 1) // items, least)
    return each, tl.cumsum((blocks + each - 1) // each, 0)


@triton.jit
def _tile_step(
    q, high, total, acc, key, value, table, block, row, own, mask_row, length, end, near,
    sinks, window, scale, stride_page, stride_slot,
    SLOTS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    WINDOWED: tl.constexpr, WORDS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of slots joins the running softmax of all rows: (largest, sum, weighted values)."""
    lane = tl.arange(0, SLOTS)
    dim = tl.arange(0, DIM_TILE)
    slot = block * SLOTS + lane
    if PAGE % SLOTS == 0:
        page = tl.load(table + block * SLOTS // PAGE).to(tl.int64)
        at = page * stride_page + (block * SLOTS % PAGE + lane) * stride_slot
    else:
        page = tl.load(table + slot // PAGE, mask=slot < end, other=0).to(tl.int64)
        at = page * stride_page + (slot % PAGE) * stride_slot
    offsets = at[:, None] + dim[None, :]
    if MASKED:
        live = slot < end
        if WINDOWED:
            live = live & ((slot < sinks) | (slot >= near))
        loaded = live[:, None] & (dim[None, :] < DIM)
        k = tl.load(key + offsets, mask=loaded, other=0.0)
        v = tl.load(value + offsets, mask=loaded, other=0.0)
    elif DIM_TILE != DIM:
        k = tl.load(key + offsets, mask=dim[None, :] < DIM, other=0.0)
        v = tl.load(value + offsets, mask=dim[None, :] < DIM, other=0.0)
    else:
        k = tl.load(key + offsets)
        v = tl.load(value + offsets)
    score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if MASKED:
        seen = slot[None, :] <= own[:, None]
        if WINDOWED:
            seen = seen & ((slot[None, :] < sinks) | (slot[None, :] > own[:, None] - window))
        if WORDS > 0:
            node = slot - length
            bit = tl.maximum(node, 0) % 64
            word = tl.zeros([row.shape[0], SLOTS], tl.int64)
            for w in tl.static_range(WORDS):
                own_word = tl.load(mask_row + w)
                word = tl.where((node // 64 == w)[None, :], own_word[:, None], word)
            in_block = ((word >> bit[None, :].to(tl.int64)) & 1) == 1
            seen = tl.where((node >= 0)[None, :], in_block, seen)
        score = tl.where(seen, score, float("-inf"))
    top = tl.maximum(high, tl.max(score, 1))
    shrink = tl.exp2(high - top)
    weight = tl.exp2(score - top[:, None])
    total = total * shrink + tl.sum(weight, 1)
    acc = acc * shrink[:, None]
    acc += tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
    return top, total, acc


@triton.jit(do_not_specialize=["first", "items", "batch"])
def split_attention(
    query, key, value, table, lengths, tree, out, partial, logsum,
    batch, tokens, first, sinks, window, items, least, scale,
    q_batch, q_token, q_head, kv_page, kv_slot, kv_head, table_batch, tree_token,
    o_batch, o_token, o_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    PAGE: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr, BATCH: tl.constexpr,
    WINDOWED: tl.constexpr, WORDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (row blocks, KV heads, items + batch). scale: log2(e) / sqrt(D)."""
    head = tl.program_id(1)
    item = tl.program_id(2)
    each, up_to = _deal(
        lengths, batch, first, tokens, sinks, window, items, least,
        SLOTS, BATCH, WINDOWED, WORDS > 0,
    )  # fmt: skip
    sequence = tl.sum((up_to <= item).to(tl.int32), 0)
    if sequence >= batch:
        return
    before = tl.max(tl.where(tl.arange(0, BATCH) < sequence, up_to, 0), 0)
    own_items = tl.max(tl.where(tl.arange(0, BATCH) <= sequence, up_to, 0), 0) - before

    length = tl.load(lengths + sequence)
    sink_blocks, start, blocks = _blocks(
        length, first, tokens, sinks, window, SLOTS, WINDOWED, WORDS > 0
    )
    begin = (item - before) * each
    stop = tl.minimum(begin + each, blocks)
    end = length + first + tokens

    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = row // GROUP
    q_heads = head * GROUP + row % GROUP
    dim = tl.arange(0, DIM_TILE)
    live = (row < tokens * GROUP)[:, None] & (dim[None, :] < DIM)
    at = sequence.to(tl.int64) * q_batch + token * q_token + q_heads * q_head
    q = tl.load(query + at[:, None] + dim[None, :], mask=live, other=0.0)
    if WORDS > 0:
        own = tl.zeros([ROWS], tl.int32) + length
        near = length + 1 - window
    else:
        own = length + first + token
        near = length + first + 1 - window
    mask_row = tree + tl.minimum(token, tokens - 1) * tree_token

    high = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM_TILE], tl.float32)
    key += head * kv_head
    value += head * kv_head
    table += sequence * table_batch
    masked_from = begin
    if not WINDOWED:
        # below `length` every query sees every slot
        masked_from = tl.minimum(tl.maximum(length // SLOTS, begin), stop)
        for block in range(begin, masked_from):
            high, total, acc = _tile_step(
                q, high, total, acc, key, value, table, block, row, own, mask_row, length,
                end, near, sinks, window, scale, kv_page, kv_slot,
                SLOTS, PAGE, DIM, DIM_TILE, WINDOWED, WORDS, False, PRECISION,
            )  # fmt: skip
    for step in range(masked_from, stop):
        block = tl.where(step < sink_blocks, step, start + step - sink_blocks)
        high, total, acc = _tile_step(
            q, high, total, acc, key, value, table, block, row, own, mask_row, length,
            end, near, sinks, window, scale, kv_page, kv_slot,
            SLOTS, PAGE, DIM, DIM_TILE, WINDOWED, WORDS, True, PRECISION,
        )  # fmt: skip

    # an item may see nothing of a row (its window is elsewhere): weight 0, value 0
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    if own_items == 1:
        at = sequence.to(tl.int64) * o_batch + token * o_token + q_heads * o_head
        tl.store(out + at[:, None] + dim[None, :], result.to(out.dtype.element_ty), mask=live)
    else:
        at = (item.to(tl.int64) * KV_HEADS + head) * tokens * GROUP + row
        tl.store(partial + at[:, None] * DIM + dim[None, :], result, mask=live)
        weight = tl.where(total > 0, high + tl.log2(tl.where(total > 0, total, 1.0)), -1e30)
        tl.store(logsum + at, weight, mask=row < tokens * GROUP)


@triton.jit(do_not_specialize=["first", "items", "batch"])
def combine(
    lengths, out, partial, logsum,
    batch, tokens, first, sinks, window, items, least, o_batch, o_token, o_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    SLOTS: tl.constexpr, BATCH: tl.constexpr, WINDOWED: tl.constexpr, TREE: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """Grid: (batch, KV heads x tokens x group). Partial results of one row, MANY at a time."""
    sequence = tl.program_id(0)
    row = tl.program_id(1) % (tokens * GROUP)
    head = tl.program_id(1) // (tokens * GROUP)
    _, up_to = _deal(
        lengths, batch, first, tokens, sinks, window, items, least, SLOTS, BATCH, WINDOWED, TREE
    )
    before = tl.max(tl.where(tl.arange(0, BATCH) < sequence, up_to, 0), 0)
    after = tl.max(tl.where(tl.arange(0, BATCH) <= sequence, up_to, 0), 0)
    if after - before == 1:
        return
    dim = tl.arange(0, DIM_TILE)
    high = -1e30
    total = 0.0
    acc = tl.zeros([DIM_TILE], tl.float32)
    for begin in range(before, after, MANY):
        item = begin + tl.arange(0, MANY)
        at = (item.to(tl.int64) * KV_HEADS + head) * tokens * GROUP + row
        weight = tl.load(logsum + at, mask=item < after, other=-1e30)
        live = (item < after)[:, None] & (dim[None, :] < DIM)
        part = tl.load(partial + at[:, None] * DIM + dim[None, :], mask=live, other=0.0)
        top = tl.maximum(high, tl.max(weight, 0))
        weight = tl.where(item < after, tl.exp2(weight - top), 0.0)
        shrink = tl.exp2(high - top)
        total = total * shrink + tl.sum(weight, 0)
        acc = acc * shrink + tl.sum(part * weight[:, None], 0)
        high = top
    at = sequence.to(tl.int64) * o_batch + row // GROUP * o_token
    at += (head * GROUP + row % GROUP) * o_head
    tl.store(out + at + dim, (acc / total).to(out.dtype.element_ty), mask=dim < DIM)


def attention(
    query: Tensor,
    cache: LayerCache,
    lengths: Tensor,
    *,
    view: Window | None,
    tree: Tensor | None,
    first: int,
    chosen: Tile | None = None,
) -> Tensor:
    """Computes attention of new queries over the cache, as `Backend.attention` defines it; `chosen`
    overrides the tile of the table, for tuning."""
    batch, tokens, heads, dim = query.shape
    kv_heads = cache.key.shape[2]
    group = heads // kv_heads
    on_gpu = query.device.type == "cuda"
    properties = torch.cuda.get_device_properties(query.device) if on_gpu else None
    shape = chosen or tile(
        query_rows=group * tokens,
        dim=dim,
        element_bytes=query.element_size(),
        page_size=cache.page_size,
        arch=properties.major * 10 + properties.minor if properties else 90,
    )
    row_blocks = -(-group * tokens // shape.rows)
    most = cache.capacity
    if view is not None:
        most = min(most, view.sinks + view.window + first + tokens + 3 * shape.slots)
    blocks = -(-most // shape.slots)
    items = work_items(
        batch=batch,
        parallel=kv_heads * row_blocks,
        blocks=blocks,
        least=LEAST_BLOCKS,
        sms=properties.multi_processor_count if properties else SMS_UNKNOWN,
        tile=shape,
    )
    splits = blocks > LEAST_BLOCKS
    programs = items + batch if splits else batch
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    space = programs * heads * tokens if splits else 0
    partial = torch.empty(space * dim, dtype=torch.float32, device=query.device)
    logsum = torch.empty(space, dtype=torch.float32, device=query.device)
    words = 0 if tree is None else 1 if tree.dim() == 1 else tree.shape[1]
    # without a window these are read by nobody
    sinks, window = (view.sinks, view.window) if view else (0, 0)
    common = {
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "DIM": dim,
        "DIM_TILE": max(16, next_power(dim)),
        "SLOTS": shape.slots,
        "BATCH": 16 if batch <= 16 else next_power(batch),
        "WINDOWED": view is not None,
    }
    least = LEAST_BLOCKS if splits else blocks
    split_attention[(row_blocks, kv_heads, programs)](
        query, cache.key, cache.value, cache.page_table, lengths,
        lengths if tree is None else tree, out, partial, logsum,
        batch, tokens, first, sinks, window, items, least, math.log2(math.e) / math.sqrt(dim),
        *query.stride()[:3], *cache.strides, cache.page_table.stride(0),
        0 if tree is None else tree.stride(0), *out.stride()[:3],
        PAGE=cache.page_size, ROWS=shape.rows, WORDS=words,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=shape.warps, num_stages=shape.stages, **common,
    )  # fmt: skip
    if splits:
        combine[(batch, heads * tokens)](
            lengths, out, partial, logsum,
            batch, tokens, first, sinks, window, items, least, *out.stride()[:3],
            TREE=tree is not None, MANY=16, num_warps=2, **common,
        )  # fmt: skip
    return out
