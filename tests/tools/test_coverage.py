"""An interval's ends and its coverage come from different folds."""

from __future__ import annotations

import numpy as np
import pytest

from tools.stack_constants.coverage import covering

LEAST = (0.99, 1.01)


def test_independent_rows_are_covered_by_their_own_percentiles() -> None:
    rng = np.random.default_rng(2)
    ratios = np.exp(0.1 * rng.standard_normal(5000))
    found = covering(ratios, np.arange(5000) % 5, LEAST)
    assert found.coverage == pytest.approx(0.8, abs=0.03)
    assert found.low == pytest.approx(np.exp(-0.128), abs=0.03)
    assert found.high == pytest.approx(np.exp(0.128), abs=0.03)


def test_folds_that_err_alike_need_wider_ends() -> None:
    """Within a fold all rows miss by the same: ends at the tenth of the rows cover too few."""
    rng = np.random.default_rng(4)
    folds = np.repeat(np.arange(8), 50)
    ratios = np.exp(0.15 * rng.standard_normal(8)[folds] + 0.01 * rng.standard_normal(400))
    found = covering(ratios, folds, LEAST)
    plain = np.percentile(ratios, [10, 90])
    assert found.low < plain[0]
    assert found.high > plain[1]


def test_no_interval_is_narrower_than_the_least_and_one_fold_tells_nothing() -> None:
    found = covering(np.ones(10), np.arange(10) % 2, LEAST)
    assert (found.low, found.high, found.coverage) == (*LEAST, 1.0)
    alone = covering(np.array([0.9, 1.2]), np.zeros(2, dtype=np.int64), LEAST)
    assert (alone.low, alone.high) == (0.9, 1.2)
    assert np.isnan(alone.coverage)
