"""Acceptance by child rank with its noise taken out: pooled, or as a power law."""

from __future__ import annotations

import numpy as np

from magicplan.roofline.deployment import Array


def fitted_power_law(ranks: Array) -> Array:
    """The power law through a measured vector: its first rank, which is the best known, and the
    decay of r_k = r_1 k^-b that fits the others in least squares of logarithms."""
    ranks = np.asarray(ranks, dtype=np.float64)
    reject = 1 - np.cumsum(ranks)
    k = np.log(np.arange(1.0, ranks.size + 1))
    usable = (reject > 1e-12) & (k > 0)
    if reject[0] <= 0 or not usable.any():
        return non_increasing(ranks)
    fall = np.log(reject[usable] / reject[0])
    decay = max(0.0, -float(k[usable] @ fall / (k[usable] @ k[usable])))
    # where little is accepted the second rank would exceed the first
    return np.asarray(np.minimum(power_law(float(ranks[0]), decay, ranks.size), ranks[0]))


def power_law(first: float, decay: float, width: int) -> Array:
    """Ranks whose reject-all probability is r_k = (1 - first) k^-decay: two numbers for all."""
    reject = (1 - first) * np.arange(1.0, width + 1) ** -decay
    return np.concatenate([[first], -np.diff(reject)])


def non_increasing(ranks: Array) -> Array:
    """The nearest non-increasing vector in least squares, by pooling adjacent violators."""
    pools: list[tuple[float, int]] = []
    for value in np.asarray(ranks, dtype=np.float64):
        total, count = float(value), 1
        while pools and pools[-1][0] / pools[-1][1] < total / count:
            more, members = pools.pop()
            total, count = total + more, count + members
        pools.append((total, count))
    return np.concatenate([np.full(count, total / count) for total, count in pools])
