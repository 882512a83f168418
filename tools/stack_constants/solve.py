"""The one fit behind the constants of serving stacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import least_squares

from magicplan.roofline.deployment import Array


def solve(
    errors: Callable[[Array], Array], constants: Mapping[str, tuple[float, float, float]]
) -> Array:
    """The constants, in their order, that bring `errors` nearest to 0.

    `constants` holds the least, first and largest value of each; `errors` are logarithms of
    predicted over measured, weighted. Errors beyond 10 % count linearly (soft L1), so that a few
    rows which nothing explains do not bend the rest.
    """
    low, first, high = np.asarray(list(constants.values())).T
    found = least_squares(errors, first, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    return np.asarray(found.x)
