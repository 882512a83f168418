"""Finding and reading calibrations: shipped ones by (accelerator, stack), a user's own by path."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError, UnknownName
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    HostFit,
    LinearFit,
    Residual,
)

STACKS = ("vllm", "sglang", "trtllm", "magicdec", "ideal")

# What `benchmarks/naive_roofline.py` prints: published steps take 1.44 to 2.41 times the naive
# roofline (20th and 80th percentile), and speedups reach .63 to .74 of the naive one. Until a
# calibration ships, this is all that is known of a stack.
IDEAL_STEP = Residual(
    low=1.0,
    high=2.41,
    basis="from the naive floor to the 80th percentile of 51 published steps (median 1.81 floors)",
)
IDEAL_SPEEDUP = Residual(
    low=0.63,
    high=1.0,
    basis="times from the 20th percentile of 34 MagicDec speedups (median .68 of naive) to naive",
)


def ideal() -> Calibration:
    """The naive roofline: all efficiencies 1, all constants 0."""
    return Calibration(
        name="ideal",
        origin="datasheet peaks",
        step_residual=IDEAL_STEP,
        speedup_residual=IDEAL_SPEEDUP,
    )


def calibration_for(accelerator: Accelerator, stack: str) -> tuple[Calibration, str]:
    """The calibration of a stack on an accelerator, and a sentence on what it rests on.

    `stack` is a name of `STACKS`, a name with a version as in "vllm@0.19.0", or a TOML's path.
    """
    if stack.endswith(".toml") or "/" in stack:
        found = read(Path(stack))
        return found, f"calibration {found.name} of {stack}: {found.origin}"
    name, _, version = stack.partition("@")
    if name not in STACKS:
        raise UnknownName("stack", name, STACKS, f"known: {', '.join(STACKS)}, or a path to a TOML")
    if name == "ideal":
        return ideal(), "calibration ideal: datasheet peaks, no launch or host time"
    shipped = Path(__file__).parent / "calibrations"
    newest = sorted(
        entry.name
        for entry in shipped.glob("*.toml")
        if entry.name.startswith(f"{accelerator.name}_{name}_{version}")
    )
    if newest:
        found = read(shipped / newest[-1])
        return found, f"calibration {found.name}: {found.origin}"
    return ideal(), (
        f"calibration ideal: none ships for {stack} on {accelerator.name}, so times are datasheet "
        "floors and real steps take longer"
    )


def read(path: Path) -> Calibration:
    """A calibration file. Raises SpecError with the file and the field."""
    try:
        return _build(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None


def _build(where: str, data: dict[str, Any]) -> Calibration:
    return Calibration(
        name=_text(where, data, "name"),
        origin=_text(where, data, "origin"),
        step_residual=_part(where, data, "step_residual", Residual),
        speedup_residual=_part(where, data, "speedup_residual", Residual),
        linear=_by_dtype(where, data, "linear", LinearFit),
        attention=_by_dtype(where, data, "attention", AttentionFit),
        collective=_part(where, data, "collective", CollectiveFit),
        host=_part(where, data, "host", HostFit),
    )


def _text(where: str, data: dict[str, Any], key: str) -> str:
    if not isinstance(data.get(key), str):
        raise SpecError(where, f"{key} is missing, expected a text")
    return str(data[key])


def _by_dtype(where: str, data: dict[str, Any], key: str, kind: type[Any]) -> dict[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise SpecError(where, f"{key} is not a table of dtypes")
    return {dtype: _part(where, table, dtype, kind) for dtype in table}


def _part(where: str, data: dict[str, Any], key: str, kind: type[Any]) -> Any:
    table = data.get(key, {})
    known = {entry.name: entry for entry in fields(kind)}
    if not isinstance(table, dict) or (unknown := set(table) - set(known)):
        raise SpecError(
            where,
            f"[{key}] takes {', '.join(known)}"
            + (f", not {', '.join(sorted(unknown))}" if isinstance(table, dict) else ""),
        )
    for name, value in table.items():
        wanted = str if name == "basis" else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SpecError(where, f"{key}.{name} is {value!r}, expected a number")
    try:
        return kind(**table)
    except TypeError:
        raise SpecError(where, f"[{key}] needs {', '.join(known)}") from None
