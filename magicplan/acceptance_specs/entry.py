"""One published measurement of acceptance, and the model it stands for."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.acceptance_specs.counts import survival_of_lengths
from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    Iid,
    PerPosition,
    Ranked,
    alpha_from_tokens_per_round,
)
from magicplan.roofline.acceptance_context import AtBudget, ContextLaw


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A row of a table: for whom it was measured, the numbers, and where they were printed.

    `ctx` is the range of contexts [tokens] it covers; `spread` the half-width of an 80 % interval
    on one position's acceptance; `budget` the draft's KV tokens it was measured at; `half_tokens`
    the context at which a head loses half of its rate, 0 where only its method's is known.
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
    half_tokens: float = 0.0

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
        if self.kind in ("conditional", "length"):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What context does to a method's heads: where half of the rate is left, the factor by which
    heads differ in it, and what a window of the draft's cache keeps of the rate."""

    half_tokens: float
    spread: float
    window_keeps: float = 1.0


@cache
def context_of(method: str) -> Context | None:
    """How a method's heads fade with context; None for drafts whose rows cover it themselves."""
    table = _table(method)
    if "context" not in table:
        return None
    fall = table["context"]
    return Context(
        half_tokens=float(fall["half_tokens"]),
        spread=float(fall["spread"]),
        window_keeps=float(table.get("window", {}).get("kept", 1.0)),
    )


@cache
def entries(method: str) -> tuple[Entry, ...]:
    """The rows of one method's table."""
    return tuple(_entry(row) for row in _table(method)["entries"])


def targets(method: str) -> frozenset[str]:
    """The targets of a method's rows, without reading what was measured."""
    return frozenset(row["target"] for row in _table(method)["entries"])


@cache
def _table(method: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{method}.toml").read_text(encoding="utf-8"))


def _entry(row: dict[str, Any]) -> Entry:
    """A row as it is written: one length at one draft length is a rate that all positions share,
    lengths at several draft lengths are survival."""
    fields = dict(row)
    numbers: list[float] = []
    for key in ("alpha", "marginal", "conditional", "ranks"):
        if key in fields:
            value = fields.pop(key)
            numbers = value if isinstance(value, list) else [value]
    if fields["kind"] == "lengths":
        points = {int(k): float(length) for k, length in fields.pop("lengths")}
        fields["kind"], numbers = _from_lengths(points)
    low, high = fields.pop("ctx")
    return Entry(numbers=tuple(numbers), ctx=(low, high), **fields)


def _from_lengths(points: dict[int, float]) -> tuple[str, list[float]]:
    if len(points) > 1:
        return "marginal", survival_of_lengths(points).tolist()
    ((drafted, length),) = points.items()
    alone = np.asarray(float(drafted)), np.asarray(length)
    return "length", [float(alpha_from_tokens_per_round(*alone))] * drafted
