"""One published measurement of acceptance, and the model it stands for."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    AtBudget,
    ContextLaw,
    Iid,
    PerPosition,
    Ranked,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A row of a table: for whom it was measured, the numbers, and where they were printed.

    `ctx` is the range of contexts [tokens] it covers; `spread` the half-width of an 80 % interval
    on one position's acceptance; `budget` the draft's KV tokens it was measured at.
    """

    target: str
    family: str
    task: str
    kind: str
    ctx: tuple[float, float]
    basis: str
    source: str
    url: str
    seen: str
    spread: float = 0.0
    samples: int = 0
    draft: str = ""
    budget: float | None = None
    rise: float = 0.0
    fall: float = 0.0
    numbers: tuple[float, ...] = ()
    near: float = 0.0
    far: float = 0.0
    scale_tokens: float = 1.0

    @property
    def half_width(self) -> float:
        """The spread, or what binomial counts give for the first number."""
        if self.spread or not self.samples:
            return self.spread
        p = self.numbers[0]
        return Z80 * math.sqrt(p * (1 - p) / self.samples)

    def model(self, origin: str, uncertainty: float) -> Acceptance:
        """The acceptance model of this row."""
        base = self._base(origin)
        if self.budget is not None:
            base = AtBudget(
                origin=origin,
                base=base,
                measured_budget=self.budget,
                rise=self.rise,
                fall=self.fall,
            )
        return replace(base, uncertainty=uncertainty)

    def _base(self, origin: str) -> Acceptance:
        if self.kind == "alpha":
            return Iid(alpha=self.numbers[0], origin=origin)
        if self.kind == "marginal":
            return PerPosition.from_marginal(self.numbers, origin=origin)
        if self.kind == "conditional":
            return PerPosition(conditional=self.numbers, origin=origin)
        if self.kind == "ranks":
            return Ranked(probabilities=self.numbers, origin=origin)
        return ContextLaw(
            origin=origin, near=self.near, far=self.far, scale_tokens=self.scale_tokens
        )


TABLES = Path(__file__).parent / "tables"


def methods() -> tuple[str, ...]:
    """Draft methods that have a table."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.toml")))


@cache
def entries(method: str) -> tuple[Entry, ...]:
    """The rows of one method's table."""
    path = TABLES / f"{method}.toml"
    return tuple(_entry(row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["entries"])


def _entry(row: dict[str, Any]) -> Entry:
    fields = dict(row)
    numbers: list[float] = []
    for key in ("alpha", "marginal", "conditional", "ranks"):
        if key in fields:
            value = fields.pop(key)
            numbers = value if isinstance(value, list) else [value]
    low, high = fields.pop("ctx")
    return Entry(numbers=tuple(numbers), ctx=(low, high), **fields)
