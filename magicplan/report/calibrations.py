"""What `calibrate` fitted as a page: constants and errors of kernel tables, or of this device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from magicplan.calibrate.device_fit import DeviceFit
from magicplan.calibrate.groups import Group
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.report.document.page import Bullets, Grid, Page, Section
from magicplan.report.document.parts import rests_on
from magicplan.report.document.record import Record
from magicplan.units import human_rate, show

SCHEMA = "magicplan.calibration/1"
ERRORS = ("mape", "p95", "bias")


def page(found: Record) -> Page:
    """The JSON of `magicplan calibrate`, of tables or of a device."""
    return _groups(found) if "groups" in found.data else _device(found)


def _groups(found: Record) -> Page:
    """Errors on held-out halves beside the naive roofline, and what was refused."""
    groups = found.records("groups")
    parts = [(g.text("name"), part, g.record("parts").record(part))
             for g in groups for part in g.record("parts").data]  # fmt: skip
    rows = tuple(
        (
            name,
            part,
            f"{fit.record('held_out_percent').number('rows'):,.0f}",
            *(_percent(fit.record("held_out_percent").maybe(key), key) for key in ERRORS),
            _percent(fit.record("naive_percent").maybe("mape"), "mape"),
        )
        for name, part, fit in parts
    )
    columns = ("calibration", "part", "rows", "MAPE", "p95", "bias", "naive")
    note = "Errors are those of rows that a fit on the other half did not see."
    sections = [Section(title="Errors", blocks=(Grid(columns=columns, rows=rows, note=note),))]
    refused = [
        f"{g.text('name')}, {part}: {g.record('refused').text(part)}"
        for g in groups
        for part in g.record("refused").data
    ]
    if refused:
        sections.append(Section(title="Not fitted", blocks=(Bullets(lines=tuple(refused)),)))
    return Page(
        title="Calibrations fitted to kernel tables",
        verdict=f"{len(rows)} parts of {len(groups)} calibrations were fitted, {len(refused)} not.",
        sections=tuple(sections),
    )


def _percent(value: float | None, key: str) -> str:
    return "–" if value is None else f"{value:+.1f} %" if key == "bias" else f"{value:.1f} %"


def _device(found: Record) -> Page:
    """Constants, a row each, and the errors of the fit on its own steps."""
    calibration, errors = found.record("calibration"), found.record("fit_percent")
    groups = [
        (f"{part} {dtype}", calibration.record(part).record(dtype))
        for part in ("linear", "attention")
        for dtype in calibration.record(part).data
    ]
    rows = tuple(
        (title, *_constant(name, value))
        for title, constants in (*groups, ("host", calibration.record("host")))
        for name, value in constants.items()
    )
    peaks = ", ".join(
        f"{dtype} {(peak or 0) / 1e9:.0f} GFLOP/s"
        for dtype, peak in found.record("dense_flops_per_s").items()
    )
    passes = ", ".join(
        f"{tokens}: {value or 0:.2f}" for tokens, value in found.record("verify_kv_passes").items()
    )
    title = found.text("title", found.text("accelerator"))
    fitted = (
        f"errors on the {errors.number('rows'):.0f} steps it was fitted on: MAPE "
        f"{errors.number('mape'):.1f} %, p95 {errors.number('p95'):.1f} %"
    )
    return Page(
        title=f"Calibration of {title}",
        verdict=f"{len(rows)} constants fitted; {fitted}.",
        sections=(
            Section(title="Constants", blocks=(Grid(columns=("part", "constant", "value"),
                                                    rows=rows, prose=True),)),
            rests_on((
                f"{title}: {human_rate(found.positive('memory_bytes_per_s'))}, {peaks}",
                f"attention over that of one query token: {passes}",
                f"fitted on {calibration.text('origin')}",
            )),
        ),
    )  # fmt: skip


def _constant(name: str, value: float | None) -> tuple[str, str]:
    if name.endswith("_seconds"):
        return name.removesuffix("_seconds"), show(value, "seconds")
    return name, "–" if value is None else f"{value:.3g}"


def groups_as_dict(groups: list[Group]) -> dict[str, Any]:
    """The JSON of fitted kernel tables, with the constants."""
    return {
        "schema": SCHEMA,
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


def device_as_dict(accelerator: Accelerator, fitted: DeviceFit) -> dict[str, Any]:
    """The JSON of a fitted device."""
    return {
        "schema": SCHEMA,
        "accelerator": accelerator.name,
        "title": accelerator.title,
        "memory_bytes_per_s": accelerator.memory_bytes_per_s,
        "dense_flops_per_s": dict(accelerator.dense_flops_per_s),
        "calibration": fitted.calibration,
        "fit_percent": asdict(fitted.errors),
        "verify_kv_passes": {str(k): v for k, v in fitted.kv_passes.items()},
    }
