"""sympy's view of the same functions: closed forms derived, not written down a second time.

Traffic and time come from `traffic.forward` and `timing.op_seconds`, called with symbols. Only the
geometric series of acceptance is stated here, whose numeric form needs care near alpha = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import sympy as sp

from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.timing import Machine, compute_seconds, memory_seconds, op_seconds
from magicplan.roofline.traffic import Op, Pass, forward

SYMBOLS = SimpleNamespace(
    maximum=sp.Max,
    minimum=sp.Min,
    where=lambda condition, yes, no: yes if condition else no,
)
BATCH, CTX, QUERY = sp.symbols("B S T", positive=True)
ALPHA, GAMMA = sp.symbols("alpha gamma", positive=True)
FIXED, SLOPE = sp.symbols("a s", positive=True)
TARGET, DRAFT, VERIFY = sp.symbols("T_target T_draft T_verify", positive=True)
ROUND = sp.Symbol("t_round", nonnegative=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One deployment's forward pass in the symbols B, S and T."""

    model: ModelShape
    layout: Deployment
    machine: Machine

    @property
    def ops(self) -> tuple[Op, ...]:
        """The pass, op by op."""
        work = Pass(batch=BATCH, ctx=CTX, query_tokens=QUERY)
        return forward(self.model, self.layout, work, SYMBOLS)

    def total(self, name: str, kind: str | None = None) -> Any:
        """Bytes or FLOP of all ops, or of one kind."""
        ops = [op for op in self.ops if kind in (None, op.kind)]
        return sum(op.count * getattr(op, name) for op in ops)

    def seconds(self) -> Any:
        """Time of the pass under the machine's calibration, host time included."""
        host = self.machine.calibration.host.pass_seconds(BATCH, BATCH * QUERY)
        return host + sum(op.count * op_seconds(op, self.machine, SYMBOLS) for op in self.ops)

    def kv_equals_weights(self) -> Any:
        """The context at which a decode step reads as many KV bytes as weight bytes, in B."""
        gap = (self.total("kv_bytes") - self.total("weight_bytes")).subs(QUERY, 1)
        return _solve(gap, CTX)

    def linear_wall(self) -> Any:
        """The query tokens B T at which linear layers turn compute-bound; `None` if no closed
        form exists, as for experts."""
        excess = sum(
            op.count * (compute_seconds(op, self.machine) - memory_seconds(op, self.machine))
            for op in self.ops
            if op.kind == "linear"
        )
        gap = sp.expand(_above_one(excess).subs(QUERY, 1))
        return _solve(gap, BATCH) if gap.is_polynomial(BATCH) else None

    def attention_ridge(self) -> float | None:
        """FLOP per byte at which attention's compute and memory take equally long; None for a
        model without attention."""
        op = self._attention
        return None if op is None else self.machine.flops_per_s(op.dtype) / self.machine.bytes_per_s

    def attention_intensity(self) -> Any:
        """FLOP per byte of KV that one query token adds at long context: the GQA group in 16
        bits. Attention turns compute-bound at ridge / intensity query tokens a sequence."""
        op = self._attention
        if op is None:
            return None
        ratio = _above_one(op.flops / (op.kv_bytes * QUERY)).subs(QUERY, 1)
        return sp.limit(ratio.replace(sp.Min, _shortest), CTX, sp.oo)

    @property
    def _attention(self) -> Op | None:
        """The layers that read the whole context, or those behind a window where all are."""
        named = {op.name: op for op in self.ops if op.kind == "attention"}
        return named.get("attention") or named.get("attention_sliding")


def _shortest(*lengths: Any) -> Any:
    """The least of lengths when the context goes to infinity: the one that does not grow."""
    return min(lengths, key=lambda length: bool(length.free_symbols))


def _above_one(expression: Any) -> Any:
    """B is at least 1, so a maximum of 1 and B per stage is B."""
    return expression.replace(sp.Max, lambda *args: max(args, key=lambda a: bool(a.free_symbols)))


def _solve(gap: Any, symbol: Any) -> Any:
    """The positive root of a gap that rises with the symbol, windows taken as full or not."""
    gap = _above_one(sp.sympify(gap))
    for window in (
        lambda *args: min(args, key=lambda a: bool(a.free_symbols)),
        lambda *args: max(args, key=lambda a: bool(a.free_symbols)),
    ):
        roots = sp.solve(sp.expand(gap.replace(sp.Min, window)), symbol)
        for root in roots:
            at = root.subs({BATCH: 1, QUERY: 1})
            if at.is_number and at > 0 and abs(float(gap.subs({BATCH: 1, symbol: at}))) < 1:
                return sp.simplify(root)
    return roots[0] if roots else None


def tokens_per_round() -> Any:
    """Omega = (1 - alpha^(gamma + 1)) / (1 - alpha)."""
    return (1 - ALPHA ** (GAMMA + 1)) / (1 - ALPHA)


def speedup() -> Any:
    """T_target Omega / (gamma T_draft + T_verify + t_round)."""
    return TARGET * tokens_per_round() / (GAMMA * DRAFT + VERIFY + ROUND)


def stationary_condition() -> Any:
    """Zero of d/dgamma of tokens over a + s gamma, up to a positive factor."""
    rate = tokens_per_round() / (FIXED + SLOPE * GAMMA)
    return sp.simplify(sp.diff(rate, GAMMA) * (FIXED + SLOPE * GAMMA) ** 2 * (1 - ALPHA) / SLOPE)


def optimal_gamma_closed_form() -> Any:
    """gamma* = ln(u) / lam - 1 with u from the lower branch of Lambert W."""
    lam = -sp.log(ALPHA)
    u = -sp.LambertW(-sp.exp(-1 - lam * (FIXED / SLOPE - 1)), -1)
    return sp.log(u) / lam - 1


def break_even_tokens() -> Any:
    """Omega that pays for a round: (gamma T_draft + T_verify + t_round) / T_target."""
    return (GAMMA * DRAFT + VERIFY + ROUND) / TARGET
