"""What published serving benchmarks show beside an engine's steps, by serving stack.

`harnesses.toml` holds fitted properties of the benchmarks, not of the engines: no prediction reads
them, replays of published rows do.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

HARNESSES = Path(__file__).parent / "harnesses.toml"


def prefill_share(stack: str) -> float:
    """The share of neighbours' prefill that benchmarks of that stack show in their time per output
    token, 1 for a stack without rows; the rest overlaps or falls into the time to first token."""
    return harnesses().get(stack, {}).get("prefill_share", 1.0)


def streamed_rounds(stack: str) -> float:
    """Decode rounds that a first token waits in benchmarks of that stack, 0 for a stack without
    rows: servers send several tokens at once, and the rows do not say how many."""
    return harnesses().get(stack, {}).get("streamed_rounds", 0.0)


@cache
def harnesses() -> dict[str, dict[str, float]]:
    """Every stack's constants as the file holds them."""
    return tomllib.loads(HARNESSES.read_text(encoding="utf-8"))
