"""What a calibration's constants rest on, a line a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def evidence_line(entry: Mapping[str, Any]) -> str:
    """Rows, where they are from, and the errors left, of one table of `Calibration.evidence`."""
    source = entry.get("from", "")
    source = source if isinstance(source, str) else "; ".join(source)
    text = f"{entry['part']}: {entry.get('rows', 0)} rows" + (f" of {source}" if source else "")
    if constants := entry.get("constants"):
        text += f" for {', '.join(name.split('.')[-1] for name in constants)}"
    middle = next((k for k in ("median_percent", "mape_percent") if k in entry), None)
    if middle:
        basis = "held out" if entry.get("held_out", True) else "in sample"
        text += f"; {middle.split('_')[0].replace('mape', 'mean')} error {entry[middle]:.1f} %, "
        text += f"95th percentile {entry['p95_percent']:.1f} %, {basis}"
    if says := entry.get("says"):
        text += f"; {says}"
    return text
