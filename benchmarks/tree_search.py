"""How fast is the tree search against a straightforward dynamic programme of the same recurrence?

Sequoia's recurrence in plain Python lists, O(N^2 D B), against `best_trees` in one run: once for a
non-increasing vector (merging levels), once for a raw one (the exact programme). Goals: 1,000 and
10 times faster, values equal to 1e-9.

    python benchmarks/tree_search.py [--size 512] [--depth 10] [--ranks 32]
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from rich.progress import track

from magicplan.roofline.deployment import Array
from magicplan.roofline.trees import best_trees, power_law


def plain(ranks: list[float], size: int, depth: int) -> list[list[float]]:
    """G[depth - 1][nodes - 1] by T[n, d, b] = max T[n-m, d, b-1] + p_b max_j T[m, d-1, j]."""
    below = [1.0] + [-math.inf] * (size - 1)
    table = [below]
    for _ in track(range(depth - 1), description="plain dynamic programme", transient=True):
        current = [1.0] + [-math.inf] * (size - 1)
        best = list(current)
        for p in ranks:
            longer = [-math.inf] * size
            for nodes in range(2, size + 1):
                top = -math.inf
                for taken in range(1, nodes):
                    value = current[nodes - taken - 1] + p * below[taken - 1]
                    if value > top:
                        top = value
                longer[nodes - 1] = top
            current = longer
            best = [max(pair) for pair in zip(best, current, strict=True)]
        below = best
        table.append(below)
    return table


def measure(name: str, ranks: Array, size: int, depth: int, goal: float) -> None:
    start = time.perf_counter()
    slow = np.array(plain(ranks.tolist(), size, depth))
    slow_seconds = time.perf_counter() - start
    times = []
    for _ in range(5):
        start = time.perf_counter()
        fast = best_trees(ranks, size, depth).expected_tokens
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[2]
    feasible = np.isfinite(slow)
    agree = bool((feasible == np.isfinite(fast)).all())
    worst = float(np.abs(slow[feasible] - fast[feasible]).max())
    ratio = slow_seconds / seconds
    met = "met" if ratio >= goal and worst <= 1e-9 and agree else "missed"
    print(
        f"{name:16} plain {slow_seconds:8.1f} s   ours {seconds * 1e3:8.2f} ms   "
        f"{ratio:9.0f} times (goal {goal:.0f}), largest difference {worst:.1e}: {met}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, default in (("--size", 512), ("--depth", 10), ("--ranks", 32)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    smooth = power_law(0.634, 0.453, options.ranks)
    raw = smooth * np.random.default_rng(1).uniform(0.7, 1.3, options.ranks)
    raw[0] = smooth[0]
    measure("non-increasing", smooth, options.size, options.depth, 1000)
    measure("raw", raw / max(1.0, raw.sum()), options.size, options.depth, 10)


if __name__ == "__main__":
    main()
