"""Acceptance as text: what `--acceptance` takes besides `auto` and files."""

from __future__ import annotations

from dataclasses import replace

from magicplan.errors import FieldError, UsageError
from magicplan.roofline.acceptance import (
    Acceptance,
    AtBudget,
    Beta,
    ContextLaw,
    Iid,
    Mixture,
    PerPosition,
)

FORMS = (
    "a number from 0 to 1, 0.8+-0.02 with its 80 % interval, cond:0.8,0.7, marg:0.8,0.6, "
    "beta:4,1, mix:0.5*0.9+0.5*0.6, "
    "law:NEAR,FAR,TOKENS[,BUDGET,EXPONENT], rank:FILE, file:FILE or auto"
)


def parse(text: str) -> Acceptance:
    """`0.8`, `cond:0.8,0.7`, `marg:0.8,0.6`, `beta:4,1`, `mix:0.5*0.9+0.5*cond:0.6,0.5` or
    `law:0.86,0.79,9315,512,0.085`; `+-0.02` after any of them is the half-width of an 80 % interval
    on the acceptance of one position. Raises UsageError."""
    form, stated, width = text.rpartition("+-")
    if not stated:
        return _parse(text, text)
    (spread,) = _numbers(width, text) if "," not in width else (-1.0,)
    if not 0 <= spread <= 1:
        raise _unreadable(text)
    model = _parse(form, text)
    if isinstance(model, Mixture):
        parts = tuple(replace(part, uncertainty=spread) for part in model.parts)
        return replace(model, parts=parts)
    return replace(model, uncertainty=spread)


def _parse(text: str, whole: str) -> Acceptance:
    kind, separator, rest = text.partition(":")
    stated = f"--acceptance {whole}, as stated"
    if text.startswith("mix:"):
        return _mixture(rest, whole, stated)
    if not separator:
        alone = _numbers(text, whole)
        if len(alone) > 1:
            raise _unreadable(whole)
        return Iid(alpha=alone[0], origin=stated)
    values = _numbers(rest, whole)
    if kind == "cond":
        return PerPosition(conditional=values, origin=stated)
    if kind == "marg":
        return PerPosition.from_marginal(values, origin=stated)
    if kind == "beta" and len(values) == 2:
        return Beta(a=values[0], b=values[1], origin=stated)
    if kind == "law" and len(values) in (3, 5):
        return _law(values, stated)
    raise _unreadable(whole)


def _mixture(text: str, whole: str, stated: str) -> Mixture:
    """Shares times models: `0.7*0.9+0.3*cond:0.6,0.5`."""
    shares, parts = [], []
    for term in text.split("+"):
        share, times, model = term.partition("*")
        if not times or model.startswith("mix:"):
            raise _unreadable(whole)
        shares.append(_numbers(share, whole)[0])
        parts.append(_parse(model, whole))
    return Mixture(weights=tuple(shares), parts=tuple(parts), origin=stated)


def _law(values: tuple[float, ...], stated: str) -> Acceptance:
    """alpha(S), and how rejection shrinks with a KV budget above the one it was measured at."""
    near, far, scale = values[:3]
    base = ContextLaw(near=near, far=far, scale_tokens=scale, origin=stated)
    if len(values) == 3:
        return base
    budget, exponent = values[3:]
    return AtBudget(base=base, measured_budget=budget, rise=exponent, fall=exponent, origin=stated)


def _numbers(text: str, whole: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise _unreadable(whole) from None


def _unreadable(text: str) -> UsageError:
    return FieldError("acceptance", f"{text!r}: expected {FORMS}")
