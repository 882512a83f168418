"""How long does `magicplan predict` take from start to finish, against an empty command?

The other command is a Typer one that imports numpy and prints one rich table, with the same
interpreter, in turn. Prints medians of the whole processes and the median of the paired ratios;
the goal is 1.5.

    python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS, GOAL = 15, 1.5
EMPTY = """
import typer
app = typer.Typer()
@app.command()
def main() -> None:
    import numpy
    from rich.console import Console
    from rich.table import Table
    table = Table()
    table.add_column("a")
    table.add_row("1")
    Console().print(table)
app()
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    script_of = str(Path(sys.executable).with_name("magicplan"))
    ours = [script_of, "predict", "--gpu", "a100", "--batch", "128", "--ctx", "64k"]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "empty.py"
        script.write_text(EMPTY, encoding="utf-8")
        empty = [sys.executable, str(script)]
        pairs = [(seconds(ours), seconds(empty)) for _ in range(RUNS + 1)][1:]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    met = "met" if ratio <= GOAL else "missed"
    print(f"predict {mine * 1e3:.0f} ms, empty {other * 1e3:.0f} ms, ratio {ratio:.2f}: goal {met}")


if __name__ == "__main__":
    main()
