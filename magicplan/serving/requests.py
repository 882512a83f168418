"""The requests that a simulated server is asked: drawn once, before anything is simulated.

Every number that chance decides, the rounds of speculation included, is drawn here by seed, so that
two fleets, two policies, or the fast simulation and its twin answer the very same questions.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magicplan.roofline.acceptance import conditional_from_marginal
from magicplan.roofline.deployment import Array


@dataclass(slots=True, eq=False, kw_only=True)
class SimulatedRequest:
    """One request, and what became of it (times in seconds, NaN until known)."""

    number: int
    arrived: float = 0.0
    prompt: float
    output: float
    rounds: int
    """Decoding steps until its last token; 0 where the prefill emits its only one."""
    cached: float = 0.0
    """Prompt tokens whose cache is known to be found, beside what its session left."""
    session: int = -1
    """Whose turn it is; -1 stands alone."""
    pause: float = 0.0
    """Seconds after the answer until the same session or user asks again."""
    first: float = math.nan
    ended: float = math.nan
    found: float = 0.0
    """Prompt tokens that it found cached."""
    preempted: int = 0
    # what an engine keeps of it while it runs
    todo: float = 0.0
    held: float = 0.0
    emitted: float = 0.0
    left: int = 0
    begun: int = 0
    last: float = math.nan
    finish: int = -1
    eligible: int = 0
    growth: float = 0.0
    """Tokens a round: its own mean, evenly, whatever each round brought."""


def round_law(conditional: Array) -> Array:
    """Probabilities that a round emits 1, 2, ... tokens, where each drafted token is accepted
    with its `conditional` rate given all before it."""
    reach = np.concatenate([[1.0], np.cumprod(conditional)])
    return np.asarray(np.append(reach[:-1] - reach[1:], reach[-1]))


def law_of_survival(survival: Array) -> Array:
    """The law of a chain whose i-th token is accepted with probability `survival[i - 1]`."""
    flat = np.asarray(survival, dtype=np.float64).reshape(-1)
    return round_law(conditional_from_marginal(flat))


def law_of_mean(mean: float, depth: int) -> Array:
    """The law of rounds of at most `depth` accepted tokens and a mean: one rate at every level.

    Trees are drawn so: their mean is Sequoia's, their spread that of a chain of equal rates.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        low, high = (low, rate) if sum(rate**i for i in range(depth + 1)) > mean else (rate, high)
    return round_law(np.full(depth, low))


def rounds_needed(
    outputs: Sequence[float], law: Array | None, rng: np.random.Generator
) -> list[int]:
    """Rounds of each request until its tokens behind the first are out, drawn round by round."""
    needs = [int(o) - 1 for o in outputs]
    if law is None or law.size == 1:
        return needs
    mean = float(law @ np.arange(1, law.size + 1))
    steps = np.cumsum(law)

    def drawn(count: int, start: int) -> list[int]:
        emitted = 1 + np.minimum(np.searchsorted(steps, rng.random(count)), law.size - 1)
        totals: list[int] = (start + np.cumsum(emitted)).tolist()
        return totals

    stream = drawn(int(1.05 * sum(needs) / mean) + len(needs) + 64, 0)
    found, place, before = [], 0, 0
    for need in needs:
        while stream[-1] < before + need:
            stream += drawn(len(needs) + need, stream[-1])
        at = bisect_left(stream, before + need, lo=place) if need else place - 1
        found.append(at + 1 - place)
        place, before = (at + 1, stream[at]) if need else (place, before)
    return found
