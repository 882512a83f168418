"""Acceptance in plain torch, on any device, without host synchronisation; its random numbers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from magicplan.kernels.backend import Accepted, Noise, Topology

COIN, DRAW, SAMPLE = range(3)
"""Streams of random numbers: acceptance, the token after a rejection, `sample`."""
LOW = 0xFFFFFFFF


def philox(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """First word of Philox 4x32-10 (Salmon et al., SC 2011); int64 tensors of 32-bit values.

    A product of two 32-bit numbers wraps in int64, but its bits are right.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & LOW, seed >> 32 & LOW
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32 & LOW) ^ c1 ^ k0, b & LOW, (a >> 32 & LOW) ^ c3 ^ k1, a & LOW
        k0, k1 = k0 + 0x9E3779B9 & LOW, k1 + 0xBB67AE85 & LOW
    return c0


def uniform(noise: Noise, stream: int, node: Tensor, token: Tensor) -> Tensor:
    """[B, n] float32 in (0, 1]; node: [B, 1] or [B, n], token: [n] or [1]."""
    last = node.long() | stream << 16
    first, request, step, last = torch.broadcast_tensors(
        token.long(), noise.request.long()[:, None], noise.step.long()[:, None], last
    )
    return (philox(noise.seed, (first, request, step, last)).float() + 0.5) * 2.0**-32


class Race(Protocol):
    """A function that draws one token a row from weights, as `race` does."""

    def __call__(self, weights: Tensor, noise: Noise, stream: int, node: Tensor) -> Tensor: ...


def race(weights: Tensor, noise: Noise, stream: int, node: Tensor) -> Tensor:
    """[B] int64: token drawn in proportion to weights [B, V]. node: [B, 1].

    The largest weight / Exp(1) wins: no sum, no search, no synchronisation.
    """
    token = torch.arange(weights.shape[1], device=weights.device)
    u = uniform(noise, stream, node, token).to(weights.dtype)
    return (weights / -torch.log1p(-u.clamp(max=1 - 2.0**-24))).argmax(1)


def _law(logits: Tensor) -> Tensor:
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def choices(target: Tensor) -> Tensor:
    """The lowest argmax of logits [..., V]; choices are given back as they are.

    `max` says which of equals it takes, and on a CPU is six times as fast as `argmax` in bfloat16.
    """
    return target.max(-1).indices if target.is_floating_point() else target


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """The entries x[b, index[b]] along the second axis."""
    return x[torch.arange(x.shape[0], device=x.device), index.long()]


def accept_greedy(draft: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted chain greedily, as `Backend.accept_greedy` defines it."""
    chosen = choices(target)
    count = (draft == chosen[:, :-1]).long().cumprod(1).sum(1)
    return Accepted(count=count.int(), token=_pick(chosen, count))


def accept_sampled(
    draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise, race: Race = race
) -> Accepted:
    """Verifies a drafted chain by sampling, as `Backend.accept_sampled` defines it."""
    gamma = draft.shape[1]
    p_all, q_all = _law(target_logits), _law(draft_logits)
    p = p_all[:, :gamma].gather(2, draft[..., None])[..., 0]
    q = q_all.gather(2, draft[..., None])[..., 0]
    nodes = torch.arange(gamma, device=draft.device)[None]
    coin = uniform(noise, COIN, nodes, torch.zeros(1, device=draft.device))
    count = (coin * q < p).long().cumprod(1).sum(1)
    p_row = _pick(p_all, count)
    q_row = _pick(q_all, count.clamp(max=gamma - 1)) * (count < gamma)[:, None]
    token = race(_residual(p_row, q_row), noise, DRAW, count[:, None])
    return Accepted(count=count.int(), token=token)


def _residual(p: Tensor, q: Tensor) -> Tensor:
    """max(p - q, 0), or p where that is nothing (p equals q but for rounding)."""
    left = (p - q).clamp(min=0)
    return torch.where(left.sum(1, keepdim=True) > 0, left, p)


def accept_tree_greedy(tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
    """Verifies a drafted tree greedily, as `Backend.accept_tree_greedy` defines it."""
    chosen = choices(target)
    node = torch.zeros_like(tokens[:, 0])
    path = []
    for _ in range(tree.levels):
        match = (tree.parents == node[:, None]) & (tokens == _pick(chosen, node)[:, None])
        node, reached = _descend(node, match)
        path.append(reached)
    return _walked(path, _pick(chosen, node))


def _descend(node: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
    """The first matching child of each node, or the node itself; and the child or -1.

    Once a walk has stopped it stays: its node has no match in later rounds either.
    """
    found, child = match.any(1), match.long().argmax(1)
    return torch.where(found, child, node), torch.where(found, child, -1)


def _walked(path: list[Tensor], token: Tensor) -> Accepted:
    nodes = torch.stack(path, 1).int()
    return Accepted(count=(nodes >= 0).sum(1).int(), token=token, nodes=nodes)


def accept_tree_sampled(
    tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise, race: Race = race
) -> Accepted:
    """Verifies a drafted tree by sampling, as `Backend.accept_tree_sampled` defines it."""
    p_all = _law(target_logits)
    node = torch.zeros_like(tokens[:, 0])
    token_zero = torch.zeros(1, device=tokens.device)
    path = []
    for _ in range(tree.levels):
        is_child = tree.parents == node[:, None]
        p = _pick(p_all, node).gather(1, tokens) * is_child
        coin = uniform(noise, COIN, node[:, None], token_zero)
        node, reached = _descend(node, is_child & (coin < p.cumsum(1)))
        path.append(reached)
    weights = _pick(p_all, node)
    tried = torch.zeros_like(weights).scatter_reduce_(
        1, tokens, (tree.parents == node[:, None]).to(weights.dtype), "amax"
    )
    token = race(_residual(weights, tried), noise, DRAW, node[:, None])
    return _walked(path, token)


def sample(logits: Tensor, noise: Noise, *, node: int = 0, race: Race = race) -> Tensor:
    """Draws one token a sequence from logits, as `Backend.sample` defines it."""
    at = torch.full((logits.shape[0], 1), node, device=logits.device)
    return race(_law(logits), noise, SAMPLE, at)
