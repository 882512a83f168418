"""Intervals of independent causes, combined: laws, and one number worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.hardware_specs.spread import combined_spread

FACTOR = st.floats(min_value=0.01, max_value=100.0)


def test_two_causes_by_hand() -> None:
    # ln 1.3 = 0.26236, ln 1.4 = 0.33647; sqrt(0.06883 + 0.11321) = 0.42667; exp = 1.53215
    assert combined_spread(1.3, 1.4) == pytest.approx(1.53215, abs=1e-5)


@given(factors=st.lists(FACTOR, min_size=1, max_size=5))
def test_a_cause_more_never_narrows(factors: list[float]) -> None:
    whole = combined_spread(*factors)
    assert whole >= 1
    assert whole >= combined_spread(*factors[1:]) * (1 - 1e-12)
    largest = max(max(f, 1 / f) for f in factors)
    total = math.prod(max(f, 1 / f) for f in factors)
    assert largest * (1 - 1e-9) <= whole <= total * (1 + 1e-9)


@given(factor=FACTOR, other=FACTOR)
def test_a_factor_counts_as_its_inverse(factor: float, other: float) -> None:
    assert combined_spread(factor, other) == pytest.approx(combined_spread(1 / factor, other))


@pytest.mark.parametrize("endless", [0.0, math.inf])
def test_a_cause_without_an_end_leaves_none(endless: float) -> None:
    assert combined_spread(1.2, endless) == math.inf


def test_arrays_broadcast() -> None:
    low = np.asarray([[0.5], [1.0]])
    found = combined_spread(low, np.asarray([1.0, 2.0]))
    assert found.shape == (2, 2)
    assert found[1, 1] == pytest.approx(combined_spread(1.0, 2.0))
