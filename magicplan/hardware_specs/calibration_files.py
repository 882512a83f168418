"""Reading calibrations: TOML, every field checked."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    HostFit,
    LinearFit,
    Residual,
)

CALIBRATIONS = Path(__file__).parent / "calibrations"
"""Those that ship."""


def as_toml(data: dict[str, Any]) -> Calibration:
    """A calibration from TOML's tables. Raises SpecError with the field."""
    return _build(str(data.get("name", "calibration")), data)


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
        accelerator=_text(where, data, "accelerator") if "accelerator" in data else "",
        collective=_part(where, data, "collective", CollectiveFit),
        host=_part(where, data, "host", HostFit),
        evidence=_evidence(where, data),
    )


def _evidence(where: str, data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    found = data.get("evidence", [])
    told = isinstance(found, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("part"), str) for entry in found
    )
    if not told:
        raise SpecError(where, "evidence is not a list of tables that each name their part")
    return tuple(found)


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
