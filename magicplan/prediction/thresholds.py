"""A grid of draft lengths as few thresholds.

Every threshold costs an engine a set of captured graphs, so neighbouring cells share a draft length
as long as it loses less than a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.errors import UsageError
from magicplan.prediction.result import Prediction
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """What a plan decided for the load it is made for, which a schedule leaves as it is."""

    batch_lo: int
    batch_hi: int
    """Requests that decode at once: the mean over time, and what one of them sees."""
    ctx_tokens: float
    gamma: int
    """Length of the planned chain; of the best chain where the plan drafts a tree."""
    share: float = 1.0
    """Throughput of that chain over the plan's own."""
    same: bool = True
    """Whether that is the plan's own draft."""

    def cells(self, batches: Array, contexts: Array) -> tuple[list[int], int]:
        """Rows of a grid that speak for the planned batches, and the column of the context."""
        spans = enumerate(edges(batches))
        rows = [i for i, (lo, hi) in spans if lo <= self.batch_hi and hi >= self.batch_lo]
        return rows, int(np.abs(np.log(contexts / self.ctx_tokens)).argmin())


def losses(p: Prediction, planned: Planned | None = None) -> Array:
    """Throughput lost by every draft length against the best, [batch, ctx, gamma]; 0 where a cell
    does not fit, so that it decides nothing. Where a plan decided, all other lengths lose all."""
    shape = (*p.placement.fits.shape, p.rounds.gammas.size)
    rate = np.broadcast_to(p.rounds.tokens_per_s, shape)
    lost = 1 - rate / rate.max(axis=-1, keepdims=True)
    lost = np.where(p.placement.fits[..., None], lost, 0.0)
    if planned is None:
        return lost
    return pinned(lost, planned, p.resolved.batch[:, 0], p.workload.ctx_tokens[0], planned.gamma)


def pinned(lost: Array, planned: Planned, batches: Array, contexts: Array, choice: int) -> Array:
    """Losses that leave one choice at the planned load."""
    rows, column = planned.cells(batches, contexts)
    found = lost.copy()
    found[rows, column] = 1.0
    found[rows, column, choice] = lost[rows, column, choice]
    return found


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


def schedule(p: Prediction, planned: Planned | None = None) -> tuple[Threshold, ...]:
    """The form that reads batch and context: [batch_lo, batch_hi, ctx_lo, ctx_hi, gamma]."""
    return thresholds(losses(p, planned), p.resolved.batch[:, 0], p.workload.ctx_tokens[0])


def thresholds(lost: Array, batches: Array, contexts: Array) -> tuple[Threshold, ...]:
    """The fewest thresholds for losses [batch, ctx, gamma], or of other choices by number.

    Contexts are grouped so that the thresholds of all groups are as few as can be; a group shares
    its batch ranges as long as every one stays within the tolerance.
    """
    rows, columns = edges(batches), edges(contexts)
    found = []
    for left, right in _groups(lost):
        for first, last, gamma, loss in segments(lost[:, left : right + 1].max(axis=1)):
            found.append(
                Threshold(
                    batch_lo=rows[first][0],
                    batch_hi=rows[last][1],
                    ctx_lo=columns[left][0],
                    ctx_hi=columns[right][1],
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
