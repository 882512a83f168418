"""How long does the whole adaptive table take?

8 contexts x 5 batches x 6 drafts, those that select KV at every budget of the catalogue, each with
all trees of up to 512 nodes and 12 levels, their topologies and intervals. Goal: under 2 seconds.

    python benchmarks/adaptive_table.py
"""

from __future__ import annotations

import time

from magicplan import model_specs
from magicplan.prediction.adaptive_trees import adaptive_trees
from magicplan.prediction.choice.candidates import BUDGETS
from magicplan.prediction.request import Request

CONTEXTS = [1024 * 2**k for k in range(8)]
BATCHES = [1, 8, 32, 64, 256]
GOAL = 2.0


def drafts() -> list[tuple[str, str | None]]:
    """EAGLE-3, a small model, the target over three kinds of selected KV, and the small model over
    a window; the last four at every budget."""
    found: list[tuple[str, str | None]] = [("eagle3", None), ("llama-3.2-1b", "full")]
    for budget in BUDGETS:
        found += [("self", f"{kind}:{budget}") for kind in ("streaming", "snapkv", "topk")]
        found.append(("llama-3.2-1b", f"streaming:{budget}"))
    return found


def main() -> None:
    model_specs.load("llama-3.2-1b")
    start = time.perf_counter()
    cells = 0
    for draft, view in drafts():
        request = Request(
            gpu="h200", gpus=64, batch=BATCHES, ctx=CONTEXTS, draft=draft, draft_kv=view,
            acceptance="0.8",
        )  # fmt: skip
        points = adaptive_trees(request, max_size=512, max_depth=12).points
        assert len(points) == len(CONTEXTS) * len(BATCHES)
        cells += len(points)
    seconds = time.perf_counter() - start
    met = "met" if seconds < GOAL else "missed"
    print(
        f"{len(CONTEXTS)} contexts x {len(BATCHES)} batches x {len(drafts())} drafts and budgets, "
        f"{cells} cells, in {seconds:.2f} s: goal {met}"
    )


if __name__ == "__main__":
    main()
