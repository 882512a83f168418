"""Calibrations from TOML files, every field checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from magicplan.fields import Table, read_toml
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    ExpertFit,
    HostFit,
    LinearFit,
    PrefillFit,
    Residual,
)

MORE_RESIDUALS = ("experts_residual", "first_token_residual", "experts_first_token_residual")
CALIBRATIONS = Path(__file__).parent / "calibrations"
"""Calibrations that ship."""
Fit = TypeVar("Fit")


def as_toml(data: dict[str, Any]) -> Calibration:
    """A calibration from TOML's tables. Raises SpecError with the field."""
    return _calibration(Table(data=data, file=str(data.get("name", "calibration"))))


def read(path: Path) -> Calibration:
    """A calibration file. Raises SpecError with the file, the line and the field."""
    return _calibration(read_toml(path))


def _calibration(table: Table) -> Calibration:
    for entry in table.tables("evidence"):
        entry.get("part", str)
    return Calibration(
        name=table.get("name", str),
        origin=table.get("origin", str),
        step_residual=table.table("step_residual", {}).record(Residual),
        speedup_residual=table.table("speedup_residual", {}).record(Residual),
        **{
            name: table.table(name).record(Residual)
            for name in MORE_RESIDUALS
            if name in table.data
        },
        linear=_by_dtype(table, "linear", LinearFit),
        experts=_by_dtype(table, "experts", ExpertFit),
        prefill=_by_dtype(table, "prefill", PrefillFit),
        attention=_by_dtype(table, "attention", AttentionFit),
        layers=_by_dtype(table, "layers", LinearFit),
        accelerator=table.get("accelerator", str, ""),
        collective=table.table("collective", {}).record(CollectiveFit),
        host=table.table("host", {}).record(HostFit),
        evidence=tuple(dict(entry.data) for entry in table.tables("evidence")),
    )


def _by_dtype(table: Table, key: str, kind: type[Fit]) -> dict[str, Fit]:
    """One fit for each number format, or for each kind of layer."""
    part = table.table(key, {})
    return {dtype: part.table(dtype).record(kind) for dtype in part.data}
