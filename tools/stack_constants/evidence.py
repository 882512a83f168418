"""What fitted constants rest on: their rows, where those are from, and what they miss by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from magicplan.roofline.deployment import Array


def evidence(
    part: str,
    constants: Sequence[str],
    sources: Iterable[str],
    sets: Iterable[str],
    ratios: Array,
    *,
    held_out: bool,
) -> dict[str, Any]:
    """A table of TOML about a group of constants.

    sources: file and source of every row; sets: what rows belong together; ratios: predicted over
    measured of every row, by constants of other sets if `held_out`, else by those fitted on it.
    """
    error = 100 * np.abs(ratios - 1)
    return {
        "part": part,
        "constants": list(constants),
        "from": [f"{name}, {count} rows" for name, count in sorted(Counter(sources).items())],
        "rows": len(ratios),
        "sets": len(set(sets)),
        "held_out": held_out,
        "median_percent": round(float(np.median(error)), 2),
        "p95_percent": round(float(np.percentile(error, 95)), 2),
    }


def borrowed(part: str, constants: Sequence[str], owner: str) -> dict[str, Any]:
    """A table of TOML about constants taken over from another stack, which no row here supports."""
    return {"part": part, "constants": list(constants), "from": [owner], "rows": 0}
