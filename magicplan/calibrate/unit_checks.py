"""Times that no kernel takes: rows in another unit than their table's, named one by one.

A table that beats the datasheet by little is a matter of the fit; a time a thousand times too short
or too long was written in another unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from magicplan.calibrate.kernel_fit import attention_seconds_of, linear_seconds_of
from magicplan.calibrate.kernel_tables import Columns, KernelTables, where
from magicplan.errors import SpecError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import Machine
from magicplan.units import human_seconds

SHORTEST = 0.5e-6
"""Seconds. The public tables' shortest kernel takes 2.0 us."""
LAUNCH = 10e-6
LONGEST = 200.0
"""Times a launch and the datasheet's floor. Their slowest believed row takes 97 times that."""
FORMATS = ("bf16", "fp8")


def check_units(rows: KernelTables, accelerator: Accelerator) -> None:
    """Raise SpecError naming file, row and column of the first time in another unit."""
    machine = Machine(accelerator=accelerator, calibration=ideal())
    for table, floor in _floors(rows, machine):
        seconds = table["seconds"]
        long = seconds > LONGEST * (floor + LAUNCH)
        bad = long | (seconds < SHORTEST)
        if not bad.any():
            continue
        at = int(bad.argmax())
        path = Path(table["file"][at])
        column = "latency" if "_perf" in path.name else "latency_us"
        limit = LONGEST * (float(floor[at]) + LAUNCH) if long[at] else SHORTEST
        raise SpecError(
            path,
            f"row {table['row'][at]}, column {column}: {human_seconds(float(seconds[at]))} is "
            f"{'above' if long[at] else 'below'} the {human_seconds(limit)} that such a kernel "
            f"takes at {'most' if long[at] else 'least'}; is it in another unit?",
        )


def _floors(rows: KernelTables, machine: Machine) -> Iterator[tuple[Columns, Array]]:
    """Every table with its times at the datasheet's rates."""
    for dtype in FORMATS:
        if rows.linear:
            chosen = where(rows.linear, rows.linear["dtype"] == dtype)
            yield chosen, linear_seconds_of(chosen, machine, dtype)
        if rows.attention:
            chosen = where(rows.attention, rows.attention["kv_dtype"] == dtype)
            yield chosen, attention_seconds_of(chosen, machine, dtype)
    for chosen in (rows.collective, rows.eager):
        if chosen:
            link = machine.link_bytes_per_s(chosen["num_gpus"])
            yield chosen, np.asarray(2 * chosen["bytes"] / link)
