"""Acceptance: rows of logits are reduced in parallel, then one program a sequence walks.

Probabilities come from a logit and its row's log-sum-exp; no table of probabilities is written.
The vocabulary is streamed once more only for the row where a token is drawn.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from magicplan.kernels.backend import Accepted, Noise, Topology
from magicplan.kernels.torch_accept import COIN, DRAW, SAMPLE
from magicplan.kernels.triton_kernels.tiles import next_power

LANES = 2048
"""The number of logits that a program takes at a time."""


@triton.jit
def row_statistics(
    logits, logsum, choice, vocab, columns, l_batch, l_row,
    LANES: tl.constexpr, SUM: tl.constexpr, CHOICE: tl.constexpr,
):  # fmt: skip
    """Grid: rows. Log-sum-exp and lowest argmax of logits [batch, columns, vocab]."""
    row = tl.program_id(0)
    logits += (row // columns).to(tl.int64) * l_batch + (row % columns).to(tl.int64) * l_row
    lane = tl.arange(0, LANES)
    high = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    best = lane
    for begin in range(0, vocab, LANES):
        token = begin + lane
        x = tl.load(logits + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        best = tl.where(x > high, token, best)
        top = tl.maximum(high, x)
        if SUM:
            # a lane that has seen only -inf must not subtract it from itself
            base = tl.where(top > float("-inf"), top, 0.0)
            total = total * tl.exp(high - base) + tl.exp(x - base)
        high = top
    largest = tl.max(high, 0)
    if SUM:
        tl.store(logsum + row, largest + tl.log(tl.sum(total * tl.exp(high - largest), 0)))
    if CHOICE:
        tl.store(choice + row, tl.min(tl.where(high == largest, best, vocab), 0).to(tl.int64))


@triton.jit
def _uniform(seed, token, request, step, last):
    """A uniform number in (0, 1] of a counter; the twin of torch_accept.uniform."""
    zero = token * 0
    word, _, _, _ = tl.philox(
        seed, token.to(tl.uint32), (zero + request).to(tl.uint32), (zero + step).to(tl.uint32),
        (zero + last).to(tl.uint32),
    )  # fmt: skip
    return (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _coin(seed, node, request, step, STREAM: tl.constexpr):
    """A uniform number for each node of the vector `node`."""
    word, _, _, _ = tl.philox(
        seed, (node * 0).to(tl.uint32), (node * 0 + request).to(tl.uint32),
        (node * 0 + step).to(tl.uint32), (node + STREAM * 65536).to(tl.uint32),
    )  # fmt: skip
    return (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _exponential(u):
    """-log(1 - u), to full precision for small u, where it decides races."""
    small = u * (1.0 + u * (0.5 + u * (1.0 / 3 + u * (0.25 + u * 0.2))))
    return tl.where(u < 0.03125, small, -tl.log(1.0 - tl.minimum(u, 0.99999994)))


@triton.jit
def _leader(score, token, best, high):
    """The better of (high, best) and the block's largest score; ties to the lower token."""
    top = tl.max(score, 0)
    at = tl.min(tl.where(score == top, token, 2147483647), 0)
    return tl.where(top > high, at, best), tl.maximum(top, high)


@triton.jit
def _race(
    p_row, p_sum, q_row, q_sum, vocab, seed, request, step, last, parents, tokens, node, size,
    PAIR: tl.constexpr, TRIED: tl.constexpr, NODES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Draws from max(p - q, 0) (PAIR), or from p without the tokens of a node's children (TRIED).

    Where nothing is left, from p. q_sum = +inf stands for no q at all. Children are looked at one
    by one, and only in a block that holds a token of one.
    """
    lane = tl.arange(0, LANES)
    if TRIED:
        tree_lane = tl.arange(0, NODES)
        inside = tl.load(parents + tree_lane, mask=tree_lane < size, other=-2) == node
        tried = tl.load(tokens + tree_lane, mask=tree_lane < size, other=-1)
        tried = tl.where(inside, tried, -1)
    best = tl.full((), 0, tl.int32)
    high = tl.full((), 0.0, tl.float32)
    spare = tl.full((), 0, tl.int32)
    spare_high = tl.full((), 0.0, tl.float32)
    for begin in range(0, vocab, LANES):
        token = begin + lane
        live = token < vocab
        x = tl.load(p_row + token, mask=live, other=float("-inf")).to(tl.float32)
        p = tl.exp(x - p_sum)
        left = p
        if PAIR:
            y = tl.load(q_row + token, mask=live, other=float("-inf")).to(tl.float32)
            left = tl.maximum(p - tl.exp(y - q_sum), 0.0)
        if TRIED:
            here = (tried >= begin) & (tried < begin + LANES)
            if tl.sum(here.to(tl.int32), 0) > 0:
                for child in range(1, size):
                    hit = (tl.load(parents + child) == node) & (tl.load(tokens + child) == token)
                    left = tl.where(hit, 0.0, left)
        time = _exponential(_uniform(seed, token, request, step, last))
        best, high = _leader(left / time, token, best, high)
        if PAIR or TRIED:
            spare, spare_high = _leader(p / time, token, spare, spare_high)
    if PAIR or TRIED:
        best = tl.where(high > 0, best, spare)
    return best.to(tl.int64)


@triton.jit
def accept_chain(
    draft, chosen, count, token, gamma, d_batch, c_batch, GAMMA: tl.constexpr
):  # fmt: skip
    """Verifies one sequence's chain greedily. Grid: batch."""
    sequence = tl.program_id(0)
    lane = tl.arange(0, GAMMA)
    drafted = tl.load(draft + sequence * d_batch + lane, mask=lane < gamma, other=-1)
    right = tl.load(chosen + sequence * c_batch + lane, mask=lane < gamma, other=-2)
    accepted = tl.min(tl.where((drafted == right) & (lane < gamma), gamma, lane), 0)
    accepted = tl.minimum(accepted, gamma)
    tl.store(count + sequence, accepted)
    tl.store(token + sequence, tl.load(chosen + sequence * c_batch + accepted))


@triton.jit
def accept_chain_sampled(
    draft, draft_logits, draft_sum, target_logits, target_sum, requests, steps, count, token,
    gamma, vocab, seed, d_batch, q_batch, q_row, p_batch, p_row,
    GAMMA: tl.constexpr, LANES: tl.constexpr, COIN: tl.constexpr, DRAW: tl.constexpr,
):  # fmt: skip
    """Verifies one sequence's sampled chain by Leviathan's rule. Grid: batch."""
    sequence = tl.program_id(0).to(tl.int64)
    request = tl.load(requests + sequence)
    step = tl.load(steps + sequence)
    draft_logits += sequence * q_batch
    target_logits += sequence * p_batch
    draft_sum += sequence * gamma
    target_sum += sequence * (gamma + 1)
    lane = tl.arange(0, GAMMA)
    live = lane < gamma
    drafted = tl.load(draft + sequence * d_batch + lane, mask=live, other=0)
    x = tl.load(target_logits + lane.to(tl.int64) * p_row + drafted, mask=live, other=0.0)
    y = tl.load(draft_logits + lane.to(tl.int64) * q_row + drafted, mask=live, other=0.0)
    p = tl.exp(x.to(tl.float32) - tl.load(target_sum + lane, mask=live, other=0.0))
    q = tl.exp(y.to(tl.float32) - tl.load(draft_sum + lane, mask=live, other=0.0))
    coin = _coin(seed, lane, request, step, COIN)
    accepted = tl.minimum(tl.min(tl.where((coin * q < p) & live, gamma, lane), 0), gamma)
    at = tl.minimum(accepted, gamma - 1)
    # after full acceptance there is no q: its sum is infinite, its law 0
    q_sum = tl.where(accepted < gamma, tl.load(draft_sum + at), float("inf"))
    drawn = _race(
        target_logits + accepted.to(tl.int64) * p_row, tl.load(target_sum + accepted),
        draft_logits + at.to(tl.int64) * q_row, q_sum,
        vocab, seed, request, step, accepted + DRAW * 65536, draft, draft, 0, 0,
        True, False, 1, LANES,
    )  # fmt: skip
    tl.store(count + sequence, accepted)
    tl.store(token + sequence, drawn)


@triton.jit
def accept_tree(
    parents, tokens, chosen, count, token, path, size, levels, t_batch, c_batch,
    NODES: tl.constexpr,
):  # fmt: skip
    """Verifies one sequence's tree greedily. Grid: batch."""
    sequence = tl.program_id(0)
    lane = tl.arange(0, NODES)
    parent = tl.load(parents + lane, mask=lane < size, other=-2)
    drafted = tl.load(tokens + sequence * t_batch + lane, mask=lane < size, other=-1)
    node = tl.full((), 0, tl.int32)
    accepted = tl.full((), 0, tl.int32)
    for level in range(levels):
        right = tl.load(chosen + sequence * c_batch + node)
        child = tl.min(tl.where((parent == node) & (drafted == right), lane, NODES), 0)
        found = child < NODES
        tl.store(path + sequence * levels + level, tl.where(found, child, -1))
        node = tl.where(found, child, node)
        accepted += found.to(tl.int32)
    tl.store(count + sequence, accepted)
    tl.store(token + sequence, tl.load(chosen + sequence * c_batch + node))


@triton.jit
def accept_tree_sampled(
    parents, tokens, logits, logsum, requests, steps, count, token, path,
    size, levels, vocab, seed, t_batch, l_batch, l_row,
    NODES: tl.constexpr, LANES: tl.constexpr, COIN: tl.constexpr, DRAW: tl.constexpr,
):  # fmt: skip
    """Grid: batch. One coin a level against the running sum of the children's probabilities."""
    sequence = tl.program_id(0).to(tl.int64)
    request = tl.load(requests + sequence)
    step = tl.load(steps + sequence)
    logits += sequence * l_batch
    logsum += sequence * size
    lane = tl.arange(0, NODES)
    live = (lane > 0) & (lane < size)
    parent = tl.load(parents + lane, mask=live, other=-2)
    drafted = tl.load(tokens + sequence * t_batch + lane, mask=live, other=0)
    above = tl.maximum(parent, 0)
    x = tl.load(logits + above.to(tl.int64) * l_row + drafted, mask=live, other=float("-inf"))
    p = tl.exp(x.to(tl.float32) - tl.load(logsum + above))
    coins = _coin(seed, lane, request, step, COIN)
    node = tl.full((), 0, tl.int32)
    accepted = tl.full((), 0, tl.int32)
    for level in range(levels):
        is_child = parent == node
        passed = tl.cumsum(tl.where(is_child, p, 0.0), 0)
        coin = tl.sum(tl.where(lane == node, coins, 0.0), 0)
        child = tl.min(tl.where(is_child & (coin < passed), lane, NODES), 0)
        found = child < NODES
        tl.store(path + sequence * levels + level, tl.where(found, child, -1))
        node = tl.where(found, child, node)
        accepted += found.to(tl.int32)
    drawn = _race(
        logits + node.to(tl.int64) * l_row, tl.load(logsum + node), logits, 0.0,
        vocab, seed, request, step, node + DRAW * 65536,
        parents, tokens + sequence * t_batch, node, size, False, True, NODES, LANES,
    )  # fmt: skip
    tl.store(count + sequence, accepted)
    tl.store(token + sequence, drawn)


@triton.jit(do_not_specialize=["node"])
def sample(
    logits, logsum, requests, steps, token, vocab, seed, node, l_batch,
    LANES: tl.constexpr, SAMPLE: tl.constexpr,
):  # fmt: skip
    """Draws one sequence's token. Grid: batch."""
    sequence = tl.program_id(0).to(tl.int64)
    request = tl.load(requests + sequence)
    step = tl.load(steps + sequence)
    drawn = _race(
        logits + sequence * l_batch, tl.load(logsum + sequence), logits, 0.0, vocab, seed,
        request, step, node + SAMPLE * 65536, requests, requests, 0, 0, False, False, 1, LANES,
    )  # fmt: skip
    tl.store(token + sequence, drawn)


def _lanes(vocab: int) -> int:
    return min(LANES, next_power(vocab))


def _statistics(logits: Tensor, *, choice: bool) -> Tensor:
    """[B, n]: the lowest argmax (int64) or the log-sum-exp (float32) of logits [B, n, V]."""
    batch, columns, vocab = logits.shape
    dtype = torch.int64 if choice else torch.float32
    found = torch.empty(batch, columns, dtype=dtype, device=logits.device)
    row_statistics[(batch * columns,)](
        logits, found, found, vocab, columns, *logits.stride()[:2],
        LANES=_lanes(vocab), SUM=not choice, CHOICE=choice, num_warps=8,
    )  # fmt: skip
    return found


def _choices(target: Tensor) -> Tensor:
    return _statistics(target, choice=True) if target.is_floating_point() else target


def _empty(like: Tensor, levels: int | None = None) -> Accepted:
    batch, device = like.shape[0], like.device
    return Accepted(
        count=torch.empty(batch, dtype=torch.int32, device=device),
        token=torch.empty(batch, dtype=torch.int64, device=device),
        nodes=None
        if levels is None
        else torch.empty(batch, levels, dtype=torch.int32, device=device),
    )


def launch_greedy(draft: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted chain greedily, as `Backend.accept_greedy` defines it."""
    chosen, out = _choices(target), _empty(draft)
    batch, gamma = draft.shape
    accept_chain[(batch,)](
        draft, chosen, out.count, out.token, gamma, draft.stride(0), chosen.stride(0),
        GAMMA=next_power(gamma), num_warps=1,
    )  # fmt: skip
    return out


def launch_sampled(
    draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise
) -> Accepted:
    """Verifies a drafted chain by sampling, as `Backend.accept_sampled` defines it."""
    out = _empty(draft)
    batch, gamma = draft.shape
    vocab = target_logits.shape[2]
    accept_chain_sampled[(batch,)](
        draft, draft_logits, _statistics(draft_logits, choice=False),
        target_logits, _statistics(target_logits, choice=False),
        noise.request, noise.step, out.count, out.token, gamma, vocab, noise.seed,
        draft.stride(0), *draft_logits.stride()[:2], *target_logits.stride()[:2],
        GAMMA=next_power(gamma), LANES=_lanes(vocab), COIN=COIN, DRAW=DRAW, num_warps=8,
    )  # fmt: skip
    return out


def launch_tree_greedy(tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted tree greedily, as `Backend.accept_tree_greedy` defines it."""
    chosen, out = _choices(target), _empty(tokens, tree.levels)
    batch, size = tokens.shape
    accept_tree[(batch,)](
        tree.parents, tokens, chosen, out.count, out.token, out.nodes, size, tree.levels,
        tokens.stride(0), chosen.stride(0), NODES=next_power(size), num_warps=1,
    )  # fmt: skip
    return out


def launch_tree_sampled(
    tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise
) -> Accepted:
    """Verifies a drafted tree by sampling, as `Backend.accept_tree_sampled` defines it."""
    out = _empty(tokens, tree.levels)
    batch, size = tokens.shape
    vocab = target_logits.shape[2]
    accept_tree_sampled[(batch,)](
        tree.parents, tokens, target_logits, _statistics(target_logits, choice=False),
        noise.request, noise.step, out.count, out.token, out.nodes,
        size, tree.levels, vocab, noise.seed, tokens.stride(0), *target_logits.stride()[:2],
        NODES=next_power(size), LANES=_lanes(vocab), COIN=COIN, DRAW=DRAW, num_warps=8,
    )  # fmt: skip
    return out


def launch_sample(logits: Tensor, noise: Noise, *, node: int) -> Tensor:
    """Draws one token a sequence from logits, as `Backend.sample` defines it."""
    batch, vocab = logits.shape
    out = _empty(logits)
    sample[(batch,)](
        logits, _statistics(logits[:, None], choice=False), noise.request, noise.step, out.token,
        vocab, noise.seed, node, logits.stride(0), LANES=_lanes(vocab), SAMPLE=SAMPLE, num_warps=8,
    )  # fmt: skip
    return out.token
