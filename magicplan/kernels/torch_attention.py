"""Attention and RoPE in plain torch: one path that never reads a length on the host, one for CPUs.

On a CPU the length of a sequence costs nothing to read, and matrix products on dense slices of the
cache run at memory speed where a batched product would first copy the cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from magicplan.kernels.backend import LayerCache, Window

MOST_RUNS = 8
"""Dense runs of slots that are multiplied one by one; above, they are gathered first."""


def bits(tree: Tensor, nodes: Tensor) -> Tensor:
    """[T, *nodes.shape] bool: is the bit of each node set in each row of `tree`?"""
    words = tree if tree.dim() == 2 else tree[:, None]
    inside = (nodes >= 0) & (nodes < 64 * words.shape[1])
    node = nodes.clamp(0, 64 * words.shape[1] - 1)
    return (words[:, node // 64] >> node % 64 & 1).bool() & inside


def visible(
    slots: Tensor,
    lengths: Tensor,
    tokens: int,
    *,
    view: Window | None,
    tree: Tensor | None,
    first: int,
) -> Tensor:
    """[B, T, S] bool: may query t of sequence b see slots[b, s]? slots: [B, S]."""
    t = torch.arange(tokens, device=slots.device)
    block = (lengths[:, None] + first + t)[..., None]
    own = block if tree is None else lengths[:, None, None].expand_as(block)
    at = slots[:, None, :]
    seen = at <= own
    if view is not None:
        seen = seen & ((at < view.sinks) | (at > own - view.window))
    if tree is not None:
        in_block = bits(tree, slots - lengths[:, None]).movedim(0, 1)
        seen = torch.where(at < lengths[:, None, None], seen, in_block)
    return seen


def viewed_slots(lengths: Tensor, end: int, reach: int, view: Window | None) -> Tensor:
    """[B, S] slots that a block of `reach` tokens can see: all below `end`, or the view's.

    Under a window S is sinks + window - 1 + reach whatever the lengths; a slot that would come
    twice, or that lies before the cache, becomes `end`, which no query sees.
    """
    if view is None or view.sinks + view.window + reach >= end:
        return torch.arange(end, device=lengths.device).expand(lengths.shape[0], -1)
    sinks = torch.arange(view.sinks, device=lengths.device).expand(lengths.shape[0], -1)
    near = torch.arange(1 - view.window, reach, device=lengths.device) + lengths[:, None]
    near = torch.where(near < view.sinks, end, near)
    return torch.cat([sinks, near], 1)


def gather(pool: Tensor, cache: LayerCache, slots: Tensor) -> Tensor:
    """[B, S, Hkv, D]: the rows of a pool at slots [B, S]; slots outside give the last row."""
    slots = slots.clamp(max=cache.capacity - 1)
    page = cache.page_table.gather(1, slots // cache.page_size)
    return pool[page, slots % cache.page_size]


def dense_attention(
    query: Tensor,
    cache: LayerCache,
    lengths: Tensor,
    *,
    view: Window | None,
    tree: Tensor | None,
    first: int,
) -> Tensor:
    """All that the page table can hold, masked: any device, no host synchronisation."""
    tokens, group = query.shape[1], query.shape[2] // cache.key.shape[2]
    slots = viewed_slots(lengths, cache.capacity, first + tokens, view)
    seen = visible(slots, lengths, tokens, view=view, tree=tree, first=first)
    key, value = (gather(pool, cache, slots).transpose(1, 2) for pool in (cache.key, cache.value))
    # what no query sees may be uninitialised: 0 times NaN is NaN
    value = value.masked_fill(~seen.any(1)[:, None, :, None], 0)
    rows = query.transpose(1, 2).unflatten(1, (-1, group)).flatten(2, 3)
    score = rows.float() @ key.transpose(-1, -2).float() / math.sqrt(query.shape[-1])
    score = score.unflatten(2, (group, tokens)).masked_fill(~seen[:, None, None], -torch.inf)
    out = score.softmax(-1).flatten(2, 3) @ value.float()
    out = out.unflatten(2, (group, tokens)).flatten(1, 2).transpose(1, 2)
    return torch.as_tensor(out, dtype=query.dtype)


def sliced_attention(
    query: Tensor,
    cache: LayerCache,
    lengths: Tensor,
    *,
    view: Window | None,
    tree: Tensor | None,
    first: int,
) -> Tensor:
    """Attention sequence by sequence and head by head, on dense slices of the cache; for CPUs.

    Scores are rounded to the query's type before the softmax, as torch's matrix product does.
    """
    batch, tokens, heads, dim = query.shape
    kv_heads = cache.key.shape[2]
    rows = (query / math.sqrt(dim)).view(batch, tokens, kv_heads, heads // kv_heads, dim)
    rows = rows.permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, dim)
    out = torch.empty_like(rows)
    for b, length in enumerate(lengths.tolist()):
        runs = _runs(length, first + tokens, view)
        hidden = _hidden(lengths[b : b + 1], runs, tokens, view=view, tree=tree, first=first)
        keys, values = (_pieces(pool, cache, b, runs) for pool in (cache.key, cache.value))
        for head in range(kv_heads):
            out[b, head] = _head(
                rows[b, head],
                [k[:, head] for k in keys],
                [v[:, head] for v in values],
                hidden,
            )
    out = out.view(batch, kv_heads, heads // kv_heads, tokens, dim)
    return out.permute(0, 3, 1, 2, 4).reshape(query.shape)


def _runs(length: int, reach: int, view: Window | None) -> list[tuple[int, int]]:
    """The ranges of slots that at least one query may see."""
    end = length + reach
    if view is None or length + 1 - view.window <= view.sinks:
        return [(0, end)]
    near = (length + 1 - view.window, end)
    return [(0, view.sinks), near] if view.sinks else [near]


def _hidden(
    length: Tensor,
    runs: list[tuple[int, int]],
    tokens: int,
    *,
    view: Window | None,
    tree: Tensor | None,
    first: int,
) -> Tensor | None:
    """[T, S] bool, slots to be masked; None where one query sees everything in the runs."""
    if tokens == 1 and tree is None and view is None:
        return None
    slots = torch.cat([torch.arange(*run) for run in runs])[None]
    return ~visible(slots, length, tokens, view=view, tree=tree, first=first)[0]


def _pieces(
    pool: Tensor, cache: LayerCache, sequence: int, runs: list[tuple[int, int]]
) -> list[Tensor]:
    """[slots, Hkv, D] pieces of the pool that cover the runs: views if few, else one copy."""
    size = cache.page_size
    table = cache.page_table[sequence].tolist()
    pages = [
        (table[start // size], start % size, min(end - start // size * size, size))
        for run_start, run_end in runs
        for start in [run_start, *range((run_start // size + 1) * size, run_end, size)]
        for end in [run_end]
    ]
    if len(pages) <= MOST_RUNS:
        return [pool[page, low:high] for page, low, high in pages]
    slots = torch.cat([torch.arange(*run) for run in runs])[None]
    one = LayerCache(key=pool, value=pool, page_table=cache.page_table[sequence : sequence + 1])
    return [gather(pool, one, slots)[0].transpose(0, 1).contiguous().transpose(0, 1)]


def _head(rows: Tensor, keys: list[Tensor], values: list[Tensor], hidden: Tensor | None) -> Tensor:
    """[G T, D] for one KV head; rows: [G T, D], scaled; keys, values: [slots, D] pieces."""
    scores = [rows @ key.T for key in keys]
    score = scores[0] if len(scores) == 1 else torch.cat(scores, 1)
    if hidden is not None:
        score.view(-1, *hidden.shape).masked_fill_(hidden, -torch.inf)
    weights = score.softmax(-1).split([key.shape[0] for key in keys], 1)
    out = torch.mm(weights[0], values[0])
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out.addmm_(weight, value)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [B, T, heads, D] by angles [B, T, 1, D / 2]; computed in float32, in the type of x."""
    low, high = x.to(cos.dtype).chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(x.dtype)


def rope_append(
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
    position = (lengths[:, None] + depths).long()
    angle = cos[position][:, :, None], sin[position][:, :, None]
    slots = lengths[:, None] + first + torch.arange(query.shape[1], device=query.device)
    at = cache.page_table.gather(1, slots // cache.page_size).long(), slots % cache.page_size
    cache.key[at] = rotate(key, *angle).to(cache.key.dtype)
    cache.value[at] = value.to(cache.value.dtype)
    return rotate(query, *angle)


def compact(cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
    """Moves an accepted path to consecutive cache slots, as `Backend.compact` defines it;
    what stands after the path's end is written back where it was."""
    step = torch.arange(1, nodes.shape[1] + 1, device=nodes.device)
    old = lengths[:, None] + torch.where(nodes < 0, step, nodes)
    new = (lengths[:, None] + step).clamp(max=cache.capacity - 1)
    at = cache.page_table.gather(1, new // cache.page_size).long(), new % cache.page_size
    for pool in (cache.key, cache.value):
        pool[at] = gather(pool, cache, old)
