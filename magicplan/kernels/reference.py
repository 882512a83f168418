"""The slow, obvious twin of every operation: loops, float64, Python integers. For tests only.

Every function takes what the method of the same name of `Backend` takes; `attention` and
`rope_append` compute in float64 whatever the type.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from magicplan.kernels.backend import Accepted, LayerCache, Noise, Topology, Window

COIN, DRAW, SAMPLE = range(3)
"""Streams of random numbers: acceptance, the token after a rejection, `sample`."""


def _row(cache: LayerCache, sequence: int, slot: int) -> tuple[int, int]:
    page = int(cache.page_table[sequence, slot // cache.page_size])
    return page, slot % cache.page_size


def _visible(
    slot: int, *, length: int, t: int, first: int, view: Window | None, tree: Tensor | None
) -> bool:
    """Does query t see the slot? The rules of `Backend.attention` and `Window`, one by one."""
    own = length if tree is not None else length + first + t
    if tree is not None and slot >= length:
        node = slot - length
        word = int(tree[t] if tree.dim() == 1 else tree[t, node // 64])
        return bool(word >> node % 64 & 1)
    if slot > own:
        return False
    return view is None or slot < view.sinks or slot > own - view.window


def attention(
    query: Tensor,
    cache: LayerCache,
    lengths: Tensor,
    *,
    view: Window | None = None,
    tree: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Attention of every query, one after another, [B, T, Hq, D] float64."""
    batch, tokens, heads, dim = query.shape
    group = heads // cache.key.shape[2]
    out = torch.empty(query.shape, dtype=torch.float64)
    for b in range(batch):
        length = int(lengths[b])
        for t in range(tokens):
            slots = [
                _row(cache, b, slot)
                for slot in range(length + first + tokens)
                if _visible(slot, length=length, t=t, first=first, view=view, tree=tree)
            ]
            pages, rows = zip(*slots, strict=True)
            for head in range(heads):
                key = cache.key[list(pages), list(rows), head // group].double()
                value = cache.value[list(pages), list(rows), head // group].double()
                score = key @ query[b, t, head].double() / math.sqrt(dim)
                out[b, t, head] = torch.softmax(score, 0) @ value
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [..., D] by angles whose cosine and sine are [..., D / 2]; in float64."""
    low, high = x.double().chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


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
    first: int = 0,
) -> Tensor:
    """[B, T, Hq, D] float64; K and V go into the cache in its type."""
    out = torch.empty(query.shape, dtype=torch.float64)
    for b in range(query.shape[0]):
        for t in range(query.shape[1]):
            position = int(lengths[b]) + int(depths[t])
            angle = cos[position].double(), sin[position].double()
            out[b, t] = rotate(query[b, t], *angle)
            page, row = _row(cache, b, int(lengths[b]) + first + t)
            cache.key[page, row] = rotate(key[b, t], *angle).to(cache.key.dtype)
            cache.value[page, row] = value[b, t].to(cache.value.dtype)
    return out


def philox(seed: int, counter: tuple[int, int, int, int]) -> int:
    """First word of Philox 4x32-10 (Salmon et al., SC 2011)."""
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = seed & low, seed >> 32 & low
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & low, (a >> 32) ^ c3 ^ k1, a & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return c0


def uniform(noise: Noise, b: int, *, stream: int, node: int, token: int = 0) -> float:
    """A uniform number in (0, 1) of one (request, step, node), stream and token of a race."""
    counter = (token, int(noise.request[b]), int(noise.step[b]), stream << 16 | node)
    return (philox(noise.seed, counter) + 0.5) * 2.0**-32


def race(weights: Tensor, noise: Noise, b: int, *, stream: int, node: int) -> int:
    """Token drawn in proportion to weights [V]: the largest weight / Exp(1)."""
    times = [
        -math.log1p(-uniform(noise, b, stream=stream, node=node, token=v))
        for v in range(len(weights))
    ]
    return int((weights / torch.tensor(times, dtype=torch.float64)).argmax())


def _choices(target: Tensor) -> Tensor:
    return target.argmax(-1) if target.is_floating_point() else target


def _accepted(
    counts: list[int], tokens: list[int], paths: list[list[int]] | None = None
) -> Accepted:
    return Accepted(
        count=torch.tensor(counts, dtype=torch.int32),
        token=torch.tensor(tokens),
        nodes=None if paths is None else torch.tensor(paths, dtype=torch.int32),
    )


def accept_greedy(draft: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted chain greedily, as `Backend.accept_greedy` defines it."""
    counts, tokens = [], []
    for drafted, chosen in zip(draft.tolist(), _choices(target).tolist(), strict=True):
        count = 0
        while count < len(drafted) and drafted[count] == chosen[count]:
            count += 1
        counts.append(count)
        tokens.append(chosen[count])
    return _accepted(counts, tokens)


def accept_sampled(
    draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise
) -> Accepted:
    """Verifies a drafted chain by sampling, as `Backend.accept_sampled` defines it."""
    p_all = target_logits.double().softmax(-1)
    q_all = draft_logits.double().softmax(-1)
    counts, tokens = [], []
    for b, drafted in enumerate(draft.tolist()):
        weights = p_all[b, -1]
        count = len(drafted)
        for i, token in enumerate(drafted):
            p, q = p_all[b, i], q_all[b, i]
            if not uniform(noise, b, stream=COIN, node=i) * q[token] < p[token]:
                residual = (p - q).clamp(min=0)
                weights = residual if residual.sum() > 0 else p
                count = i
                break
        counts.append(count)
        tokens.append(race(weights, noise, b, stream=DRAW, node=count))
    return _accepted(counts, tokens)


def _children(tree: Topology, node: int) -> list[int]:
    found = []
    child = int(tree.first_child[node])
    while child >= 0:
        found.append(child)
        child = int(tree.next_sibling[child])
    return found


def accept_tree_greedy(tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted tree greedily, as `Backend.accept_tree_greedy` defines it."""
    chosen = _choices(target)
    counts, last, paths = [], [], []
    for b in range(tokens.shape[0]):
        node, path = 0, []
        while matching := [c for c in _children(tree, node) if tokens[b, c] == chosen[b, node]]:
            node = matching[0]
            path.append(node)
        counts.append(len(path))
        last.append(int(chosen[b, node]))
        paths.append(path + [-1] * (tree.levels - len(path)))
    return _accepted(counts, last, paths)


def accept_tree_sampled(
    tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise
) -> Accepted:
    """Verifies a drafted tree by sampling, as `Backend.accept_tree_sampled` defines it."""
    p_all = target_logits.double().softmax(-1)
    counts, last, paths = [], [], []
    for b in range(tokens.shape[0]):
        node, path, descending = 0, [], True
        while descending:
            weights = p_all[b, node].clone()
            coin = uniform(noise, b, stream=COIN, node=node)
            descending, passed = False, 0.0
            for child in _children(tree, node):
                passed += float(p_all[b, node, tokens[b, child]])
                if coin < passed:
                    node, descending = child, True
                    path.append(child)
                    break
                weights[tokens[b, child]] = 0
        if not weights.sum() > 0:
            weights = p_all[b, node]
        counts.append(len(path))
        last.append(race(weights, noise, b, stream=DRAW, node=node))
        paths.append(path + [-1] * (tree.levels - len(path)))
    return _accepted(counts, last, paths)


def sample(logits: Tensor, noise: Noise, *, node: int = 0) -> Tensor:
    """Draws one token a sequence from logits, as `Backend.sample` defines it."""
    p = logits.double().softmax(-1)
    return torch.tensor(
        [race(p[b], noise, b, stream=SAMPLE, node=node) for b in range(logits.shape[0])]
    )


def compact(cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
    """Moves an accepted path to consecutive cache slots, as `Backend.compact` defines it."""
    for b, path in enumerate(nodes.tolist()):
        for i, node in enumerate(path):
            if node >= 0:
                old = _row(cache, b, int(lengths[b]) + node)
                new = _row(cache, b, int(lengths[b]) + 1 + i)
                for pool in (cache.key, cache.value):
                    pool[new] = pool[old].clone()
