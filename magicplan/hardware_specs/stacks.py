"""What kernels leave out, by serving stack, as `stacks.toml` holds it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.hardware_specs.calibration import LinearFit
from magicplan.hardware_specs.calibration_files import MORE_RESIDUALS


def stack_constants(stack: str) -> dict[str, Any]:
    """Host constants and residuals of a serving stack, as a calibration file holds them."""
    kept = ("host", "step_residual", "speedup_residual", *MORE_RESIDUALS)
    return {k: v for k, v in _stack(stack).items() if k in kept}


def stack_evidence(stack: str) -> list[dict[str, Any]]:
    """What a serving stack's constants rest on, a table a group of them."""
    return list(_stack(stack).get("evidence", []))


def engine_fits(stack: str, fp8: LinearFit, bf16: LinearFit, *, fp4: bool) -> dict[str, LinearFit]:
    """Linear layers in 4 bits, by the slowdown against 8-bit ones that published runs of whole
    engines show."""
    found, seen = _stack(stack), {}
    if fp4 and found.get("fp4"):
        seen["fp4"] = _slower(fp8, bf16, found["fp4"]["launch_seconds"], found["fp4"]["slowdown"])
    return seen


def _slower(fp8: LinearFit, bf16: LinearFit, launch: float, slowdown: float) -> LinearFit:
    """Launched as 16-bit layers are: engines fuse quantisation into the kernel before."""
    return replace(
        fp8,
        launch_seconds=bf16.launch_seconds + launch,
        memory_efficiency=min(fp8.memory_efficiency / slowdown, 1.0),
        compute_efficiency=min(fp8.compute_efficiency / slowdown, 1.0),
    )


@cache
def stack_tables() -> dict[str, Any]:
    """What kernels leave out, by stack, as `stacks.toml` holds it."""
    return tomllib.loads((Path(__file__).parent / "stacks.toml").read_text(encoding="utf-8"))


def _stack(stack: str) -> dict[str, Any]:
    return dict(stack_tables().get(stack, {}))
