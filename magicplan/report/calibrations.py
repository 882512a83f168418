"""What `calibrate` fitted: constants and errors, a row a part."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from magicplan.calibrate.groups import Group
from magicplan.report.document.terminal import notes, table


def render(groups: list[Group], console: Console) -> None:
    """Errors on held-out halves beside the naive roofline, and what was refused."""
    grid = table("calibration", "part", "rows", "MAPE", "p95", "bias", "naive")
    for group in groups:
        for part, fitted in group.fits.items():
            e = fitted.held_out
            grid.add_row(
                group.name,
                part,
                f"{e.rows:,}",
                f"{e.mape:.1f} %",
                f"{e.p95:.1f} %",
                f"{e.bias:+.1f} %",
                f"{fitted.naive.mape:.1f} %",
            )
    console.print(grid)
    console.print("Errors are those of rows that a fit on the other half did not see.")
    refused = [f"{g.name}, {part}: {why}" for g in groups for part, why in g.refused.items()]
    if refused:
        notes(console, "Not fitted", refused)


def as_dict(groups: list[Group]) -> dict[str, Any]:
    """The same as JSON, with the constants."""
    return {
        "schema": "magicplan.calibration/1",
        "groups": [
            {
                "name": group.name,
                "accelerator": group.accelerator.name,
                "stack": group.stack,
                "version": group.version,
                "parts": {
                    part: {
                        "constants": {k: _finite(v) for k, v in asdict(f.form).items()},
                        "held_out_percent": asdict(f.held_out),
                        "naive_percent": asdict(f.naive),
                        "rejected_rows": f.rejected,
                    }
                    for part, f in group.fits.items()
                },
                "refused": group.refused,
            }
            for group in groups
        ],
    }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
