"""A GPU without a table of kernels: one slowdown against a relative's, from published steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import minimize_scalar

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration, Residual
from magicplan.replay.outcomes import replay_with
from magicplan.replay.published import Case
from tools.stack_constants.evidence import evidence
from tools.stack_constants.stack_fit import LEAST_STEP, MIN_CASES, set_of

Form = TypeVar("Form")


def fit_slowdown(
    cases: list[Case], relative: Calibration
) -> tuple[float, Residual, dict[str, Any]]:
    """The factor on all kernel times of `relative` that brings published steps nearest, the
    spread it leaves, and what it rests on. Raises UsageError for too few."""
    if len(cases) < MIN_CASES:
        raise UsageError(f"{len(cases)} published steps, the fit needs {MIN_CASES}")

    def logs(factor: float) -> Any:
        steps = [o for o in replay_with(cases, slowed(relative, factor)) if o.kind == "step"]
        return np.asarray([math.log(o.predicted / o.measured) for o in steps])

    found = minimize_scalar(
        lambda f: float(np.abs(logs(f)).mean()), bounds=(0.5, 4), method="bounded"
    )
    left = logs(found.x)
    low, high = np.exp(np.percentile(-left, [10, 90]))
    basis = f"measured over fitted, {len(cases)} published steps, one slowdown fitted"
    return (
        float(found.x),
        Residual(
            low=min(float(low), LEAST_STEP[0]), high=max(float(high), LEAST_STEP[1]), basis=basis
        ),
        evidence(
            "every kernel",
            ("one slowdown",),
            [c.source for c in cases],
            [set_of(c) for c in cases],
            np.exp(left),
            held_out=False,
        ),
    )


def slowed(found: Calibration, factor: float) -> Calibration:
    """A calibration with every kernel `factor` times as long; the host keeps its pace."""
    host = replace(found.host, kernel_seconds=found.host.kernel_seconds * factor)
    return replace(
        found,
        linear={k: _slowed(f, factor) for k, f in found.linear.items()},
        experts={k: _slowed(f, factor) for k, f in found.experts.items()},
        prefill={k: _slowed(f, factor) for k, f in found.prefill.items()},
        attention={k: _slowed(f, factor) for k, f in found.attention.items()},
        collective=_slowed(found.collective, factor),
        host=host,
    )


def _slowed(form: Form, factor: float) -> Form:
    """Launches multiplied, efficiencies divided, never above the datasheet."""
    changed = {}
    for name in form.__dataclass_fields__:  # type: ignore[attr-defined]
        value = getattr(form, name)
        if name.endswith("_seconds"):
            changed[name] = value * factor
        elif name.endswith("_efficiency") and math.isfinite(value):
            changed[name] = min(value / factor, 1.0)
        elif name == "activation_passes":
            changed[name] = value * factor
    return replace(form, **changed)  # type: ignore[type-var]
