"""A grid of draft lengths as few thresholds.

Every threshold costs an engine a set of captured graphs, so neighbouring cells share a draft length
as long as it loses less than a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.prediction import Prediction
from magicplan.roofline.deployment import Array

TOLERANCE = 0.02
"""Throughput that sharing a draft length may lose in any cell it covers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Threshold:
    """One draft length for a range of batches and contexts, both ends included."""

    batch_lo: int
    batch_hi: int
    ctx_lo: int
    ctx_hi: int
    gamma: int
    loss: float
    """Largest share of throughput lost against the best draft length, over the cells covered."""


def losses(p: Prediction) -> Array:
    """Throughput lost by every draft length against the best, [batch, ctx, gamma]; 0 where a cell
    does not fit, so that it decides nothing."""
    shape = (*p.placement.fits.shape, p.rounds.gammas.size)
    rate = np.broadcast_to(p.rounds.tokens_per_s, shape)
    lost = 1 - rate / rate.max(axis=-1, keepdims=True)
    return np.where(p.placement.fits[..., None], lost, 0.0)


def segments(lost: Array) -> list[tuple[int, int, int, float]]:
    """Fewest runs of rows [row, gamma] that share a draft length within the tolerance.

    Each is (first row, last row, gamma, loss); a row that nothing serves within the tolerance
    stands alone. Extending greedily is optimal, for a part of a run that works works as well.
    """
    found: list[tuple[int, int, int, float]] = []
    first = 0
    while first < len(lost):
        last, worst = first, lost[first]
        while last + 1 < len(lost) and np.maximum(worst, lost[last + 1]).min() <= TOLERANCE:
            last += 1
            worst = np.maximum(worst, lost[last])
        gamma = int(worst.argmin())
        found.append((first, last, gamma, float(worst[gamma])))
        first = last + 1
    return found


def schedule(p: Prediction) -> tuple[Threshold, ...]:
    """The form that reads batch and context: [batch_lo, batch_hi, ctx_lo, ctx_hi, gamma].

    Contexts are grouped so that the thresholds of all groups are as few as can be; a group shares
    its batch ranges as long as every one stays within the tolerance.
    """
    batches, contexts = edges(p.resolved.batch[:, 0]), edges(p.workload.ctx_tokens[0])
    lost = losses(p)
    found = []
    for left, right in _groups(lost):
        for first, last, gamma, loss in segments(lost[:, left : right + 1].max(axis=1)):
            found.append(
                Threshold(
                    batch_lo=batches[first][0],
                    batch_hi=batches[last][1],
                    ctx_lo=contexts[left][0],
                    ctx_hi=contexts[right][1],
                    gamma=gamma,
                    loss=loss,
                )
            )
    return tuple(found)


def _groups(lost: Array) -> list[tuple[int, int]]:
    """Runs of contexts (first, last) with the fewest thresholds in all, by dynamic programming."""
    count = lost.shape[1]
    best: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    for end in range(count):
        options = []
        for start in range(end + 1):
            parts = segments(lost[:, start : end + 1].max(axis=1))
            if start == end or max(loss for *_, loss in parts) <= TOLERANCE:
                total, before = best[start]
                options.append((total + len(parts), [*before, (start, end)]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def edges(values: Array) -> list[tuple[int, int]]:
    """Each grid value speaks for itself and what follows up to the next; the first from 1 on."""
    if (np.diff(values) <= 0).any():
        raise UsageError("settings need batches and contexts in rising order")
    starts = [1, *(int(value) for value in values[1:])]
    ends = [*(int(value) - 1 for value in values[1:]), int(values[-1])]
    return list(zip(starts, ends, strict=True))
