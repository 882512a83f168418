"""Closed forms of speculation beyond one chain: survival, regimes, trees, batches, intervals."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from magicplan.prediction.closed_forms import ClosedForms, SpeculationNumbers, TreeNumbers
from magicplan.report.formulas.acceptance import acceptance_formula
from magicplan.report.formulas.formula import Formula
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import OUTPUT_POINTS


def speculation_formulas(found: ClosedForms, s: SpeculationNumbers) -> Iterator[Formula]:
    """The closed forms of a workload with a draft, beyond those of one chain."""
    yield _survival(s)
    yield acceptance_formula(found.prediction.resolved.acceptance)
    if found.prediction.workload.output_tokens:
        yield _over_output(found, s)
    yield _regimes(s)
    if s.draft.middle is not None:
        yield _two_levels(s.draft)
    if s.tree is not None:
        yield _tree_worth(s.tree)
        yield _tree_time(found, s.tree)
    walls = _walls(found)
    if walls:
        yield _tree_rule(walls)
    yield _ragged(found, s)
    yield _interval(found, s)


def _survival(s: SpeculationNumbers) -> Formula:
    k, i = sp.symbols("k i", integer=True, positive=True)
    return Formula(
        name="Survival of drafted tokens",
        formula=sp.Eq(sp.Function("S")(k), sp.Product(sp.Indexed("c", i), (i, 1, k))),
        derivation="c_i is the chance that token i is accepted once all before it are; engines "
        "print either. A chain emits Omega = 1 + S_1 + ... + S_gamma.",
        inputs={f"S_{at + 1}": value for at, value in enumerate(s.survival)},
        value=s.survival_tokens,
        unit="tokens a round of 4 drafted",
        says="Rates that fall with position favour short drafts, rates that rise favour long ones.",
    )


def _over_output(found: ClosedForms, spec: SpeculationNumbers) -> Formula:
    p = found.prediction
    s, x, r = sp.symbols("S x R", positive=True)
    omega = sp.Function("Omega")(s + x)
    return Formula(
        name="Tokens a round while the context grows",
        formula=sp.Eq(sp.Symbol("Omega"), r / sp.Integral(1 / omega, (x, 0, r))),
        derivation=f"Every context is passed at Omega tokens a round; {OUTPUT_POINTS} points stand "
        "for the integral. Times are nearly straight in context, so their middle is their mean.",
        inputs={"S": float(p.workload.ctx_tokens), "R": float(p.workload.output_tokens)},
        value=float(spec.best.tokens_per_round),
        unit="tokens a round",
        says="A self-draft whose budget still holds the whole context accepts everything until the "
        "output grows past it.",
    )


def _regimes(spec: SpeculationNumbers) -> Formula:
    """a / s of each kind of drafter at two contexts; the best draft length rises with it."""
    a, s = sp.Function("a"), sp.Function("s")
    b, c = sp.symbols("B S", positive=True)
    return Formula(
        name="Which drafters gain from context",
        formula=sp.Gt(sp.Derivative(a(b, c) / s(b, c), c), 0),
        derivation="A round lasts a + s gamma. Context adds KV time to a; to s only where the "
        "draft reads the context too. The best draft length rises with a / s.",
        inputs=dict(spec.family_ratios),
        value=None,
        unit="",
        says="A drafter of constant KV gains length with context, one whose KV grows little or "
        "none, one without KV until verification's arithmetic decides: `regimes` draws all three.",
    )


def _two_levels(draft: Draft) -> Formula:
    middle = draft.middle
    assert middle is not None
    g, inner, outer, omega = sp.symbols("gamma_1 t_inner t_middle Omega_1", positive=True)
    return Formula(
        name="A draft that is drafted for",
        formula=sp.Eq(sp.Symbol("T_draft"), (g * inner + outer) / omega),
        derivation="The smaller model drafts gamma_1 tokens for one middle pass, which emits "
        "Omega_1 of them for the target's gamma_2 (TriForce, arXiv 2404.11912).",
        inputs={"gamma_1": float(middle.gamma), "Omega_1": middle.tokens_per_pass},
        value=None,
        unit="",
        says="It pays where the middle pass is dear beside the small model.",
    )


def _tree_worth(tree: TreeNumbers) -> Formula:
    v, t = sp.symbols("v T")
    r, path = sp.IndexedBase("p"), sp.Symbol("path(v)")
    return Formula(
        name="Worth of a tree",
        formula=sp.Eq(
            sp.Symbol("G"),
            sp.Sum(sp.Product(r[sp.Symbol("u")], (sp.Symbol("u"), 1, path)), (v, 1, t)),
        ),
        derivation="A node counts the product of the ranks on its path; ranks are unconditional "
        "over siblings. Where they do not increase, the n heaviest nodes of d levels are the "
        "best tree (Sequoia, arXiv 2402.12374).",
        inputs={
            "nodes": tree.size,
            "levels": tree.depth,
            "speedup": tree.speedup,
        },
        value=tree.tokens_per_round,
        unit="tokens a round",
        says="One node does not speculate; a chain is the tree of one child a node.",
    )


def _tree_time(found: ClosedForms, tree: TreeNumbers) -> Formula:
    level, depth, wide = sp.Symbol("l"), sp.Symbol("d"), sp.IndexedBase("w")
    draft_pass, n = sp.Function("t_draft"), sp.Symbol("n")
    host = found.prediction.scene.machine.calibration.host
    return Formula(
        name="Time of a tree's round",
        formula=sp.Sum(draft_pass(wide[level]), (level, 1, depth - 1))
        + sp.Function("T_verify")(n)
        + sp.Symbol("t_round"),
        derivation="Level l + 1 is drafted by one pass over the w_l nodes of level l; the target "
        "verifies all n nodes at once; the host adds a constant a round and a part that grows with "
        "the batch. A smaller model's first pass runs two tokens, for its cache may lack the last "
        "one accepted.",
        inputs={
            "drafting": tree.draft_seconds,
            "T_verify": tree.verify_seconds,
            "t_round": float(host.between_passes_seconds(found.batch)),
        },
        value=tree.round_seconds,
        unit="seconds",
        says="Depth costs draft passes, width costs verification.",
    )


def _walls(found: ClosedForms) -> dict[str, float]:
    """Query tokens at which verification stops being free, by what stops it."""
    walls = {"attention wall": found.attention_wall_tokens, "linear wall": found.linear_wall_tokens}
    return {name: tokens for name, tokens in walls.items() if tokens is not None}


def _tree_rule(walls: dict[str, float]) -> Formula:
    n, w, g, t, c, d = sp.symbols("n w_n G t(n) c d")
    return Formula(
        name="When a tree is large enough",
        formula=sp.Lt(w, g * sp.Derivative(t, n) / (t + d * c)),
        derivation="G is concave in n (the sum of the n heaviest nodes), so adding nodes stops "
        "where the next weight w_n no longer pays for its time (Sequoia, arXiv 2402.12374).",
        inputs=walls,
        value=min(walls.values()),
        unit="nodes until verification is no longer free",
        says="Longer context pushes the best tree up to the attention wall and not beyond; a "
        "larger batch pulls it down to the linear wall.",
    )


def _ragged(found: ClosedForms, s: SpeculationNumbers) -> Formula:
    r, g, v, b = sp.symbols("R G Var B", positive=True)
    return Formula(
        name="Rounds until the last sequence of a static batch is done",
        formula=r / g + sp.sqrt(r * v / g**3) * sp.sqrt(2 * sp.log(b)),
        derivation="Sequences advance by random steps of mean G; the slowest of B lags by the "
        "expected maximum of B normals. Continuous batching refills slots and loses nothing.",
        inputs={
            "R": s.static_output_tokens,
            "B": found.batch,
            "G": s.static_mean_tokens,
            "Var": s.static_variance,
        },
        value=s.static_share,
        unit="of continuous batching's throughput",
        says="Short outputs in a large static batch lose much of what speculation gains; "
        "--batching static puts this into every choice.",
    )


def _interval(found: ClosedForms, s: SpeculationNumbers) -> Formula:
    best, calibration = s.best, found.prediction.scene.machine.calibration
    x, low, t, h, n, r = sp.symbols("speedup Omega_low/Omega t_low h n t_round", positive=True)
    timing, host = calibration.speedup_residual, calibration.host
    draft = found.prediction.resolved.draft
    launch = host.draft_launch_seconds(draft is not None and draft.own_vocabulary)
    disputed = launch * host.draft_step_spread
    return Formula(
        name="Interval of a speedup",
        formula=sp.Eq(
            sp.Symbol("low"),
            x * sp.exp(-sp.sqrt(sp.log(low) ** 2 + sp.log(t) ** 2 + (n * h / r) ** 2)),
        ),
        derivation="Acceptance, times and the host's time of a draft step err independently, so "
        "the logarithms of their 80 % factors add in quadrature. Published sweeps disagree on the "
        "last by h; n draft steps take n h of a round.",
        inputs={
            "speedup": float(best.speedup),
            "t_low": timing.low,
            "t_high": timing.high,
            "h": disputed,
            "n": float(best.gamma),
            "t_round": float(best.round_seconds),
        },
        value=float(best.speedup_low),
        unit="times, the lower end",
        says="Where the lower end is below 1 the draft may lose: measure it first.",
    )
