"""How acceptance changes with context: laws of self-drafts, budgets, and heads beyond training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from magicplan.errors import UsageError
from magicplan.roofline.acceptance import Acceptance, conditional_from_marginal, probability
from magicplan.roofline.deployment import Array, Num

FALL = 3.0
"""Exponent of a head's fall beyond its training: 3.0 to 3.1 at 2 to 5 drafted tokens on ten
contexts of one EAGLE-3 head (vLLM speculators pull request 684), within 4 % of its length."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextLaw(Acceptance):
    """alpha(S) = far + (near - far) / (1 + S / scale): falls with context S to a floor."""

    near: float
    far: float
    scale_tokens: float

    def __post_init__(self) -> None:
        probability("near acceptance", self.near)
        probability("far acceptance", self.far)
        if not 0 < self.scale_tokens < math.inf:
            raise UsageError(f"scale of {self.scale_tokens} tokens: expected a positive number")

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """alpha(S)^k."""
        tokens = np.asarray(ctx, dtype=np.float64)
        alpha = self.far + (self.near - self.far) / (1 + tokens / self.scale_tokens)
        return np.asarray(alpha[..., None] ** np.arange(1.0, depth + 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class AtBudget(Acceptance):
    """Rates measured at one KV budget K_0, carried to others: 1 - alpha scales as (K_0 / K)^b.

    `rise` is the exponent b above K_0 and `fall` below it; where only one budget was measured they
    differ, so that neither direction flatters.
    """

    base: Acceptance
    measured_budget: float
    rise: float
    fall: float

    def __post_init__(self) -> None:
        if not 1 <= self.measured_budget < math.inf:
            raise UsageError(f"a budget of {self.measured_budget} tokens: expected 1 or more")
        if not (0 <= self.rise < math.inf and 0 <= self.fall < math.inf):
            raise UsageError(f"exponents {self.rise}, {self.fall}: expected 0 or more")

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """Survival with every position's rejection scaled."""
        survival = self.base.chain(depth, ctx, budget)
        if budget is None:
            return survival
        ratio = self.measured_budget / budget
        scale = ratio ** (self.rise if ratio < 1 else self.fall)
        conditional = 1 - (1 - conditional_from_marginal(survival)) * scale
        return np.cumprod(np.clip(conditional, 0.0, 1.0), axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fading(Acceptance):
    """A head beyond the context it was trained on: every rate times 1 / (1 + (S / half)^3).

    `half_tokens` [tokens] is where half of the rate is left; `spread` the factor by which other
    heads fade earlier or later, the ends of the interval. A draft that attends to a window of its
    cache fades no further than the window, but keeps only `windowed` of the rate of the whole one.
    """

    base: Acceptance
    half_tokens: float
    spread: float = 1.0
    windowed: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.half_tokens < math.inf and 1 <= self.spread < math.inf):
            raise UsageError(
                f"a fall by half at {self.half_tokens} tokens, give or take {self.spread}: "
                "expected a positive number and one of 1 or more"
            )
        probability("share of the rate that a window keeps", self.windowed)

    def kept(self, ctx: Num, budget: float | None = None) -> Array:
        """The share of the rate that is left at a context."""
        tokens = np.asarray(ctx, dtype=np.float64)
        seen = tokens if budget is None else np.minimum(tokens, budget)
        share = 1 / (1 + (seen / self.half_tokens) ** FALL)
        windowed = np.where(seen < tokens, self.windowed, 1.0)
        return np.asarray(windowed * share, dtype=np.float64)

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """Survival with every position's rate scaled."""
        conditional = conditional_from_marginal(self.base.chain(depth, ctx, budget))
        kept = conditional * self.kept(ctx, budget)[..., None]
        return np.asarray(np.cumprod(kept, axis=-1), dtype=np.float64)

    def interval(self) -> tuple[Acceptance, Acceptance]:
        """The base's ends, which fade earlier and later by the spread."""
        low, high = self.base.interval()
        return self._with(low, 1 / self.spread), self._with(high, self.spread)

    def _with(self, base: Acceptance, factor: float) -> Acceptance:
        return Fading(
            origin=self.origin,
            measured=self.measured,
            base=base,
            half_tokens=self.half_tokens * factor,
            windowed=self.windowed,
        )
