"""What kernels leave out, by serving stack, as `stacks.toml` holds it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.hardware_specs.calibration import LinearFit


def stack_constants(stack: str) -> dict[str, Any]:
    """Host constants and residuals of a serving stack, as a calibration file holds them."""
    kept = ("host", "step_residual", "speedup_residual")
    return {k: v for k, v in _stack(stack).items() if k in kept}


def stack_evidence(stack: str) -> list[dict[str, Any]]:
    """What a serving stack's constants rest on, a table a group of them."""
    return list(_stack(stack).get("evidence", []))


def engine_fits(stack: str, fp8: LinearFit, bf16: LinearFit, *, fp4: bool) -> dict[str, LinearFit]:
    """Linear layers that no public table holds, by the slowdown against 8-bit ones that published
    runs of whole engines show: those in 4 bits, and grouped products of experts."""
    found, seen = _stack(stack), {}
    if fp4 and found.get("fp4"):
        seen["fp4"] = _slower(fp8, bf16, found["fp4"]["launch_seconds"], found["fp4"]["slowdown"])
    for dtype in ("fp8", "fp4") if fp4 else ("fp8",):
        slowdown = found.get("experts", {}).get(f"{dtype}_slowdown")
        if slowdown:
            seen[f"{dtype}_experts"] = _slower(fp8, bf16, 0.0, slowdown)
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
