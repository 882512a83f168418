"""How fast are the kernels on this GPU, against what the GPU can do and against torch's best path?

One call of under nine minutes on a bare machine with torch, triton and one CUDA GPU: the tests that
need a GPU, ceilings, attention, linear layers, RoPE with append, acceptance, then tiles to choose
from. A line of JSON is written as soon as a point is measured; a second call continues.

    python benchmarks/h200_kernels.py --out kernels.jsonl [--seconds 510] [--only attention,linear]
    python benchmarks/h200_kernels.py --table kernels.jsonl    reprints the tables from the data
    python benchmarks/h200_kernels.py --rehearse               tiny shapes in Triton's interpreter

Run from the root of the checkout. The points are in gpu_points.py, the tables in gpu_tables.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
TEST_FILES = ("test_attention", "test_accept", "test_rope_append")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON lines; kept and continued if it exists")
    parser.add_argument("--seconds", type=float, default=510.0, help="begin no point after this")
    parser.add_argument("--only", default="", help="sections, comma-separated")
    parser.add_argument("--table", type=Path, help="print the tables of a file and stop")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    return parser.parse_args()


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file; a last line that was cut is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line was cut and is measured again", file=sys.stderr)
    return rows


def run_tests(*, rehearse: bool) -> dict[str, Any]:
    """The GPU-marked tests of the kernels, one process a file, side by side."""
    if subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True).returncode:
        return {"result": "not run: pytest is not installed"}
    marks = ["--collect-only"] if rehearse else ["-m", "gpu"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marks,
             f"tests/kernels/{name}.py"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in TEST_FILES
    ]  # fmt: skip
    tails = [process.communicate()[0].strip().splitlines()[-25:] for process in running]
    failed = [name for name, p in zip(TEST_FILES, running, strict=True) if p.returncode]
    return {
        "result": "failed" if failed else "passed",
        "failed": failed,
        "summaries": [tail[-1] for tail in tails],
        "output": [line for name, tail in zip(TEST_FILES, tails, strict=True)
                   if name in failed for line in tail],
    }  # fmt: skip


def planned() -> str:
    """Sections and how many points each has, on a GPU of an H200's L2."""
    import gpu_points

    sections = Counter(
        point["section"] for point in gpu_points.Bench("cuda", False, 2**26).points()
    )
    lines = [f"  {name:10} {count} points" for name, count in sections.items()]
    return "\n".join(["  tests      the GPU-marked tests of the kernels", *lines])


def measure(path: Path, options: argparse.Namespace) -> None:
    import gpu_points

    start = time.monotonic()
    rows = whole_lines(path)
    done = {json.dumps(row["point"], sort_keys=True) for row in rows}
    only = set(filter(None, options.only.split(",")))
    bench = gpu_points.Bench.create(rehearse=options.rehearse)
    with path.open("a", encoding="utf-8") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        # a cut line must not run into the next
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            write({"point": {"section": "cut"}})
        write({"point": {"section": "environment"}, **bench.environment()})
        tests = {"section": "tests"}
        if json.dumps(tests) not in done and (not only or "tests" in only):
            write({"point": tests, **run_tests(rehearse=options.rehearse)})
        for point in bench.points():
            key = json.dumps(point, sort_keys=True)
            if key in done or (only and point["section"] not in only):
                continue
            spent = time.monotonic() - start
            if spent > options.seconds:
                print(f"{spent:.0f} s are spent; the same call continues", file=sys.stderr)
                return
            print(f"{spent:5.0f} s  {key}", file=sys.stderr)
            write({"point": point, **bench.measured(point)})


def main() -> None:
    options = arguments()
    import gpu_tables

    if options.table:
        print(gpu_tables.tables(whole_lines(options.table)))
        return
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        print(
            "no CUDA GPU here; --rehearse runs tiny shapes on the CPU. On a GPU this runs:",
            planned(),
            sep="\n",
            file=sys.stderr,
        )
        raise SystemExit(3)
    with tempfile.TemporaryDirectory() as folder:
        path = options.out or Path(folder) / "kernels.jsonl"
        measure(path, options)
        print(gpu_tables.tables(whole_lines(path)))


if __name__ == "__main__":
    main()
