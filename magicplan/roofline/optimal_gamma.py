"""The best continuous draft length in closed form.

A round lasts a + s gamma seconds and emits (1 - alpha^(gamma + 1)) / (1 - alpha) tokens. With
lam = -ln alpha and u = 1 + lam (a / s + gamma), setting the derivative of tokens over time to
zero gives u - ln u = 1 + lam (a / s - 1), hence u = -W_{-1}(-exp(-1 - lam (a / s - 1))), the lower
branch of the Lambert W function, and gamma* = ln(u) / lam - 1 = (u - 1) / lam - a / s.
"""

from __future__ import annotations

import numpy as np

from magicplan.roofline.deployment import Array, Num


def optimal_gamma(alpha: Num, fixed_seconds: Num, slope_seconds: Num) -> Array:
    """gamma* for i.i.d. acceptance `alpha` and a round of fixed + slope gamma seconds; 0 where no
    draft pays, and where a < s.

    Newton on u - ln u = c from the right of its root, where it falls monotonically onto it:
    u0 = c + sqrt(2 (c - 1)), because e^y >= 1 + y + y^2 / 2. Nothing underflows.
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    ratio = np.asarray(fixed_seconds, dtype=np.float64) / slope_seconds
    lam = -np.log(np.clip(alpha, 1e-300, 1 - 1e-15))
    c = 1 + lam * np.maximum(ratio - 1, 0.0)
    u = c + np.sqrt(2 * (c - 1))
    for _ in range(60):
        step = (u - np.log(u) - c) / np.where(u > 1, 1 - 1 / np.where(u > 1, u, 2.0), 1.0)
        u = np.maximum(u - step, 1.0)
    gamma = np.log(u) / lam - 1
    pays = (ratio > 1) & (alpha > 0)
    return np.asarray(np.where(pays, np.maximum(gamma, 0.0), 0.0))
