"""How an engine's grouped products of experts differ from single ones, from published runs.

No public table of kernels here holds them. Beside them, mixtures of experts show their own share
of neighbours' prefill: the collection's dense runs send requests in waves, those of experts do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.errors import UsageError
from magicplan.replay.outcomes import prefill_of
from magicplan.replay.published import Case
from magicplan.roofline.deployment import Array
from magicplan.roofline.speculation import Scene
from magicplan.roofline.timing import step_cost
from magicplan.roofline.traffic import Pass, forward
from tools.stack_constants.coverage import held_out
from tools.stack_constants.evidence import evidence
from tools.stack_constants.solve import solve
from tools.stack_constants.stack_fit import MIN_CASES, placed, runs_of, set_of

EXPERTS: dict[str, tuple[float, float, float]] = {
    "prefill_share": (0.0, 0.8, 1.0),
    "fp8_slowdown": (0.5, 1.0, 3.0),
    "fp4_slowdown": (0.5, 1.0, 3.0),
}
"""Least, first and largest value of what is fitted on mixtures of experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFit:
    """`EXPERTS` of one stack, without formats that no row has."""

    constants: dict[str, float]
    held_out: Array
    """Measured over predicted of all rows, each model by constants of the others; empty of a single
    model. Models of one shape (DeepSeek's V3 and R1) are one."""
    believed: NDArray[np.bool_]
    """Rows that took part in the fits."""
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _ExpertStep:
    """A step taken apart, in seconds; experts' launches and work as 8 bits would have them."""

    measured: Array
    others: Array
    launch: Array
    busy: Array
    prefill: Array
    fp4: NDArray[np.bool_]


def fit_experts(
    stack: str, cases: list[Case], believe: Callable[[Case], bool] = lambda _: True
) -> ExpertFit:
    """How grouped products of experts differ from single ones in 8 bits, and what prefill shows.

    The stack's host constants are those that shipped calibrations hold. Cases that are not believed
    take no part in a fit, but are held against it. Raises UsageError for too few rows.
    """
    rows, kept = [], []
    usable = (c for c in cases if c.step_seconds and runs_of(stack, c, dense=False))
    for case, ask, scene in placed(usable):
        rows.append((case.step_seconds, *_known_experts(case, scene)))
        kept.append((case, (ask.model.layers, ask.model.hidden)))
    believed = np.asarray([believe(case) for case, _ in kept], dtype=np.bool_)
    if believed.sum() < MIN_CASES:
        raise UsageError(f"{stack}: {believed.sum()} published steps of experts, needs {MIN_CASES}")
    fp4 = np.asarray([c.ask["dtype"] == "fp4" for c, _ in kept])
    measured, others, launch, busy, prefill = np.asarray(rows, dtype=np.float64).T
    parts = _ExpertStep(measured, others, launch, busy, prefill, fp4)
    sets = np.unique([set_of(c) for c, _ in kept], return_inverse=True)[1]
    weight = believed / np.maximum(np.bincount(sets, weights=believed)[sets], 1)
    shapes = np.unique([shape for _, shape in kept], axis=0, return_inverse=True)[1]
    found = _solve(parts, weight)
    seen = {"prefill_share": True, "fp8_slowdown": (~fp4).any(), "fp4_slowdown": fp4.any()}
    pairs = zip(EXPERTS, found.tolist(), strict=True)
    constants = {name: value for name, value in pairs if seen[name]}
    ratios = held_out(
        measured, lambda test: _predict(_solve(parts, weight * ~test), parts), np.ravel(shapes)
    )
    return ExpertFit(
        constants=constants,
        held_out=ratios,
        believed=believed,
        evidence=evidence(
            "stack experts",
            [f"experts.{name}" for name in constants],
            [c.source for (c, _), took in zip(kept, believed, strict=True) if took],
            [set_of(c) for (c, _), took in zip(kept, believed, strict=True) if took],
            (1 / ratios if len(ratios) else _predict(found, parts) / measured)[believed],
            held_out=bool(len(ratios)),
        ),
    )


def _solve(parts: _ExpertStep, weight: Array) -> Array:
    """The `EXPERTS` that bring predictions nearest; rows of weight 0 take no part."""

    def residual(x: Array) -> Array:
        return np.asarray(np.log(_predict(x, parts) / parts.measured) * np.sqrt(weight))

    return solve(residual, EXPERTS)


def _predict(x: Array, parts: _ExpertStep) -> Array:
    share, fp8, fp4 = x
    slowdown = np.where(parts.fp4, fp4, fp8)
    return np.asarray(parts.others + parts.launch + parts.busy * slowdown + share * parts.prefill)


def _known_experts(case: Case, scene: Scene) -> tuple[float, float, float, float]:
    """Seconds of all but the experts, of their launches, of their work in 8 bits, of prefill."""
    calibration = scene.machine.calibration
    linear = {k: v for k, v in calibration.linear.items() if not k.endswith("_experts")}
    bf16_launch = calibration.linear_fit("bf16").launch_seconds
    plain = replace(calibration.linear_fit("fp8"), launch_seconds=bf16_launch)
    grouped = {f"{dtype}_experts": plain for dtype in ("fp8", "fp4")}
    machine = replace(scene.machine, calibration=replace(calibration, linear={**linear, **grouped}))
    work = Pass(batch=scene.batch, ctx=scene.ctx)
    ops = forward(scene.target, scene.layout, work)
    experts = [op for op in ops if op.grouped]
    host = calibration.host.pass_seconds(scene.batch, scene.batch)
    launch = sum(float(np.max(op.count)) for op in experts) * plain.launch_seconds
    apart = float(np.max(step_cost(experts, machine).seconds))
    whole = float(np.max(step_cost(ops, machine, host).seconds))
    return whole - apart, launch, apart - launch, prefill_of(case, scene)
