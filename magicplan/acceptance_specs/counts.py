"""Rates counted by position, with the error of the tokens a round emits.

Positions are counted on the same rounds, so their errors neither agree nor are independent: the
interval is that of Omega = 1 + S_1 + ... + S_gamma, at every gamma.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.errors import UsageError
from magicplan.roofline.acceptance import Z80, PerPosition, conditional_from_marginal
from magicplan.roofline.deployment import Array
from magicplan.roofline.trees import non_increasing


def counted(marginal: Array, rounds: Array, origin: str) -> PerPosition:
    """Survival S_k seen in `rounds` [k] rounds that drafted position k: all rounds of position
    k + 1 also drafted position k. Raises UsageError for what is no survival.

    The error of Omega is the delta method's, exact for a sum: cov(S_i, S_j) = S_j (1 - S_i) / n_i
    for i <= j, which for equal n sums to the variance of the accepted length over n.
    """
    first, later = np.minimum.outer(marginal, marginal), np.maximum.outer(marginal, marginal)
    covariance = first * (1 - later) / np.maximum.outer(rounds, rounds)
    variance = np.diagonal(covariance.cumsum(axis=0).cumsum(axis=1))
    return with_errors(marginal, np.sqrt(np.maximum(variance, 0.0)), origin)


def with_errors(marginal: Array, errors: Array, origin: str) -> PerPosition:
    """Survival whose 80 % interval moves Omega at every gamma by its standard error.

    `errors` [gamma] are those of 1 + S_1 + ... + S_gamma. No draft length beyond the last position
    is chosen; one that is asked for repeats its conditional rate. Raises UsageError.
    """
    origin += f", up to {marginal.size} drafted tokens; beyond them the last rate would repeat"
    rates = tuple(float(value) for value in marginal)
    model = PerPosition.from_marginal(rates, origin=origin, measured=marginal.size)
    if not errors.any():
        return model
    steps = Z80 * np.diff(np.maximum.accumulate(errors), prepend=0.0)
    low, high = (_rates(marginal + sign * steps) for sign in (-1, 1))
    return replace(model, ends=(low, high), uncertainty=float(steps[0]))


def _rates(survival: Array) -> tuple[float, ...]:
    """Conditional rates of the nearest survival that is one."""
    possible = np.minimum.accumulate(np.clip(survival, 0.0, 1.0))
    return tuple(conditional_from_marginal(possible).tolist())


def survival_of(accepted: list[float], drafted: list[float]) -> Array:
    """P(first k accepted) from counts. Raises UsageError naming the position that cannot be."""
    for i, (n, k) in enumerate(zip(drafted, accepted, strict=True), 1):
        if not 0 <= k <= n or n <= 0:
            raise UsageError(f"position {i}: accepted {k:g} of {n:g} drafted")
    return np.asarray(np.array(accepted) / np.array(drafted), dtype=np.float64)


def survival_of_lengths(points: dict[int, float]) -> Array:
    """P(first k accepted) from mean accept lengths, bonus token included, by draft length.

    The length without a draft is 1; a gap between two draft lengths is filled evenly. Survival is
    the differences, pooled where the noise of separate runs lets them rise.
    """
    known = sorted(points)
    means = np.interp(np.arange(known[-1] + 1), [0, *known], [1.0, *(points[k] for k in known)])
    return np.clip(non_increasing(np.diff(means)), 0.0, 1.0)
