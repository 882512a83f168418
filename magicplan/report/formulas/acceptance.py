"""The law behind a workload's acceptance, as a closed form with its own numbers put in."""

from __future__ import annotations

import sympy as sp

from magicplan.report.formulas.formula import Formula
from magicplan.roofline.acceptance import (
    Acceptance,
    Beta,
    Iid,
    Mixture,
    PerPosition,
    Ranked,
)
from magicplan.roofline.acceptance_context import AtBudget, ContextLaw

K, AT = sp.symbols("k i", integer=True, positive=True)
SURVIVAL = sp.Function("S")(K)


def acceptance_formula(law: Acceptance) -> Formula:
    """S_k, the chance that the first k drafted tokens are accepted, by the law in use."""
    formula, derivation, inputs = _law(law)
    return Formula(
        name="Acceptance law in use",
        formula=formula,
        derivation=derivation,
        inputs=inputs,
        value=None,
        unit="",
        says=f"Its numbers come from: {law.origin}.",
    )


def _law(law: Acceptance) -> tuple[sp.Basic, str, dict[str, float]]:
    alpha, a, b, s = sp.symbols("alpha a b S_ctx", positive=True)
    if isinstance(law, Iid):
        return (
            sp.Eq(SURVIVAL, alpha**K),
            "Every position alike (Leviathan et al.).",
            {"alpha": law.alpha},
        )
    if isinstance(law, Beta):
        form = sp.Eq(SURVIVAL, sp.Product((a + AT) / (a + b + AT), (AT, 0, K - 1)))
        why = "A round's alpha is drawn from Beta(a, b): rounds differ, so survivors are easier."
        return form, why, {"a": law.a, "b": law.b}
    if isinstance(law, Mixture):
        w, part = sp.IndexedBase("w"), sp.Function("S")
        form = sp.Eq(SURVIVAL, sp.Sum(w[AT] * part(K, AT), (AT, 1, sp.Symbol("n"))))
        why = "Classes of rounds, each with a law of its own; trees serve them, not their mean."
        return form, why, {f"w_{at + 1}": weight for at, weight in enumerate(law.weights)}
    if isinstance(law, ContextLaw):
        near, far, scale = sp.symbols("alpha_0 alpha_inf S_0", positive=True)
        form = sp.Eq(SURVIVAL, (far + (near - far) / (1 + s / scale)) ** K)
        why = "Falls with context from alpha_0 to a floor: a window sees less of a longer text."
        return form, why, {"alpha_0": law.near, "alpha_inf": law.far, "S_0": law.scale_tokens}
    if isinstance(law, AtBudget):
        budget, known = sp.symbols("K K_0", positive=True)
        form = sp.Eq(1 - alpha, (1 - sp.Symbol("alpha_K0")) * (known / budget) ** b)
        why = "Measured at a budget of K_0 tokens and carried to K; b differs above and below it."
        return form, why, {
            "K_0": law.measured_budget, "b above": law.rise, "b below": law.fall,
        }  # fmt: skip
    if isinstance(law, Ranked):
        p = sp.IndexedBase("p")
        why = (
            "p_1 is the first child's share; where ranks were fitted, r_k = r_1 k^-b is what "
            "rejects k children, and p_k = r_(k-1) - r_k."
        )
        ranks = {f"p_{at + 1}": value for at, value in enumerate(law.probabilities[:4])}
        return sp.Eq(SURVIVAL, sp.Product(p[1], (AT, 1, K))), why, ranks
    c = sp.IndexedBase("c")
    rates = law.conditional if isinstance(law, PerPosition) else ()
    form = sp.Eq(SURVIVAL, sp.Product(c[AT], (AT, 1, K)))
    return (
        form,
        "Rates by position, conditional on all before.",
        {f"c_{at + 1}": value for at, value in enumerate(rates[:4])},
    )
