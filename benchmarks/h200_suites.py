"""What h200_model.py measures: models, drafts, acceptance, workloads. Not run by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

Cells = tuple[tuple[int, int], ...]
"""(batch, context in tokens)."""
K = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One model with one draft and one acceptance, over some workloads.

    trees: sizes of the best trees of any workload, measured beside the tree chosen for each one.
    largest_at: contexts at which the largest batch that fits is measured besides.
    end_to_end: whole generations by the wall clock in the cells of `largest_at`.
    """

    name: str
    model: str = "llama-3.1-8b"
    draft: str = "self"
    budget: int = 512
    acceptance: str = "simulated:0.85"
    cells: Cells
    gammas: tuple[int, ...] = (1, 2, 4, 8, 12)
    trees: tuple[int, ...] = ()
    largest_at: tuple[int, ...] = ()
    end_to_end: bool = False

    @property
    def draft_kv(self) -> str:
        return f"streaming:{self.budget}"


HOLDS = 850 * K
"""Tokens of 128 KiB that an H200 has room for beside the 8B model, with some to spare."""
PLANE = tuple(
    (batch, ctx)
    for ctx in (4 * K, 16 * K, 32 * K, 64 * K, 128 * K)
    for batch in (1, 4, 8, 16, 32, 64, 128, 192)
    if batch * ctx <= HOLDS
)
SOME = ((1, 4 * K), (8, 16 * K), (32, 16 * K), (8, 64 * K))
TREES = tuple((batch, ctx) for ctx in (4 * K, 16 * K, 64 * K, 128 * K) for batch in (1, 8, 32))
"""What does not fit is skipped, and says so."""
CALIBRATION: Cells = (*((b, s) for b in (1, 8, 48) for s in (2 * K, 12 * K)), (2, 48 * K))
BUDGETS = (256, 1024, 2048, 4096)
CALIBRATED = ("8b self 512", "1b self 512")
"""Suites whose model is measured at the calibration points."""
SUITES = (
    Suite(name="8b self 512", cells=PLANE, largest_at=(64 * K,), end_to_end=True),
    Suite(
        name="8b trees", cells=TREES, gammas=(1, 2, 4, 6, 8), trees=(8, 16, 32, 64)
    ),
    *(Suite(name=f"8b self {b}", budget=b, cells=SOME, gammas=(4,)) for b in BUDGETS),
    Suite(name="8b with 1b", draft="llama-3.2-1b", cells=SOME, gammas=(2, 4, 8)),
    Suite(
        name="1b self 512", model="llama-3.2-1b",
        cells=((1, 4 * K), (1, 64 * K), (16, 16 * K), (64, 16 * K), (16, 128 * K), (256, 4 * K)),
        gammas=(1, 4, 8),
    ),
    Suite(name="1b dialled", model="llama-3.2-1b", acceptance="dialled:0.8",
          cells=((1, 4 * K), (16, 16 * K)), gammas=(2, 4)),
)  # fmt: skip


def rehearsal() -> tuple[tuple[Suite, ...], Cells]:
    """The same suites on two tiny models and two workloads each: every path, no meaning."""
    small = {"llama-3.1-8b": "rehearsal-large", "llama-3.2-1b": "rehearsal-small"}
    suites = tuple(
        replace(
            s,
            model=small[s.model],
            draft=small.get(s.draft, s.draft),
            budget=64 if s.budget == 512 else s.budget // 16,
            cells=((1, 384), (3, 640)),
            gammas=s.gammas[:2],
            trees=s.trees[:2],
            largest_at=(),
        )
        for s in SUITES
    )
    return suites, ((1, 128), (2, 128), (1, 512), (2, 512))
