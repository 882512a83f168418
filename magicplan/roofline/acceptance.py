"""How many drafted tokens survive: acceptance models, and the tokens a round emits.

A model gives the survival S_k, the probability that the first k drafted tokens are all accepted.
A chain of gamma then emits 1 + S_1 + ... + S_gamma tokens, the bonus token included (Leviathan et
al., arXiv 2211.17192, eq. 1, where S_k = alpha^k).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from magicplan.errors import UsageError
from magicplan.roofline.deployment import Array, Num

Z80 = 1.2815515655446004
"""Standard normal quantile of 90 %: an 80 % interval is the estimate plus or minus this many
standard errors."""
RANK_DECAY = 0.453
"""Exponent b of r_k = r_1 k^-b, the probability that k drawn children are all rejected, fitted to
the 32 ranks of Sequoia's shipped vector; used where only the first rank is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Acceptance(ABC):
    """Survival of drafted tokens; `origin` says where the numbers come from.

    `uncertainty` is the half-width of an 80 % interval on the acceptance of one position.
    Under `same_model` a KV budget that holds the whole context accepts everything. `measured` is
    the longest draft length that was measured, beyond which none is chosen; 0 where a rate is
    stated for any length.
    """

    origin: str
    uncertainty: float = 0.0
    same_model: bool = False
    measured: int = 0

    def longest(self, asked: int) -> int:
        """The longest draft length to choose from, of those `asked` about: none beyond the measured
        ones."""
        return min(asked, self.measured) if self.measured else asked

    @abstractmethod
    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """S_1 to S_depth on a new last axis behind those of `ctx`; no boundary, no clipping."""

    def survival(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """S_1 to S_depth, non-increasing; `budget` [tokens] is the draft's KV, `None` for all."""
        raw = np.clip(self.chain(depth, ctx, budget), 0.0, 1.0)
        found = np.asarray(np.minimum.accumulate(raw, axis=-1), dtype=np.float64)
        if not self.same_model:
            return found
        whole = np.asarray(ctx, dtype=np.float64) <= (math.inf if budget is None else budget)
        return np.asarray(np.where(whole[..., None], 1.0, found), dtype=np.float64)

    def ranks(self, width: int, ctx: Num, budget: float | None = None) -> Array:
        """p_1 to p_width: the k-th drawn child is the accepted one (Sequoia, arXiv 2402.12374),
        for children of the root."""
        return np.asarray(self.level_ranks(1, width, ctx, budget)[..., 0, :])

    def level_ranks(self, levels: int, width: int, ctx: Num, budget: float | None = None) -> Array:
        """Ranks of the children of a node of every level, [..., level, rank].

        Without measured ranks a level's first rank is the chain's conditional acceptance there,
        and the probability that k children are all rejected falls as k^-b, the shape of Sequoia's
        shipped vector.
        """
        first = conditional_from_marginal(self.survival(levels, ctx, budget))[..., None]
        reject = (1 - first) * np.arange(1.0, width + 1) ** -RANK_DECAY
        # where little is accepted the power law's second rank would exceed the first
        later = np.minimum(-np.diff(reject, axis=-1), first)
        return np.concatenate([first, later], axis=-1)

    @property
    def classes(self) -> tuple[tuple[float, Acceptance], ...]:
        """The kinds of rounds this stands for and their shares: one kind, but for a mixture."""
        return ((1.0, self),)

    def interval(self) -> tuple[Acceptance, Acceptance]:
        """The models at the ends of the 80 % interval; twice itself where none is known."""
        if self.uncertainty == 0:
            return self, self
        return self._shifted(-self.uncertainty), self._shifted(self.uncertainty)

    def _shifted(self, by: float) -> Acceptance:
        return Shifted(
            origin=self.origin,
            same_model=self.same_model,
            measured=self.measured,
            base=self,
            by=by,
        )

    def of_self_draft(self) -> Acceptance:
        """This acceptance, marked as that of a draft which is the target itself over a part of its
        cache."""
        return replace(self, same_model=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shifted(Acceptance):
    """Another model with the acceptance of every position moved by the same amount."""

    base: Acceptance
    by: float

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """Survival from the shifted conditional rates."""
        survival = self.base.chain(depth, ctx, budget)
        conditional = conditional_from_marginal(survival)
        shifted = np.clip(conditional + self.by, 0.0, 1.0)
        return np.asarray(np.cumprod(shifted, axis=-1), dtype=np.float64)


def _columns(ctx: Num, depth: int) -> Array:
    """Ones with the axes of `ctx` and a last one of `depth`."""
    return np.ones((*np.shape(ctx), depth))


@dataclass(frozen=True, kw_only=True, eq=False)
class Iid(Acceptance):
    """Every position is accepted with the same probability: S_k = alpha^k."""

    alpha: float

    def __post_init__(self) -> None:
        probability("acceptance", self.alpha)

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """alpha^k."""
        return _columns(ctx, depth) * self.alpha ** np.arange(1.0, depth + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PerPosition(Acceptance):
    """Conditional acceptance by position; past the last given one, the last goes on.

    `ends` are the conditional rates at the low and the high end of the interval, where positions
    do not share one half-width.
    """

    conditional: tuple[float, ...]
    ends: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        for rates in (self.conditional, *(self.ends or ())):
            if not rates:
                raise UsageError("acceptance by position is empty: expected rates such as 0.8,0.7")
            for value in rates:
                probability("acceptance by position", value)

    def interval(self) -> tuple[Acceptance, Acceptance]:
        """The given ends, or every position moved alike."""
        if self.ends is None:
            return super().interval()
        low, high = (replace(self, conditional=e, ends=None, uncertainty=0.0) for e in self.ends)
        return low, high

    @classmethod
    def from_marginal(cls, marginal: tuple[float, ...], **fields: object) -> PerPosition:
        """An acceptance from P(first k accepted), as vLLM's per-position metric prints it."""
        for value in marginal:
            probability("marginal acceptance", value)
        if any(b > a for a, b in itertools.pairwise(marginal)):
            raise UsageError(
                f"marginal acceptance {list(marginal)} increases: P(first k accepted) cannot; "
                "use cond: for conditional rates"
            )
        conditional = conditional_from_marginal(np.array(marginal or (math.nan,)))
        rates = tuple(float(c) for c in conditional) if marginal else ()
        return cls(conditional=rates, **fields)  # type: ignore[arg-type]

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """Cumulative products."""
        known = np.array(self.conditional[:depth])
        rest = np.full(max(0, depth - known.size), self.conditional[-1])
        return _columns(ctx, depth) * np.cumprod(np.concatenate([known, rest]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Beta(Acceptance):
    """A round's alpha is drawn from Beta(a, b): S_k = prod_{i<k} (a + i) / (a + b + i).

    Rounds differ, so survivors are easier: S_k is at least E[alpha]^k.
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            raise UsageError(f"beta:{self.a},{self.b}: expected two positive numbers")

    @classmethod
    def from_two_marginals(cls, first: float, second: float, **fields: object) -> Beta:
        """The moment fit through S_1 and S_2."""
        m, q = first, second / first if first else math.nan
        if not 0 < m < q < 1:
            raise UsageError(f"marginals {first}, {second}: a Beta needs 0 < S_1 < S_2 / S_1 < 1")
        total = (1 - q) / (q - m)
        return cls(a=m * total, b=(1 - m) * total, **fields)  # type: ignore[arg-type]

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """The closed form."""
        i = np.arange(depth)
        return _columns(ctx, depth) * np.cumprod((self.a + i) / (self.a + self.b + i))


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Acceptance):
    """Classes of rounds or requests: survival is the weighted mean of theirs."""

    weights: tuple[float, ...]
    parts: tuple[Acceptance, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.parts) or not self.parts:
            raise UsageError("a mixture needs as many weights as parts")
        if not (abs(sum(self.weights) - 1) <= 1e-9 and min(self.weights) >= 0):
            raise UsageError(f"mixture weights {list(self.weights)} do not sum to 1")

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """The weighted mean."""
        pairs = zip(self.weights, self.parts, strict=True)
        return np.asarray(sum(w * part.chain(depth, ctx, budget) for w, part in pairs))

    def level_ranks(self, levels: int, width: int, ctx: Num, budget: float | None = None) -> Array:
        """The mean of the parts' ranks, weighted by how many of each part reach a level."""
        start = np.ones((*np.shape(ctx), 1))
        reached = np.stack(
            [
                share
                * np.concatenate([start, part.survival(levels, ctx, budget)[..., :-1]], axis=-1)
                for share, part in self.classes
            ]
        )
        ranks = np.stack([part.level_ranks(levels, width, ctx, budget) for _, part in self.classes])
        total = np.maximum(reached.sum(axis=0), np.finfo(np.float64).tiny)
        return np.asarray(((reached / total)[..., None] * ranks).sum(axis=0))

    @property
    def classes(self) -> tuple[tuple[float, Acceptance], ...]:
        """The parts, each knowing whether it is of a self-draft."""
        pairs = zip(self.weights, self.parts, strict=True)
        return tuple(
            (weight, replace(part, same_model=self.same_model or part.same_model))
            for weight, part in pairs
        )

    def interval(self) -> tuple[Acceptance, Acceptance]:
        """Mixtures of the parts' ends: their errors are taken to agree."""
        ends = [part.interval() for part in self.parts]
        low, high = (replace(self, parts=tuple(end[i] for end in ends)) for i in (0, 1))
        return low, high


@dataclass(frozen=True, kw_only=True, eq=False)
class Both(Acceptance):
    """Two independent reasons to reject a token: at every position their acceptances multiply."""

    parts: tuple[Acceptance, Acceptance]

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """The product of the parts' survival."""
        one, other = (part.survival(depth, ctx, budget) for part in self.parts)
        return np.asarray(one * other, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked(Acceptance):
    """Measured ranks for trees; a chain takes the first child every time.

    `deeper` holds the ranks of the levels below the root's children where they were measured; the
    last level given goes on. The interval moves the first rank of every level and scales the
    others with what it leaves.
    """

    probabilities: tuple[float, ...]
    deeper: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for row in self._rows:
            for value in row:
                probability("acceptance by rank", value)
            if not row:
                raise UsageError("acceptance by rank is empty: expected numbers such as 0.6,0.2")
            if sum(row) > 1 + 1e-9:
                raise UsageError(
                    f"acceptance by rank sums to {sum(row):.6g}: the children of a node share at "
                    "most 1"
                )

    @property
    def _rows(self) -> tuple[tuple[float, ...], ...]:
        return (self.probabilities, *self.deeper)

    def _shifted(self, by: float) -> Acceptance:
        first, *deeper = (_moved(row, by) for row in self._rows)
        return replace(self, probabilities=first, deeper=tuple(deeper), uncertainty=0.0)

    def chain(self, depth: int, ctx: Num, budget: float | None = None) -> Array:
        """The product of the first ranks."""
        rows = [self._rows[min(level, len(self.deeper))] for level in range(depth)]
        return _columns(ctx, depth) * np.cumprod([row[0] for row in rows])

    def level_ranks(self, levels: int, width: int, ctx: Num, budget: float | None = None) -> Array:
        """The measured ranks, none past the last of a level."""
        known = np.zeros((levels, width))
        for level, row in enumerate(known):
            given = self._rows[min(level, len(self.deeper))][:width]
            row[: len(given)] = given
        found = np.broadcast_to(known, (*np.shape(ctx), levels, width))
        if not self.same_model:
            return np.asarray(found, dtype=np.float64)
        whole = np.asarray(ctx, dtype=np.float64) <= (math.inf if budget is None else budget)
        return np.asarray(np.where(whole[..., None, None], np.eye(1, width)[0], found))


def _moved(row: tuple[float, ...], by: float) -> tuple[float, ...]:
    """A level's ranks with the first moved, and the others scaled by what it leaves."""
    first, *rest = row
    moved = min(max(first + by, 0.0), 1.0)
    left = (1 - moved) / (1 - first) if first < 1 else 0.0
    return (moved, *(min(p * left, moved) for p in rest))


def probability(what: str, value: float) -> None:
    """Refuse what is no probability. Raises UsageError."""
    if not 0 <= value <= 1:
        raise UsageError(f"{what} {value}: expected a number from 0 to 1")


def conditional_from_marginal(marginal: Array) -> Array:
    """S_k / S_(k-1) along the last axis; 0 after a survival of 0."""
    before = np.concatenate([np.ones((*marginal.shape[:-1], 1)), marginal[..., :-1]], axis=-1)
    return np.asarray(np.divide(marginal, before, out=np.zeros_like(marginal), where=before > 0))


def tokens_per_round(survival: Array) -> Array:
    """Tokens a chain of gamma = 0, 1, ... emits, bonus token included; in [1, gamma + 1]."""
    start = np.ones((*survival.shape[:-1], 1))
    summed = np.concatenate([start, 1 + np.cumsum(survival, axis=-1)], axis=-1)
    longest = np.arange(1.0, summed.shape[-1] + 1)
    return np.asarray(np.minimum(summed, longest), dtype=np.float64)


def accept_length_variance(survival: Array) -> Array:
    """Variance of the tokens a chain emits, from E[A^2] = sum_l (2 l + 1) S_l with S_0 = 1."""
    levels = np.arange(survival.shape[-1] + 1)
    full = np.concatenate([np.ones((*survival.shape[:-1], 1)), survival], axis=-1)
    second = np.cumsum((2 * levels + 1) * full, axis=-1)
    variance = second - tokens_per_round(survival) ** 2
    return np.asarray(np.maximum(variance, 0.0), dtype=np.float64)


def alpha_from_tokens_per_round(gamma: Array, emitted: Array) -> Array:
    """The i.i.d. alpha whose chain of `gamma` emits that many tokens; NaN outside [1, gamma + 1].

    Bisection on the geometric sum, which rises with alpha: 60 halvings reach double precision.
    """
    gamma, emitted = np.broadcast_arrays(gamma, emitted)
    low, high = np.zeros(gamma.shape), np.ones(gamma.shape)
    for _ in range(60):
        middle = (low + high) / 2
        short = geometric_sum(middle, gamma) < emitted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    found = np.where(emitted <= 1, 0.0, high)
    return np.asarray(np.where(emitted > gamma + 1, np.nan, found), dtype=np.float64)


def geometric_sum(alpha: Array, gamma: Array) -> Array:
    """1 + alpha + ... + alpha^gamma, accurate near alpha = 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = np.expm1((gamma + 1) * np.log(alpha)) / (alpha - 1)
    near = np.asarray(gamma + 1 - (gamma * (gamma + 1) / 2) * (1 - alpha))
    return np.where(alpha == 0, 1.0, np.where(1 - alpha < 1e-12, near, closed))
