"""Places on the ladder of batches that steady states are known at: how far up a replica may be
loaded, and what it does between two rungs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.planning.serving import Steady
from magicplan.roofline.deployment import Array

SAFE_MARGIN = 3.09
"""Standard deviations that the cache keeps free: requests in flight outgrow it for at most 0.1 %
of the time; a batch with less is one that the replica does not hold. So little, because overflow
feeds itself: a preempted request brings its prompt again, to be computed before all decoding."""


def last_feasible(state: Steady, margin: float = SAFE_MARGIN) -> NDArray[np.int64]:
    """Index of the batch up to which every batch keeps up and leaves `margin` standard deviations
    of cache free, [config]; -1 where none does."""
    bad = ~(state.keeps_up & (state.kv_margin >= margin))
    return np.asarray(np.where(bad.any(axis=1), bad.argmax(axis=1), bad.shape[1]) - 1)


def edge_of(state: Steady, margin: float = 0.0) -> Array:
    """Fractional index at which the cache leaves just `margin` standard deviations, [config]; the
    last batch that keeps up where something else ends it."""
    last = np.maximum(last_feasible(state, margin), 0)
    after = np.minimum(last + 1, state.rate.shape[1] - 1)
    rows = np.arange(state.configs)
    here, there = state.kv_margin[rows, last], state.kv_margin[rows, after]
    share = np.clip((here - margin) / np.maximum(here - there, 1e-12), 0.0, 1.0)
    return np.asarray(last + np.where(state.keeps_up[rows, after], share * (after - last), 0.0))


def where_reached(values: Array, wanted: Array, end: NDArray[Any]) -> Array:
    """Fractional batch index at which rising `values` [config, b] reach `wanted` [config].

    The first index where all are above, `end` where none up to it reaches it.
    """
    found = np.empty(wanted.shape)
    for row, (ladder, target, most) in enumerate(zip(values, wanted, end, strict=True)):
        rising = np.maximum.accumulate(ladder[: int(np.ceil(most)) + 1])
        found[row] = min(np.interp(target, rising, np.arange(float(rising.size))), most)
    return found


def reached(values: Array, at: Array) -> Array:
    """Values [config, b] at fractional indices, [config]."""
    rows = np.arange(values.shape[0])
    low = np.clip(np.floor(at).astype(np.int64), 0, values.shape[1] - 1)
    high = np.minimum(low + 1, values.shape[1] - 1)
    return np.asarray(values[rows, low] + (at - low) * (values[rows, high] - values[rows, low]))


def slope_at(state: Steady, config: NDArray[np.int64], at: Array) -> Array:
    """Seconds that one more request in the batch adds to a round, [n], at fractional indices."""
    low = np.clip(np.floor(at).astype(np.int64), 0, max(state.rate.shape[1] - 2, 0))
    high = np.minimum(low + 1, state.rate.shape[1] - 1)
    rise = state.round_seconds[config, high] - state.round_seconds[config, low]
    run = state.batch[config, high] - state.batch[config, low]
    return np.asarray(np.maximum(rise, 0.0) / np.maximum(run, 1e-9))
