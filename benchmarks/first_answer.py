"""How soon, how short and how consistent is the first answer?

Prints seconds to the first `predict` in a fresh virtual environment (with --fresh WHEEL_OR_CHECKOUT
alone: it installs there), lines of each command's first screen at 80 columns (goal 24), the time of
`predict` over that of an empty Typer command that imports numpy, in turn (goal 2, every draft that
can be launched compared), and contradictions between `predict`, `sweep`, `drafts` and `sweep
--choice` over seeded workloads (goal 0).

    python benchmarks/first_answer.py [--workloads 500] [--fresh .]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RUNS, GOAL, MOST_LINES = 11, 2.0, 24
EMPTY = """
import typer
app = typer.Typer()
@app.command()
def main() -> None:
    import numpy
app()
"""
PREDICT = ("predict", "--gpu", "a100", "--batch", "128", "--ctx", "64k")
COMMANDS = (
    PREDICT,
    ("predict", "--gpu", "h100", "--model", "gpt-oss-120b"),
    ("plan", "--gpu", "h100", "--requests-per-s", "2", "--slo", "ttft_p95=1"),
    ("plan", "--model", "gpt-oss-120b", "--gpu", "h100", "--requests-per-s", "5"),
)


def ours(*words: str) -> list[str]:
    return [sys.executable, "-m", "magicplan", *words]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def ratio() -> str:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "empty.py"
        script.write_text(EMPTY, encoding="utf-8")
        empty = [sys.executable, str(script)]
        pairs = [(seconds(ours(*PREDICT)), seconds(empty)) for _ in range(RUNS + 1)][1:]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    found = statistics.median(a / b for a, b in pairs)
    met = "met" if found <= GOAL else "missed"
    return (
        f"predict {mine * 1e3:.0f} ms, empty {other * 1e3:.0f} ms, ratio {found:.2f}: "
        f"goal {GOAL:g} {met}"
    )


def lines(words: tuple[str, ...]) -> int:
    """Lines of a terminal of 80 columns that a command's answer takes."""
    done = subprocess.run(
        ours(*words), check=True, capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    return sum(max(1, -(-len(line) // 80)) for line in done.stdout.splitlines())


def contradictions(count: int) -> str:
    from magicplan.errors import UsageError
    from tests.prediction.test_one_answer import contradictions as of
    from tests.prediction.test_one_answer import workloads

    found: Counter[str] = Counter()
    for ask in workloads(count, seed=2026):
        try:
            said = of(ask)
        except UsageError:
            found["refused"] += 1
            continue
        found["contradicted" if said else "agreed"] += 1
        for line in said:
            print(f"  {ask.gpu} {ask.model} {ask.batch} {ask.ctx} {ask.stack}: {line}")
    met = "met" if not found["contradicted"] else "missed"
    return f"{count} workloads: {dict(found)}; goal 0 contradicted {met}"


def fresh(source: str) -> str:
    """Seconds of the first prediction after an installation, nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", source], check=True)
        first, second = (
            _timed([python, "-I", "-m", "magicplan", *PREDICT], folder) for _ in range(2)
        )
    return f"fresh environment: first answer {first:.2f} s, second {second:.2f} s"


def _timed(command: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workloads", type=int, default=500)
    parser.add_argument("--fresh", default="")
    given = parser.parse_args()
    if given.fresh:
        print(fresh(given.fresh))
        return
    for words in COMMANDS:
        count = lines(words)
        print(
            f"{count} lines: magicplan {' '.join(words)}{'' if count <= MOST_LINES else ' MISSED'}"
        )
    print(ratio())
    print(contradictions(given.workloads))


if __name__ == "__main__":
    main()
