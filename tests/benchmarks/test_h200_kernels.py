"""The GPU benchmark's script, rehearsed on tiny shapes: cut, continued, printed from its data."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "h200_kernels.py"
SECTIONS = "ceiling,attention,tile,append,accept,linear"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are not installed")


def run(*words: str) -> str:
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_cut_run_continues_and_its_tables_come_from_the_data(tmp_path: Path) -> None:
    path = tmp_path / "kernels.jsonl"
    run("--rehearse", "--out", str(path), "--only", "ceiling,attention")
    whole = path.read_text()
    path.write_text(whole[:-30])
    last = json.loads(whole.splitlines()[-1])["point"]
    printed = run("--rehearse", "--out", str(path), "--only", SECTIONS)
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    points = [json.dumps(r["point"]) for r in rows if r["point"]["section"] in SECTIONS]
    assert len(points) == len(set(points))
    assert json.dumps(last) in points
    assert {r["point"]["section"] for r in rows} >= set(SECTIONS.split(","))
    assert "CPU rehearsal: not a measurement" in printed
    assert "Attention, one layer" in printed
    assert run("--table", str(path)) == printed
    errors = [r["error"] for r in rows if "error" in r]
    assert errors
    assert max(errors) < 1e-4


@pytest.mark.parametrize(("micros", "verdict"), [(110.0, "met"), (130.0, "MISSED")])
def test_aims_are_judged_by_their_worst_row(micros: float, verdict: str) -> None:
    """1 GB of KV at a copy rate of 10 TB/s: 100 µs are all of it; 110 are 0.91, 130 are 0.77."""
    shape = {"ctx": 32768, "group": 4, "kv_heads": 8, "dim": 128, "page": 64, "backend": "triton"}
    rows: list[dict[str, Any]] = [
        {"point": {"section": "ceiling", "what": "copy"}, "seconds": 1e-3, "bytes_per_s": 1e13}
    ]
    for batch, seconds in ((8, 101e-6), (16, micros * 1e-6)):
        point = {"section": "attention", "batch": batch, "tokens": 1, **shape}
        rate = 1e9 / seconds
        row = {"point": point, "seconds": seconds, "kv_bytes": 1e9, "kv_bytes_per_s": rate}
        rows.append(row | {"error": 1e-3})
    printed = runpy.run_path(str(SCRIPT.with_name("gpu_tables.py")))["tables"](rows)
    (line,) = [line for line in printed.splitlines() if ">= 0.85" in line]
    assert verdict in line
    assert "batch 16" in line


def test_without_a_gpu_nothing_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == ""
    assert "no CUDA GPU" in done.stderr
