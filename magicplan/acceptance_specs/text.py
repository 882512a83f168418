"""Acceptance as text: what `--acceptance` takes besides `auto` and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from magicplan.acceptance_specs.counts import survival_of_lengths
from magicplan.errors import FieldError, UsageError
from magicplan.roofline.acceptance import (
    Acceptance,
    Beta,
    Iid,
    Mixture,
    PerPosition,
    alpha_from_tokens_per_round,
)
from magicplan.roofline.acceptance_context import AtBudget, ContextLaw

LONGEST_DRAFT = 256
FORMS = (
    "a number from 0 to 1, 0.8+-0.02 with its 80 % interval, cond:0.8,0.7, marg:0.8,0.6, "
    "len:3.2@5 (mean accept length, bonus token included, at 5 drafted tokens; accepted:2.2@5 "
    "without it), beta:4,1, mix:0.5*0.9+0.5*0.6, "
    "law:NEAR,FAR,TOKENS[,BUDGET,EXPONENT], rank:FILE, file:FILE or auto"
)


def parse(text: str) -> Acceptance:
    """Reads `0.8`, `cond:0.8,0.7`, `marg:0.8,0.6`, `len:3.2@5` (a mean accept length), `beta:4,1`,
    `mix:0.5*0.9+0.5*cond:0.6,0.5` or `law:0.86,0.79,9315,512,0.085`; `+-0.02` after any of them is
    the half-width of an 80 % interval on the acceptance of one position. Raises UsageError."""
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
    if kind in ("len", "accepted"):
        return _lengths(kind, rest, whole)
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


def _lengths(kind: str, text: str, whole: str) -> Acceptance:
    """Mean accept lengths at draft lengths, `3.2@5` or `1.8@1,2.5@2,3.0@3`.

    One length is the i.i.d. rate that emits it. Several, at every draft length from the first on,
    give survival by their differences; a gap between two is filled evenly.
    """
    points = {}
    for part in text.split(","):
        length, at, drafted = part.partition("@")
        if not at or not drafted.strip().isdigit() or not 1 <= int(drafted) <= LONGEST_DRAFT:
            raise _unreadable(whole)
        emitted = _numbers(length, whole)[0] + (1.0 if kind == "accepted" else 0.0)
        if not 1 <= emitted <= int(drafted) + 1:
            raise FieldError(
                "acceptance",
                f"{whole}: {int(drafted)} drafted tokens emit 1 to {int(drafted) + 1} a round, "
                "bonus token included",
            )
        points[int(drafted)] = emitted
    counts = "bonus token added" if kind == "accepted" else "bonus token included"
    said = f"--acceptance {whole}: mean accept length as stated, {counts}"
    longest = max(points)
    if len(points) == 1:
        alone = np.asarray(float(longest)), np.asarray(points[longest])
        alpha = float(alpha_from_tokens_per_round(*alone))
        return Iid(alpha=alpha, origin=f"{said}, the same rate at every position", measured=longest)
    survival = tuple(survival_of_lengths(points).tolist())
    return PerPosition.from_marginal(
        survival, origin=f"{said}, survival by their differences", measured=longest
    )


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
