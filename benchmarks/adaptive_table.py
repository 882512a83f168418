"""How long does the whole adaptive table take?

8 contexts x 5 batches x every draft and KV budget of the catalogue that drafts trees, each with all
trees of up to 512 nodes and 12 levels. Goal: under 2 seconds.

    python benchmarks/adaptive_table.py
"""

from __future__ import annotations

import time

from magicplan import model_specs
from magicplan.planning.candidates import BUDGETS
from magicplan.planning.compare import adaptive_trees
from magicplan.planning.request import Request

CONTEXTS = [1024 * 2**k for k in range(8)]
BATCHES = [1, 8, 32, 64, 256]
GOAL = 2.0


def drafts() -> list[tuple[str, str | None]]:
    """Six drafts, the windowed ones at every budget."""
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
        cells += len(adaptive_trees(request, max_size=512, max_depth=12).points)
    seconds = time.perf_counter() - start
    met = "met" if seconds < GOAL else "missed"
    print(f"{cells} cells over {len(drafts())} drafts and budgets in {seconds:.2f} s: goal {met}")


if __name__ == "__main__":
    main()
