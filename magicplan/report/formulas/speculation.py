"""Closed forms of speculation beyond one chain: survival, regimes, trees, batches, intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from magicplan.prediction.candidates import family_drafts
from magicplan.prediction.draft_names import draft_of
from magicplan.prediction.result import Prediction
from magicplan.report.formulas.acceptance import acceptance_formula
from magicplan.report.formulas.formula import Formula
from magicplan.roofline.acceptance import accept_length_variance, tokens_per_round
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import OUTPUT_POINTS, rounds, static_efficiency
from magicplan.roofline.tree_grid import Limits, tree_cells

if TYPE_CHECKING:
    from magicplan.roofline.symbolic import View

TREE = Limits(size=64, depth=12)
KINDS = {"constant": "constant KV", "growing": "growing KV", "none": "no KV"}


def speculation_formulas(p: Prediction, view: View) -> Iterator[Formula]:
    """All of them, for a workload with a draft."""
    draft = p.resolved.draft
    if draft is None:
        return
    yield _survival(p, draft)
    yield acceptance_formula(p.resolved.acceptance)
    if p.workload.output_tokens:
        yield _over_output(p)
    yield _regimes(p)
    if draft.middle is not None:
        yield _two_levels(draft)
    if draft.grows_trees:
        yield _tree_worth(p, draft)
        yield _tree_time(p, draft)
    yield _tree_rule(p, view)
    yield _ragged(p, draft)
    yield _interval(p)


def _survival(p: Prediction, draft: Draft) -> Formula:
    survival = p.resolved.acceptance.survival(4, p.scene.ctx, draft.budget_tokens)[0, 0]
    k, i = sp.symbols("k i", integer=True, positive=True)
    return Formula(
        name="Survival of drafted tokens",
        formula=sp.Eq(sp.Function("S")(k), sp.Product(sp.Indexed("c", i), (i, 1, k))),
        derivation="c_i is the chance that token i is accepted once all before it are; engines "
        "print either. A chain emits Omega = 1 + S_1 + ... + S_gamma.",
        inputs={f"S_{at + 1}": float(value) for at, value in enumerate(survival)},
        value=float(tokens_per_round(survival)[-1]),
        unit="tokens a round of 4 drafted",
        says="Rates that fall with position favour short drafts, rates that rise favour long ones.",
    )


def _over_output(p: Prediction) -> Formula:
    s, x, r = sp.symbols("S x R", positive=True)
    omega = sp.Function("Omega")(s + x)
    best = p.gammas[int(p.best.gamma) or 1]
    return Formula(
        name="Tokens a round while the context grows",
        formula=sp.Eq(sp.Symbol("Omega"), r / sp.Integral(1 / omega, (x, 0, r))),
        derivation=f"Every context is passed at Omega tokens a round; {OUTPUT_POINTS} points stand "
        "for the integral. Times are nearly straight in context, so their middle is their mean.",
        inputs={"S": float(p.workload.ctx_tokens), "R": float(p.workload.output_tokens)},
        value=float(best.tokens_per_round),
        unit="tokens a round",
        says="A self-draft whose budget still holds the whole context accepts everything until the "
        "output grows past it.",
    )


def _regimes(p: Prediction) -> Formula:
    """a / s of each kind of drafter at two contexts; the best draft length rises with it."""
    contexts = np.array([[4096.0, 65536.0]])
    scene = replace(p.scene, ctx=contexts, output_tokens=0.0)
    inputs = {}
    for choice in family_drafts(p.resolved.model.name):
        ask = replace(p.resolved.request, draft_dtype=None, **choice)  # type: ignore[arg-type]
        draft = draft_of(ask, p.resolved.model)
        if draft is None:
            continue
        table = rounds(scene, draft, p.resolved.acceptance, 4)
        times = np.broadcast_to(table.round_seconds, (1, 2, 5))[0]
        slope = np.diff(times, axis=-1).mean(axis=-1)
        for name, ratio in zip(("4k", "64k"), (times[:, 1] - slope) / slope, strict=True):
            inputs[f"{KINDS[draft.kv_growth]} at {name}"] = float(ratio)
    a, s = sp.Function("a"), sp.Function("s")
    b, c = sp.symbols("B S", positive=True)
    return Formula(
        name="Which drafters gain from context",
        formula=sp.Gt(sp.Derivative(a(b, c) / s(b, c), c), 0),
        derivation="A round lasts a + s gamma. Context adds KV time to a; to s only where the "
        "draft reads the context too. The best draft length rises with a / s.",
        inputs=inputs,
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


def _tree_worth(p: Prediction, draft: Draft) -> Formula:
    cells = tree_cells(p.scene, draft, p.resolved.acceptance, TREE)
    v, t = sp.symbols("v T")
    r, path = sp.IndexedBase("p"), sp.Symbol("path(v)")
    best = cells.best
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
            "nodes": float(best.size[0, 0]),
            "levels": float(best.depth[0, 0]),
            "speedup": float(best.speedup[0, 0]),
        },
        value=float(best.tokens_per_round[0, 0]),
        unit="tokens a round",
        says="One node does not speculate; a chain is the tree of one child a node.",
    )


def _tree_time(p: Prediction, draft: Draft) -> Formula:
    cells = tree_cells(p.scene, draft, p.resolved.acceptance, TREE)
    level, depth, wide = sp.Symbol("l"), sp.Symbol("d"), sp.IndexedBase("w")
    draft_pass, n = sp.Function("t_draft"), sp.Symbol("n")
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
            "drafting": float(cells.best.draft_seconds[0, 0]),
            "T_verify": float(cells.best.verify_seconds[0, 0]),
            "t_round": float(p.scene.machine.calibration.host.between_passes_seconds(_batch(p))),
        },
        value=float(cells.best.round_seconds[0, 0]),
        unit="seconds",
        says="Depth costs draft passes, width costs verification.",
    )


def _tree_rule(p: Prediction, view: View) -> Formula:
    n, w, g, t, c, d = sp.symbols("n w_n G t(n) c d")
    walls = {"attention wall": view.attention_ridge() / float(view.attention_intensity())}
    linear = view.linear_wall()
    if linear is not None:
        walls["linear wall"] = float(linear) / _batch(p)
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


def _batch(p: Prediction) -> float:
    return float(p.workload.batch_per_replica)


def _ragged(p: Prediction, draft: Draft) -> Formula:
    r, g, v, b = sp.symbols("R G Var B", positive=True)
    best = p.gammas[int(p.best.gamma) or 1]
    survival = p.resolved.acceptance.survival(int(best.gamma), p.scene.ctx, draft.budget_tokens)
    mean = float(tokens_per_round(survival)[0, 0, -1])
    variance = float(accept_length_variance(survival)[0, 0, -1])
    output = float(p.workload.output_tokens) or 256.0
    share = static_efficiency(mean, variance, output, _batch(p))
    return Formula(
        name="Rounds until the last sequence of a static batch is done",
        formula=r / g + sp.sqrt(r * v / g**3) * sp.sqrt(2 * sp.log(b)),
        derivation="Sequences advance by random steps of mean G; the slowest of B lags by the "
        "expected maximum of B normals. Continuous batching refills slots and loses nothing.",
        inputs={"R": output, "B": _batch(p), "G": mean, "Var": variance},
        value=float(share),
        unit="of continuous batching's throughput",
        says="Short outputs in a large static batch lose much of what speculation gains; "
        "--batching static puts this into every choice.",
    )


def _interval(p: Prediction) -> Formula:
    best = p.gammas[int(p.best.gamma) or 1]
    x, low, t, h, n, r = sp.symbols("speedup Omega_low/Omega t_low h n t_round", positive=True)
    timing, host = p.scene.machine.calibration.speedup_residual, p.scene.machine.calibration.host
    launch = host.draft_launch_seconds(
        p.resolved.draft is not None and p.resolved.draft.own_vocabulary
    )
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
