"""When a request's first token is out, fitted on published serving runs.

Engines may send several tokens at once (TensorRT-LLM's `stream_interval`, SGLang's
`--stream-interval`), and published runs do not say how many: the rows of a stack agree on rounds
that the first token waits, which grow with the time per token as nothing else beside the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.replay.serving_rows import Served
from magicplan.roofline.deployment import Array
from tools.stack_constants.coverage import held_out
from tools.stack_constants.evidence import evidence
from tools.stack_constants.solve import solve
from tools.stack_constants.stack_fit import MIN_CASES

FOLDS = 5
WAITS: dict[str, tuple[float, float, float]] = {
    "request_seconds": (0.0, 0.03, 1.0),
    "streamed_rounds": (0.0, 5.0, 100.0),
}
"""Least, first and largest value of what is fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFit:
    """`WAITS`, and predicted over measured time to first token: of every fitted row, and of every
    row by the waits of other sets, which is empty where all rows are of one set."""

    request_seconds: float
    streamed_rounds: float
    in_sample: Array
    held_out: Array
    evidence: dict[str, Any]


def fit_request(stack: str, rows: list[Served]) -> RequestFit:
    """What a first token waits for beside the request's steps, from predictions without it.

    (GPU, model, format) sets count equally, however many rows they print; folds hold whole sets.
    Raises UsageError for too few rows.
    """
    usable = [r for r in rows if r.row["backend"] == stack and np.isfinite(r.ttft)]
    if len(usable) < MIN_CASES:
        raise UsageError(f"{stack}: {len(usable)} times to first token, needs {MIN_CASES}")
    seen = np.asarray([(r.ttft, r.ttft_predicted, r.tpot_predicted) for r in usable])
    names = [f"{r.row['system']} {r.model} {r.row['precision']}" for r in usable]
    sets = np.unique(names, return_inverse=True)[1]
    weight = np.asarray(np.bincount(sets)[sets] ** -0.5, dtype=np.float64)
    unseen = 1 / held_out(
        seen[:, 0],
        lambda test: _predicted(_solve(seen[~test], weight[~test]), seen),
        sets % FOLDS,
    )
    found = _solve(seen, weight)
    return RequestFit(
        request_seconds=float(found[0]),
        streamed_rounds=float(found[1]),
        in_sample=(fitted := _predicted(found, seen) / seen[:, 0]),
        held_out=unseen,
        evidence=evidence(
            "stack first tokens",
            ("host.request_seconds", "streamed_rounds"),
            [f"serving: {r.row['backend']}" for r in usable],
            names,
            unseen if len(unseen) else fitted,
            held_out=bool(len(unseen)),
        ),
    )


def _predicted(waits: Array, seen: Array) -> Array:
    return np.asarray(seen[:, 1] + waits[0] + waits[1] * seen[:, 2])


def _solve(seen: Array, weight: Array) -> Array:
    def residual(x: Array) -> Array:
        return np.asarray(np.log(_predicted(x, seen) / seen[:, 0]) * weight)

    return solve(residual, WAITS)
