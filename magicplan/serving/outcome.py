"""What a load generator reports of simulated engines: latencies, gaps, rates, cache, preemptions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.simulation import Gap


def gaps_of(gaps: Sequence[Gap]) -> Array:
    """Every gap between chunks of an answer, in seconds."""
    if not gaps:
        return np.zeros(0)
    _, first, last, steps, answers = np.asarray(gaps).T
    count = steps.astype(np.int64)
    begin = np.repeat(np.cumsum(count) - count, count)
    place = np.arange(count.sum()) - begin
    slope = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), 0.0)
    values = np.repeat(first, count) + place * np.repeat(slope, count)
    return np.repeat(values, np.repeat(answers.astype(np.int64), count))
