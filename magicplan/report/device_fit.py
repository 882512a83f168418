"""What `calibrate --device` measured and fitted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from magicplan.calibrate.device_fit import DeviceFit
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.report.document.terminal import notes, table
from magicplan.units import human_rate, human_seconds


def render(accelerator: Accelerator, fitted: DeviceFit, console: Console) -> None:
    """Constants, a row each, and the errors of the fit on its own steps."""
    grid = table("part", "constant", "value")
    for part in ("linear", "attention"):
        for dtype, constants in fitted.calibration[part].items():
            for name, value in constants.items():
                grid.add_row(f"{part} {dtype}", *_constant(name, value))
    for name, value in fitted.calibration["host"].items():
        grid.add_row("host", *_constant(name, value))
    console.print(grid)
    e = fitted.errors
    peaks = ", ".join(
        f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in accelerator.dense_flops_per_s.items()
    )
    passes = ", ".join(f"{k}: {v:.2f}" for k, v in fitted.kv_passes.items())
    lines = [
        f"{accelerator.title}: {human_rate(accelerator.memory_bytes_per_s)}, {peaks}",
        f"errors on the {e.rows} steps it was fitted on: MAPE {e.mape:.1f} %, p95 {e.p95:.1f} %",
        f"attention over that of one query token: {passes}",
        f"fitted on {fitted.calibration['origin']}",
    ]
    notes(console, "Rests on", lines)


def _constant(name: str, value: float) -> tuple[str, str]:
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds"), human_seconds(value)
    return name, f"{value:.3g}"


def as_dict(accelerator: Accelerator, fitted: DeviceFit) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "schema": "magicplan.calibration/1",
        "accelerator": accelerator.name,
        "memory_bytes_per_s": accelerator.memory_bytes_per_s,
        "dense_flops_per_s": dict(accelerator.dense_flops_per_s),
        "calibration": fitted.calibration,
        "fit_percent": asdict(fitted.errors),
        "verify_kv_passes": {str(k): v for k, v in fitted.kv_passes.items()},
    }
