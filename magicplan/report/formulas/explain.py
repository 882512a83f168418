"""The closed forms behind a prediction, with the workload's own numbers put in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp

from magicplan.prediction.closed_forms import ClosedForms, SpeculationNumbers
from magicplan.prediction.result import plain, provenance
from magicplan.report.formulas.evidence import evidence_line
from magicplan.report.formulas.formula import Formula
from magicplan.report.formulas.speculation import speculation_formulas
from magicplan.roofline import symbolic
from magicplan.roofline.layers.costs import LayerCost

COLUMNS = 74
"""Characters across in which a drawn formula fits."""


def as_dict(found: ClosedForms) -> dict[str, Any]:
    """The JSON of `magicplan explain`: every formula as text, as LaTeX and drawn in characters."""
    p = found.prediction
    calibration = p.scene.machine.calibration
    return {
        "schema": "magicplan.explain/1",
        "accelerator": p.accelerator.name,
        "model": p.model.name,
        "verdict": p.verdict.to_dict(),
        "calibration": provenance(calibration),
        "evidence": [evidence_line(entry) for entry in calibration.evidence],
        "formulas": [
            {
                "name": entry.name,
                "formula": str(entry.formula),
                "latex": sp.latex(entry.formula),
                "drawn": sp.pretty(entry.formula, use_unicode=True, num_columns=COLUMNS),
                "derivation": entry.derivation,
                "inputs": {key: plain(value) for key, value in entry.inputs.items()},
                "value": plain(entry.value),
                "unit": entry.unit,
                "says": entry.says,
            }
            for entry in formulas(found)
        ],
    }


def formulas(found: ClosedForms) -> Iterator[Formula]:
    """All closed forms, in the order in which they decide."""
    yield _kv_equals_weights(found)
    if found.linear_wall is not None:
        yield _linear_wall(found)
    if found.attention is not None:
        yield _attention_wall(found, *found.attention)
    yield from (_layer(cost) for cost in found.layers if cost.turn is not None)
    if found.speculation is not None:
        yield _speedup(found, found.speculation)
        yield _best_gamma(found.speculation)
        yield _growth(found.speculation)
        yield _break_even(found)
        yield from speculation_formulas(found, found.speculation)


def _kv_equals_weights(found: ClosedForms) -> Formula:
    value = float(found.prediction.break_even.kv_equals_weights_ctx_tokens)
    form = found.kv_equals_weights
    return Formula(
        name="Context where KV bytes equal weight bytes",
        formula=sp.Eq(symbolic.CTX, form.evalf(4) if form is not None else sp.nan),
        derivation="KV bytes read and written by a decode step, set equal to its weight bytes.",
        inputs={"B": found.batch},
        value=None if np.isnan(value) else value,
        unit="tokens",
        says="Beyond it the KV cache is the larger traffic: shrinking what a draft reads of it "
        "pays, and a second model to draft with is dear.",
    )


def _linear_wall(found: ClosedForms) -> Formula:
    return Formula(
        name="Query tokens where linear layers turn compute-bound",
        formula=sp.Eq(symbolic.BATCH * symbolic.QUERY, found.linear_wall.evalf(4)),
        derivation="FLOP over peak minus bytes over bandwidth, summed over linear layers, is zero.",
        inputs={"B": found.batch},
        value=found.linear_wall_tokens,
        unit="tokens a sequence",
        says="A verification or tree with more query tokens than this pays for each of them.",
    )


def _attention_wall(found: ClosedForms, ridge: float, intensity: float) -> Formula:
    return Formula(
        name="Query tokens where attention turns compute-bound",
        formula=sp.Eq(symbolic.QUERY, sp.Symbol("ridge") / sp.Symbol("I_1")),
        derivation="At long context one query token adds I_1 FLOP per byte of KV: the query heads "
        "that share a KV head in a 16-bit cache, more for a narrower or a latent cache.",
        inputs={"ridge": ridge, "I_1": intensity},
        value=found.attention_wall_tokens,
        unit="query tokens",
        says="Trees larger than this lose at long context, however cheap their drafting is.",
    )


def _layer(cost: LayerCost) -> Formula:
    """The formula of where a kind of layer goes from memory-bound to compute-bound, and what that
    says of verifying drafts."""
    form, derivation, says = TURNS["window" if "window" in cost.kind else cost.turn_unit]
    ratio = float(cost.verify_over_step)
    return Formula(
        name=f"Layers of {cost.kind} ({cost.layers} of them)",
        formula=form,
        derivation=derivation,
        inputs={"verify of 5 over a step": ratio},
        value=cost.turn,
        unit=cost.turn_unit,
        says=says,
    )


STATES, WINDOW, PICKED, KEYS = sp.symbols("s w k_bytes i_bytes", positive=True)
TURNS = {
    "window": (
        sp.Eq(symbolic.CTX, WINDOW),
        "A query sees w tokens at most, and the cache holds no more.",
        "Beyond it neither a step nor a verification costs more with the context.",
    ),
    "tokens": (
        sp.Eq(symbolic.CTX, PICKED / KEYS),
        "Bytes of the tokens that an indexer picks over bytes of one index key. Every query token "
        "of a verification picks for itself, and none reads more than there is.",
        "Beyond it the keys that are scored outweigh the tokens that are read: a verification, "
        "which reads the keys once, comes nearer to a step.",
    ),
    "sequences": (
        sp.Eq(symbolic.BATCH, sp.Symbol("W") / (2 * STATES)),
        "Weight bytes of a step over the states of one sequence, read and written. A verification "
        "of T tokens moves 1 + T states, one saved after each.",
        "From this batch on a verification costs about (1 + T) / 2 steps: drafts have to be short.",
    ),
}


def _speedup(found: ClosedForms, s: SpeculationNumbers) -> Formula:
    best = s.best
    return Formula(
        name="Speedup of a round",
        formula=sp.Eq(sp.Symbol("speedup"), symbolic.speedup()),
        derivation="Tokens a round emits over its time, against one token a decode step "
        "(i.i.d. acceptance; Leviathan et al., arXiv 2211.17192).",
        inputs={
            "gamma": float(best.gamma),
            "T_target": float(found.prediction.baseline.step_seconds),
            "T_draft": float(best.draft_seconds / best.gamma),
            "T_verify": float(best.verify_seconds),
            "t_round": float(best.overhead_seconds),
            "Omega": float(best.tokens_per_round),
        },
        value=float(best.speedup),
        unit="times",
        says="Three levers: verification near one step, a draft near nothing, a long Omega.",
    )


def _best_gamma(s: SpeculationNumbers) -> Formula:
    return Formula(
        name="Best draft length",
        formula=sp.Eq(sp.Symbol("gamma*"), symbolic.optimal_gamma_closed_form()),
        derivation="d/dgamma of tokens over a + s gamma is zero: u - ln u = 1 + lam (a/s - 1) with "
        "lam = -ln alpha, solved by the lower branch of Lambert W.",
        inputs={"alpha": s.first_acceptance, "a": s.fixed_seconds, "s": s.slope_seconds},
        value=s.best_gamma,
        unit="drafted tokens",
        says=f"Evaluating every length finds {s.fastest_gamma}; they differ where verification "
        "bends or acceptance changes with position.",
    )


def _growth(s: SpeculationNumbers) -> Formula:
    """The best draft length over contexts that quadruple, with this draft."""
    return Formula(
        name="How the best draft length grows",
        formula=sp.Eq(
            sp.Symbol("gamma*"), sp.log(symbolic.FIXED / symbolic.SLOPE) / -sp.log(symbolic.ALPHA)
        ),
        derivation="For a much larger than s, u grows like lam a / s, so gamma* like its "
        "logarithm: with a fixed draft budget a grows with context and s does not.",
        inputs={f"gamma* at {ctx // 1024}k": length for ctx, length in s.best_gammas.items()},
        value=None,
        unit="",
        says="Four times the context adds about a constant number of drafted tokens, until the "
        "draft's or verification's own cost grows as well.",
    )


def _break_even(found: ClosedForms) -> Formula:
    p = found.prediction
    return Formula(
        name="Acceptance that breaks even",
        formula=sp.Eq(symbolic.tokens_per_round(), symbolic.break_even_tokens()),
        derivation="The smallest alpha at which some gamma emits as many tokens as its round "
        "costs decode steps; needs no acceptance data.",
        inputs={
            "Omega needed": float(p.gammas[1].round_seconds / p.baseline.step_seconds),
            "gamma": 1.0,
        },
        value=plain(p.break_even.speedup_one_acceptance),
        unit="",
        says="A draft that is accepted less often than this slows decoding down.",
    )
