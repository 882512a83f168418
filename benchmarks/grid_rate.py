"""How many cells a second does the public API predict on one core?

A cell is one (batch, context, draft length) of `mp.predict` over a grid: its step, round, memory,
best draft length and interval. NumPy's element-wise arithmetic runs on one thread. Prints the
median of five runs for several models; the goal is 1,000,000 cells a second.

    python benchmarks/grid_rate.py
"""

from __future__ import annotations

import statistics
import time

import magicplan as mp

GOAL = 1e6
BATCHES = list(range(1, 129))
CONTEXTS = [1024 * k for k in range(1, 129)]
CASES: tuple[dict[str, object], ...] = (
    {"model": "llama-3.1-8b", "gpus": 8},
    {"model": "llama-3.1-8b"},
    {"model": "gemma-3-27b"},
    {"model": "deepseek-v3", "dtype": "fp8", "acceptance": "0.8"},
)


def cells_per_s(case: dict[str, object]) -> float:
    """The median of five predictions over the whole grid, after one that is not counted."""
    cells = len(BATCHES) * len(CONTEXTS) * 17
    times = []
    for _ in range(6):
        start = time.perf_counter()
        mp.predict(gpu="h100", batch=BATCHES, ctx=CONTEXTS, **case)
        times.append(time.perf_counter() - start)
    return cells / statistics.median(times[1:])


def main() -> None:
    for case in CASES:
        rate = cells_per_s(case)
        words = " ".join(f"{key}={value}" for key, value in case.items())
        met = "met" if rate >= GOAL else "missed"
        print(f"{words:52} {rate / 1e6:6.2f} M cells/s  {rate / GOAL:5.2f} of the goal, {met}")


if __name__ == "__main__":
    main()
