"""Kernels compiled for GPUs that are not here: no spills, and what the tile table promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PROGRAM_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10}
"""Shared memory a program may have (CUDA C++ programming guide, compute capabilities)."""
SM_BYTES = {80: 164 << 10, 86: 100 << 10, 90: 228 << 10, 100: 228 << 10}
RESERVED_BYTES = 1 << 10
"""What the driver takes of every program's share."""
REGISTERS = 65_536
"""Of a multiprocessor."""


@pytest.fixture(scope="module")
def usages(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        pytest.skip("triton is not installed")
    if not (Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this build of triton ships no cuobjdump")
    cache = str(tmp_path_factory.mktemp("triton"))
    environment = os.environ | {"TRITON_CACHE_DIR": cache, "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.cross_compile"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_architecture_was_compiled(usages: list[dict[str, Any]]) -> None:
    assert {u["arch"] for u in usages} == {80, 86, 90, 100}
    assert {u["rows"] for u in usages if "rows" in u} == {16, 32, 64}


def test_nothing_spills(usages: list[dict[str, Any]]) -> None:
    assert [u for u in usages if u["stack"] or u["local"]] == []


def test_shared_memory_is_within_a_programs(usages: list[dict[str, Any]]) -> None:
    assert [u for u in usages if u["shared"] > PROGRAM_BYTES[u["arch"]]] == []


def test_as_many_programs_are_resident_as_the_table_says(usages: list[dict[str, Any]]) -> None:
    for usage in usages:
        if "resident" in usage:
            shared = usage["resident"] * (usage["shared"] + RESERVED_BYTES)
            assert shared <= SM_BYTES[usage["arch"]], usage
            # registers are dealt to a warp in portions of 8 a thread
            registers = -(-usage["registers"] // 8) * 8 * 32 * usage["warps"]
            assert usage["resident"] * registers <= REGISTERS, usage


def test_compaction_waits_between_reading_and_writing(usages: list[dict[str, Any]]) -> None:
    (compact,) = [u for u in usages if u["kernel"] == "compact"]
    assert compact["barriers"] >= 1
