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
    """The first of `STEPS` that covers 80 % across folds, or the last; never narrower than `least`.

    ratios: measured over predicted, each held out; folds: which rows belong together. Its coverage
    is of folds that took no part in the choice either. Of a single fold nothing is known about
    another: all of its rows lie inside, and the coverage is NaN.
    """
    names = np.unique(folds)
    low, high = _across(ratios, folds, least)
    if len(names) < 2:
        return Covering(low=low, high=high, coverage=float("nan"))
    inside = np.empty(len(ratios), dtype=np.bool_)
    for fold in names:
        unseen = folds == fold
        ends = _across(ratios[~unseen], folds[~unseen], least)
        inside[unseen] = (ratios[unseen] >= ends[0]) & (ratios[unseen] <= ends[1])
    return Covering(low=low, high=high, coverage=float(inside.mean()))


def _across(
    ratios: Array, folds: NDArray[np.int64], least: tuple[float, float]
) -> tuple[float, float]:
    """Ends by the first step at which each fold's ends, set by the others, hold 80 % of all."""
    names = np.unique(folds)
    if len(names) < 2:
        return _ends(ratios, 0, 1.0, least)
    for tail, reach in STEPS:
        inside = 0
        for fold in names:
            low, high = _ends(ratios[folds != fold], tail, reach, least)
            unseen = ratios[folds == fold]
            inside += int(((unseen >= low) & (unseen <= high)).sum())
        if inside >= WANTED * len(ratios):
            break
    return _ends(ratios, tail, reach, least)


def _ends(
    ratios: Array, tail: float, reach: float, least: tuple[float, float]
) -> tuple[float, float]:
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return min(float(low), least[0]) ** reach, max(float(high), least[1]) ** reach
