"""This device as the predicting side knows machines, and as TOMLs for `--gpu` and `--stack`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import tomli_w

from magicplan.calibrate.groups import write
from magicplan.errors import UnknownName, UsageError
from magicplan.fields import Table
from magicplan.hardware_specs import identify
from magicplan.hardware_specs.accelerator import Accelerator, accelerator_from
from magicplan.validate.run_file import RecordedRun


def accelerator_data(device: Mapping[str, Any], ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """This device as an accelerator's TOML: peaks measured here, best of three."""
    cpu = device["device"] == "cpu"
    peaks = {k: float(f"{v:.4g}") for k, v in ceilings["matrix_flops_per_s"].items()}
    peak = max(ceilings["read_bytes_per_s"], ceilings["copy_bytes_per_s"])
    name = re.sub(r"[^a-z0-9]+", "-", str(device["name"]).lower()).strip("-")
    data: dict[str, Any] = {
        "name": f"measured-{name}" + (f"-{device['threads']}t" if cpu else ""),
        "title": f"{device['name']}, peaks measured",
        "architecture": "cpu" if cpu else "measured",
        "units": device["threads"] if cpu else device.get("units") or 1,
        "unit_kind": "thread" if cpu else "SM",
        "memory_bytes": float(device["memory_bytes"]),
        "memory_bytes_per_s": float(f"{peak:.4g}"),
        "dense_flops_per_s": peaks,
        "sources": [
            {
                "title": f"stream and matrix product measured by magicplan {device['magicplan']}",
                "url": "",
                "seen": date.fromisoformat(str(device["started"])[:10]),
            }
        ],
    }
    if cache := device.get("last_level_cache_bytes"):
        data["l2_bytes"] = float(cache)
    if sums := ceilings.get("all_reduce"):
        data["link"] = _link(sums, int(ceilings["ranks"]))
    return data


def _link(sums: Sequence[Sequence[float]], ranks: int) -> dict[str, Any]:
    """The best rate at which a rank sent its part of a sum: 2 (N - 1) / N of the message."""
    rate = max(2 * (ranks - 1) / ranks * size / seconds for size, seconds in sums)
    return {"type": "measured", "domain": ranks, "bytes_per_s": float(f"{rate:.4g}")}


def accelerator_of(device: Mapping[str, Any], ceilings: Mapping[str, Any]) -> Accelerator:
    """The datasheet of a GPU that carries this driver name, else what was measured."""
    if device["device"] != "cpu":
        try:
            return identify(str(device["name"]))
        except UnknownName:
            pass
    return accelerator_from(
        Table(data=accelerator_data(device, ceilings), file="the measured device")
    )


def write_tomls(
    folder: Path, run: RecordedRun, calibration: dict[str, Any] | None = None
) -> list[Path]:
    """The TOMLs of a run; of a GPU that has a datasheet, the calibration alone.

    Raises UsageError where they cannot be written.
    """
    if calibration is None:
        assert run.prediction is not None
        calibration = run.prediction["content"]["calibration"]
    paths = write(folder, [calibration])
    data = accelerator_data(run.header["device"], run.peaks())
    if not calibration["name"].startswith(data["name"]):
        return paths
    accelerator_from(Table(data=data, file=data["name"]))
    try:
        path = folder / f"{data['name']}.toml"
        path.write_text(tomli_w.dumps(data), encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{folder}: cannot be written ({problem.strerror})") from None
    return [*paths, path]
