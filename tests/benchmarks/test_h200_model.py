"""The H200 study, rehearsed on tiny models: every path of the script, and no number that counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "h200_model.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="benchmarks are not installed")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("torch")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_the_study_over_two_calls_and_its_tables(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    first = call("--rehearse", "--out", str(out), "--seconds", "3.5")
    assert first.returncode == 0, first.stderr
    begun = out.read_bytes()

    second = call("--rehearse", "--out", str(out))
    assert second.returncode == 0, second.stderr
    assert out.read_bytes().startswith(begun)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds.count("prediction") == 1
    assert kinds.index("prediction") < kinds.index("point")
    content = lines[kinds.index("prediction")]["content"]
    assert {p["id"] for p in content["points"]} == {p["id"] for p in lines if p["kind"] == "point"}
    origins = {s["acceptance_origin"] for s in content["suites"].values()}
    assert origins == {"simulated:0.85", "dialled:0.8"}
    point = content["points"][0]
    assert point["predicted"] != point["transfer"] != point["ideal"]

    table = call("--table", str(out))
    assert table.returncode == 0, table.stderr
    assert table.stdout == second.stdout
    assert table.stdout.startswith("REHEARSAL on a CPU")
    for title in ("Errors in %", "80 % interval", "Regret of", "adaptive tree", "Worst rows"):
        assert title in table.stdout


def test_without_a_gpu_it_says_what_it_would_run(tmp_path: Path) -> None:
    told = call("--out", str(tmp_path / "run.jsonl"))
    assert told.returncode == 1
    assert "no CUDA device: on one, this would measure" in told.stderr
    assert "8b trees: 12 workloads" in told.stderr
    assert not list(tmp_path.iterdir())
