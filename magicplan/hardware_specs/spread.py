"""How independent causes of error widen one interval together."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np


def combined_spread(*factors: Any) -> Any:
    """The factor from a value to an end of its interval, from each cause's own such factor.

    Independent relative errors add in quadrature of their logarithms: exp(sqrt(sum ln(f)^2)), at
    least 1. A factor below 1 counts as its inverse; a factor of 0 or infinity leaves no end, and
    the result is infinite. Factors are floats, or arrays that broadcast.
    """
    with np.errstate(divide="ignore"):
        return np.exp(reduce(np.hypot, [np.log(factor) for factor in factors], 0.0))
