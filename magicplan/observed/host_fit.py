"""The host times that explain a benchmark run, as a calibration of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from magicplan.hardware_specs.calibration import Calibration
from magicplan.observed.run import ObservedRun
from magicplan.roofline.timing import Machine
from magicplan.serving.benchmark_run import Expected, Run, expect

LONGEST_HOST = 0.5
"""Seconds of host time a step beyond which no fit looks."""


def fitted(run: Run, before: Expected, seen: ObservedRun) -> Machine:
    """The machine whose host time a step makes the time per token agree, and whose host time a
    request makes the time to first token agree; neither below none."""
    target = "tpot_mean_seconds" if "tpot_mean_seconds" in seen.figures else "e2e_mean_seconds"
    if target not in seen.figures:
        target = "requests_per_s"
    wanted = seen.figures[target]

    def slower(step_seconds: float) -> float:
        found = expect(run, _with_host(before, step_seconds)).figures()[target]
        return wanted - found if target == "requests_per_s" else found - wanted

    low = _where_zero(slower, LONGEST_HOST)
    stepping = _with_host(before, low)
    if "ttft_mean_seconds" not in seen.figures:
        return stepping
    known = stepping.calibration.host.request_seconds
    beside = seen.figures["ttft_mean_seconds"] - expect(run, stepping).ttft_seconds
    return _with_host(before, low, max(known + beside, 0.0))


def _where_zero(rising: Callable[[float], float], most: float) -> float:
    """The zero of a rising function between 0 and `most`, or the end that is nearer to it."""
    from scipy.optimize import brentq

    if rising(0.0) >= 0:
        return 0.0
    return most if rising(most) <= 0 else float(brentq(rising, 0.0, most, xtol=1e-6, rtol=1e-4))


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
    import tomli_w

    return tomli_w.dumps(_stated(asdict(calibration) | {"evidence": None}))


def _stated(table: dict[str, Any]) -> dict[str, Any]:
    """A table without what is None, which TOML cannot say."""
    return {
        key: _stated(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
