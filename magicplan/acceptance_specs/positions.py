"""Positions beyond those a row measured: how acceptance goes on there, and how sure that is.

The conditional rate falls by one factor a position: that of the rows of the same method which
measured more positions, each over its own positions past the shorter row's last (the median row,
the lower one of two); where no row has more, the row's own, over all its positions. It is never
above 1, so nothing is ever said to rise where nobody measured.

The half-width there is the measured positions' plus the larger of what the fall took off, so that
the upper end holds a rate that stays, and .02 a position.
"""

from __future__ import annotations

from statistics import median_low

import numpy as np

from magicplan.acceptance_specs.entry import Entry
from magicplan.roofline.acceptance import PerPosition, conditional_from_marginal
from magicplan.roofline.deployment import Array

LONGEST = 64
"""Positions written out; the last then goes on."""
A_POSITION = 0.02


def beyond_measured(
    model: PerPosition, rows: tuple[Entry, ...], widest: float
) -> tuple[PerPosition, str]:
    """The model with its rates and interval written out to `LONGEST` positions, none wider than
    `widest`, and what to say of it."""
    known = np.array(model.conditional)
    last = known.size
    factor, why = _fall(known, [_conditional(row) for row in rows])
    steps = np.arange(1, LONGEST - last + 1)
    rates = np.concatenate([known, known[-1] * factor**steps])
    extra = np.maximum(known[-1] - rates[last:], A_POSITION * steps)
    width = np.concatenate([np.full(last, model.uncertainty), model.uncertainty + extra])
    width = np.minimum(width, max(widest, model.uncertainty))
    low, high = (tuple(np.clip(rates + sign * width, 0, 1).tolist()) for sign in (-1, 1))
    full = PerPosition(
        conditional=tuple(rates.tolist()),
        ends=(low, high),
        origin=model.origin,
        uncertainty=model.uncertainty,
    )
    return full, f"positions beyond {last} times {factor:.2f} each, {why}"


def mean_of(parts: list[PerPosition]) -> PerPosition:
    """The mean of rates and of interval ends, position by position, of models written out alike."""
    rows = np.array([part.conditional for part in parts]).mean(axis=0)
    ends = np.array([part.ends for part in parts]).mean(axis=0)
    return PerPosition(
        conditional=tuple(rows.tolist()),
        ends=(tuple(ends[0].tolist()), tuple(ends[1].tolist())),
        origin=parts[0].origin,
        uncertainty=max(part.uncertainty for part in parts),
    )


def _fall(known: Array, others: list[Array]) -> tuple[float, str]:
    """Factor from one position to the next past the known ones, at most 1, and whence it comes."""
    last = known.size
    longer = [row for row in others if row.size > last]
    found = [_factor(row[last - 1 :]) for row in longer] or [_factor(known)]
    why = f"as in rows with more ({len(longer)})" if longer else "as within the row"
    return min(1.0, median_low(found)), why


def _factor(rates: Array) -> float:
    """Geometric mean of the steps between neighbouring positions; 1 for a single position."""
    if rates.size < 2 or rates[0] == 0:
        return 1.0
    return float((rates[-1] / rates[0]) ** (1 / (rates.size - 1)))


def _conditional(row: Entry) -> Array:
    """A row's rates by position; none where it has one for all, as from a single length."""
    numbers = np.array(row.numbers)
    if row.kind == "marginal":
        return conditional_from_marginal(numbers)
    return numbers if row.kind == "conditional" else np.empty(0)
