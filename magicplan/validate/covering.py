"""What constants say of rows they were not fitted on, and intervals that cover those: judged on
folds whose own rows did not set their ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from magicplan.roofline.deployment import Array

WANTED = 0.8
STEPS = tuple((tail, 1.0) for tail in range(10, -1, -1)) + tuple(
    (0, reach / 10) for reach in range(11, 16)
)
"""Percent left out at each end, then by how much the logarithms of both ends grow: rows of one
source err alike, so that the tenth that lies outside for the rows at hand is more for a source not
at hand; and few sources may not even hold the next between their extremes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """Ends of an interval of measured over predicted, and the share of rows of unseen folds that
    lies inside when the ends come from the other folds."""

    low: float
    high: float
    coverage: float


def held_out(
    measured: Array, predict: Callable[[NDArray[np.bool_]], Array], folds: NDArray[np.int64]
) -> Array:
    """Measured over predicted, each fold by `predict` told to leave it out; empty of one fold."""
    names = np.unique(folds)
    ratios = np.empty(len(folds) if len(names) > 1 else 0)
    for fold in names if len(names) > 1 else ():
        test = folds == fold
        ratios[test] = (measured / predict(test))[test]
    return ratios


def covering(ratios: Array, folds: NDArray[np.int64], least: tuple[float, float]) -> Covering:
    """The narrowest interval, never narrower than `least`, that covers 80 % across folds.

    ratios: measured over predicted, each held out; folds: which rows belong together. Of a single
    fold nothing is known about another: all of its rows lie inside, and the coverage is NaN.
    """
    if len(np.unique(folds)) < 2:
        low, high = _ends(ratios, 0, 1.0, least)
        return Covering(low=low, high=high, coverage=float("nan"))
    found = Covering(low=least[0], high=least[1], coverage=0.0)
    for tail, reach in STEPS:
        inside = []
        for fold in np.unique(folds):
            low, high = _ends(ratios[folds != fold], tail, reach, least)
            unseen = ratios[folds == fold]
            inside.append((unseen >= low) & (unseen <= high))
        low, high = _ends(ratios, tail, reach, least)
        found = Covering(low=low, high=high, coverage=float(np.concatenate(inside).mean()))
        if found.coverage >= WANTED:
            break
    return found


def _ends(
    ratios: Array, tail: float, reach: float, least: tuple[float, float]
) -> tuple[float, float]:
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return min(float(low), least[0]) ** reach, max(float(high), least[1]) ** reach
