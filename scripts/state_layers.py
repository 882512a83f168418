"""Writes magicplan/hardware_specs/layers.toml: what recurrent layers take on a part under a stack.

Usage: python scripts/state_layers.py FOLDER, which holds linear_attention.parquet and kda.parquet
(kernel times of aiconfigurator, commit 095f58a, Apache-2.0). t = launch + bytes / (efficiency BW)
of the recurrence's rows outside L2, every second row held out; the causal convolution, a kernel of
its own, adds the median of its shortest quarter to the launch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tomli_w
from scipy.optimize import minimize

from magicplan import hardware_specs

OUT = Path(__file__).parents[1] / "magicplan" / "hardware_specs" / "layers.toml"
PARTS = {
    "a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm", "l40s": "l40s",
}  # fmt: skip
KINDS = {"gdn": "gated_delta", "kda": "kda"}
WHOLE = "fused_kda_decode"
"""One kernel for convolution, recurrence and norm."""
MIN_ROWS = 12


def rows(folder: Path) -> list[dict[str, Any]]:
    """Decode and verification rows of both tables that are no suspects."""
    tables = (pq.read_table(folder / name) for name in ("linear_attention.parquet", "kda.parquet"))
    kept = ("generation", "verify")
    return [
        row
        for table in tables
        for row in table.to_pylist()
        if row["phase"] in kept and not row["suspect"] and row["op"] in KINDS
    ]


def fits(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The newest version of each part, stack and kind whose recurrence was measured."""
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for gpu, stack, version, op in sorted(
        {(r["gpu"], r["framework"], r["version"], r["op"]) for r in found}, key=_order
    ):
        mine = [
            r for r in found
            if (r["gpu"], r["framework"], r["version"], r["op"]) == (gpu, stack, version, op)
        ]  # fmt: skip
        entry = _fit(mine, gpu)
        if entry:
            head = {"accelerator": PARTS[gpu], "stack": stack, "version": version}
            newest[gpu, stack, op] = head | {"layer": KINDS[op]} | entry
    yield from newest.values()


def _order(key: tuple[str, str, str, str]) -> tuple[object, ...]:
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in key[2].split(".")]
    return key[0], key[1], key[3], numbers


def _fit(mine: list[dict[str, Any]], gpu: str) -> dict[str, Any] | None:
    recurrences = {r["kernel_source"] for r in mine if r["state_traffic_bytes"]}
    if not recurrences:
        return None
    chosen = [r for r in mine if r["kernel_source"] == WHOLE] or [
        r for r in mine if r["kernel_source"] in recurrences and "mtp" not in r["kernel_source"]
        and r["kernel_source"] != "kda_fused_decode"
    ]  # fmt: skip
    clean = [r for r in chosen if not r["l2_risk"] and r["state_traffic_bytes"]]
    if len(clean) < MIN_ROWS:
        return None
    rate = hardware_specs.load(PARTS[gpu]).memory_bytes_per_s
    ideal = np.array([r["state_traffic_bytes"] / rate for r in clean])
    measured = np.array([r["latency_us"] * 1e-6 for r in clean])
    fitted = np.arange(len(clean)) % 2 == 0

    def predict(p: np.ndarray) -> np.ndarray:
        return np.asarray(p[0] ** 2 * 1e-6 + ideal * (1 + np.exp(-p[1])))

    def loss(p: np.ndarray) -> float:
        return float(np.mean(np.log(predict(p)[fitted] / measured[fitted]) ** 2))

    best = minimize(loss, [2.0, 1.5], method="Nelder-Mead", options={"maxiter": 4000}).x
    off = np.abs(predict(best) / measured - 1)[~fitted]
    naive = (ideal / measured - 1)[~fitted]
    conv = [r["latency_us"] for r in mine if "conv1d" in r["kernel_source"]]
    whole = any(r["kernel_source"] == WHOLE for r in chosen)
    shortest = sorted(conv)[: max(len(conv) // 4, 1)]
    beside = 0.0 if whole or not conv else float(np.median(shortest)) * 1e-6
    return {
        "launch_seconds": float(f"{best[0] ** 2 * 1e-6 + beside:.3g}"),
        "memory_efficiency": float(f"{1 / (1 + np.exp(-best[1])):.3g}"),
        "rows": len(clean),
        "held_out_mean_error": float(f"{off.mean():.2g}"),
        "held_out_p95_error": float(f"{np.percentile(off, 95):.2g}"),
        "naive_bias": float(f"{naive.mean():.2g}"),
    }


def main() -> None:
    """Fit and write."""
    entries = list(fits(rows(Path(sys.argv[1]))))
    head = (
        "# Written by scripts/state_layers.py from kernel tables of aiconfigurator (Apache-2.0),\n"
        "# commit 095f58a: decode and verification of recurrent layers; errors of held-out rows.\n"
    )
    OUT.write_text(head + tomli_w.dumps({"fits": entries}), encoding="utf-8")
    for entry in entries:
        print(*entry.values())


if __name__ == "__main__":
    main()
