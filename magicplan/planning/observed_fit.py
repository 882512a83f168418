"""The host times that explain a benchmark run, as a calibration of one's own."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

from magicplan.hardware_specs.calibration import Calibration
from magicplan.planning.observed_fields import ObservedRun
from magicplan.planning.serving_run import Expected, Run, expect
from magicplan.roofline.timing import Machine

LONGEST_HOST = 0.5
"""Seconds of host time a step beyond which no fit looks."""


def fitted(run: Run, before: Expected, seen: ObservedRun) -> Machine:
    """The machine whose host time a step makes the time per token agree, and whose host time a
    request makes the time to first token agree; neither below none."""
    target = "tpot_mean_seconds" if "tpot_mean_seconds" in seen.figures else "e2e_mean_seconds"
    if target not in seen.figures:
        target = "requests_per_s"
    wanted = seen.figures[target]
    low, high = 0.0, LONGEST_HOST
    for _ in range(40):
        middle = (low + high) / 2
        found = expect(run, _with_host(before, middle)).figures()[target]
        slow = found < wanted if target == "requests_per_s" else found > wanted
        low, high = (low, middle) if slow else (middle, high)
    stepping = _with_host(before, low)
    if "ttft_mean_seconds" not in seen.figures:
        return stepping
    known = stepping.calibration.host.request_seconds
    beside = seen.figures["ttft_mean_seconds"] - expect(run, stepping).ttft_seconds
    return _with_host(before, low, max(known + beside, 0.0))


def _with_host(
    before: Expected, step_seconds: float, request_seconds: float | None = None
) -> Machine:
    machine = before.resolved.machine
    host = replace(machine.calibration.host, step_seconds=step_seconds)
    if request_seconds is not None:
        host = replace(host, request_seconds=request_seconds)
    part = machine.accelerator.name
    return Machine(
        accelerator=machine.accelerator,
        calibration=replace(
            machine.calibration,
            name=f"{machine.calibration.name} fitted on {part}",
            accelerator=part,
            host=host,
            origin=f"{machine.calibration.origin}; host times fitted to one benchmark run",
        ),
    )


def calibration_toml(calibration: Calibration) -> str:
    """The calibration as the TOML that `--stack PATH` reads."""
    lines = [
        f"{key} = {_quoted(getattr(calibration, key))}" for key in ("name", "origin", "accelerator")
    ]
    tables: list[tuple[str, object]] = [
        ("step_residual", calibration.step_residual),
        ("speedup_residual", calibration.speedup_residual),
        *((f"linear.{dtype}", fit) for dtype, fit in calibration.linear.items()),
        *((f"attention.{dtype}", fit) for dtype, fit in calibration.attention.items()),
        *((f"draft_attention.{dtype}", fit) for dtype, fit in calibration.draft_attention.items()),
        ("collective", calibration.collective),
        ("host", calibration.host),
    ]
    for name, part in tables:
        lines.append(f"\n[{name}]")
        for key, value in asdict(part).items():  # type: ignore[call-overload]
            text = _quoted(value) if isinstance(value, str) else _toml_number(value)
            lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _toml_number(value: float) -> str:
    return "inf" if math.isinf(value) else repr(float(value))
