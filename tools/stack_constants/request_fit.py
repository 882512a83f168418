"""What published load tests say beside steps: the wait of a first token, and how far off runs are.

Engines may send several tokens at once (TensorRT-LLM's `stream_interval`, SGLang's
`--stream-interval`), and published runs do not say how many: the rows of a stack agree on rounds
that the first token waits, which grow with the time per token as nothing else beside the steps.
Mixtures of experts fit no constant: their kernels come from tables, their host from dense models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Residual
from magicplan.replay.published import Case
from magicplan.replay.serving_rows import predicted
from magicplan.roofline.deployment import Array
from tools.stack_constants.evidence import evidence
from tools.stack_constants.solve import solve
from tools.stack_constants.stack_fit import MIN_CASES, set_of

FOLDS = 5
LEAST_EXPERTS = (0.85, 1.2)
"""No interval of experts' times per token is narrower: a stack's rows are of one to three models,
and sets of another model or version miss by this much together."""
LEAST_FIRST = (0.8, 1.25)
"""No interval of times to the first token is narrower: what harnesses do differently."""
WAITS: dict[str, tuple[float, float, float]] = {
    "request_seconds": (0.0, 0.03, 1.0),
    "streamed_rounds": (0.0, 5.0, 100.0),
}
"""Least, first and largest value of what is fitted."""


@dataclass(frozen=True, slots=True)
class Told:
    """A load test as measured and as predicted, seconds by kind."""

    case: Case
    measured: dict[str, float]
    predicted: dict[str, float]

    @property
    def set(self) -> str:
        """Rows of one model and format on one GPU."""
        return set_of(self.case)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFit:
    """`WAITS`, and predicted over measured time to first token: of every fitted row, and of every
    row by the waits of other sets, which is empty where all rows are of one set."""

    request_seconds: float
    streamed_rounds: float
    in_sample: Array
    held_out: Array
    evidence: dict[str, Any]


def told(cases: Iterable[Case]) -> list[Told]:
    """Every load test that the package covers, through the path that plans use."""
    found = []
    for case in cases:
        try:
            if case.run:
                found.append(Told(case, case.run.measured, predicted(case, case.run)))
        except UsageError:
            continue
    return found


def fit_request(stack: str, rows: list[Told]) -> RequestFit:
    """What a first token waits for beside the request's steps, from predictions without it.

    (GPU, model, format) sets count equally, however many rows they print; folds hold whole sets.
    Raises UsageError for too few rows.
    """
    usable = [r for r in rows if r.case.engine == stack and "ttft" in r.measured]
    if len(usable) < MIN_CASES:
        raise UsageError(f"{stack}: {len(usable)} times to first token, needs {MIN_CASES}")
    seen = np.asarray(
        [(r.measured["ttft"], r.predicted["ttft"], r.predicted["tpot"]) for r in usable]
    )
    names = [r.set for r in usable]
    sets = np.unique(names, return_inverse=True)[1]
    weight = np.asarray(np.bincount(sets)[sets] ** -0.5, dtype=np.float64)
    folds = np.unique(sets % FOLDS)
    held_out = np.empty(len(usable) if len(folds) > 1 else 0)
    for fold in folds if len(held_out) else ():
        test = sets % FOLDS == fold
        others = _solve(seen[~test], weight[~test])
        held_out[test] = _predicted(others, seen[test]) / seen[test, 0]
    found = _solve(seen, weight)
    fitted = _predicted(found, seen) / seen[:, 0]
    return RequestFit(
        request_seconds=float(found[0]),
        streamed_rounds=float(found[1]),
        in_sample=fitted,
        held_out=held_out,
        evidence=evidence(
            "stack first tokens",
            ("host.request_seconds", "streamed_rounds"),
            [r.case.source for r in usable],
            names,
            held_out if len(held_out) else fitted,
            held_out=bool(len(held_out)),
        ),
    )


def residuals(stack: str, rows: list[Told]) -> dict[str, Residual]:
    """Intervals of measured over predicted, by the name that a calibration gives them: times per
    token of experts, times to the first token of dense models and of experts. `rows` are those
    believed, predicted by everything that ships; without `MIN_CASES` of a kind it has none."""
    found = {}
    for name, kind, dense in (
        ("experts_residual", "tpot", False),
        ("first_token_residual", "ttft", True),
        ("experts_first_token_residual", "ttft", False),
    ):
        chosen = [
            r for r in rows
            if r.case.engine == stack and r.case.dense == dense and kind in r.measured
        ]  # fmt: skip
        if len(chosen) < MIN_CASES:
            continue
        ratios = np.asarray([r.measured[kind] / r.predicted[kind] for r in chosen])
        low, high = np.percentile(ratios, [10, 90])
        least = LEAST_EXPERTS if kind == "tpot" else LEAST_FIRST
        what = "times per token" if kind == "tpot" else "times to the first token"
        whose = "dense models" if dense else "experts"
        fitted = "no constant fitted on them" if kind == "tpot" else "two constants fitted"
        found[name] = Residual(
            low=min(float(low), least[0]),
            high=max(float(high), least[1]),
            basis=f"measured over predicted {what} of {len(chosen)} published load tests of "
            f"{whose} by {stack}, {fitted}",
        )
    return found


def expert_evidence(stack: str, rows: list[Told]) -> dict[str, Any]:
    """What predictions of experts miss published times per token by, without a constant of theirs:
    kernels are those of tables, the host is that of dense models."""
    chosen = [r for r in rows if r.case.engine == stack and not r.case.dense]
    ratios = np.asarray([r.predicted["tpot"] / r.measured["tpot"] for r in chosen])
    return evidence(
        "stack experts", (), [r.case.source for r in chosen], [r.set for r in chosen], ratios,
        held_out=True,
    )  # fmt: skip


def _predicted(waits: Array, seen: Array) -> Array:
    return np.asarray(seen[:, 1] + waits[0] + waits[1] * seen[:, 2])


def _solve(seen: Array, weight: Array) -> Array:
    def residual(x: Array) -> Array:
        return np.asarray(np.log(_predicted(x, seen) / seen[:, 0]) * weight)

    return solve(residual, WAITS)
