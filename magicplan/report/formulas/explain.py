"""The closed forms behind a prediction, with the workload's own numbers put in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from magicplan.prediction.result import Prediction, plain, provenance
from magicplan.report.document.terminal import notes
from magicplan.report.formulas.evidence import evidence_line
from magicplan.report.formulas.formula import Formula, number
from magicplan.report.formulas.speculation import speculation_formulas
from magicplan.roofline import symbolic
from magicplan.roofline.speculation import optimal_gamma, rounds
from magicplan.roofline.symbolic import View


def render(prediction: Prediction, console: Console) -> None:
    """Print every formula: its name, the form, where it comes from, the numbers, what they say."""
    for entry in formulas(prediction):
        console.print(Text(entry.name, style="bold"))
        drawing = sp.pretty(entry.formula, use_unicode=True, num_columns=console.width - 6)
        console.print(Padding(Text(drawing, no_wrap=True), (0, 0, 0, 4)))
        console.print(Padding(Text(entry.derivation, style="dim"), (0, 0, 0, 2)))
        numbers = ", ".join(f"{k} = {number(v)}" for k, v in entry.inputs.items())
        value = "" if entry.value is None else f" -> {number(entry.value)} {entry.unit}".rstrip()
        console.print(Padding(Text(numbers + value), (0, 0, 0, 2)))
        console.print(Padding(Text(entry.says), (0, 0, 1, 2)))
    calibration = prediction.scene.machine.calibration
    if calibration.evidence:
        lines = [evidence_line(entry) for entry in calibration.evidence]
        notes(console, f"Constants of calibration {calibration.name}", lines)


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """The same as JSON, with LaTeX."""
    return {
        "schema": "magicplan.explain/1",
        "calibration": provenance(prediction.scene.machine.calibration),
        "formulas": [
            {
                "name": entry.name,
                "formula": str(entry.formula),
                "latex": sp.latex(entry.formula),
                "derivation": entry.derivation,
                "inputs": {key: plain(value) for key, value in entry.inputs.items()},
                "value": plain(entry.value),
                "unit": entry.unit,
                "says": entry.says,
            }
            for entry in formulas(prediction)
        ],
    }


def formulas(p: Prediction) -> Iterator[Formula]:
    """All of them, in the order in which they decide."""
    view = View(model=p.scene.target, layout=_scalar_layout(p), machine=p.scene.machine)
    yield _kv_equals_weights(p, view)
    yield from _linear_wall(p, view)
    yield _attention_wall(p, view)
    if len(p.gammas) > 1:
        yield _speedup(p)
        yield _best_gamma(p)
        yield _growth(p)
        yield _break_even(p)
        yield from speculation_formulas(p, view)


def _scalar_layout(p: Prediction) -> Any:
    """The chosen deployment with plain numbers for degrees."""
    layout = p.scene.layout
    return replace(layout, tp=_one(layout.tp), pp=_one(layout.pp), replicas=_one(layout.replicas))


def _one(value: Any) -> float:
    return float(np.max(value))


def _batch(p: Prediction) -> float:
    return float(p.workload.batch_per_replica)


def _kv_equals_weights(p: Prediction, view: View) -> Formula:
    value = float(p.break_even.kv_equals_weights_ctx_tokens)
    form = view.kv_equals_weights()
    return Formula(
        name="Context where KV bytes equal weight bytes",
        formula=sp.Eq(symbolic.CTX, form.evalf(4) if form is not None else sp.nan),
        derivation="KV bytes read and written by a decode step, set equal to its weight bytes.",
        inputs={"B": _batch(p)},
        value=None if np.isnan(value) else value,
        unit="tokens",
        says="Beyond it the KV cache is the larger traffic: shrinking what a draft reads of it "
        "pays, and a second model to draft with is dear.",
    )


def _linear_wall(p: Prediction, view: View) -> Iterator[Formula]:
    wall = view.linear_wall()
    if wall is None:
        return
    yield Formula(
        name="Query tokens where linear layers turn compute-bound",
        formula=sp.Eq(symbolic.BATCH * symbolic.QUERY, wall.evalf(4)),
        derivation="FLOP over peak minus bytes over bandwidth, summed over linear layers, is zero.",
        inputs={"B": _batch(p)},
        value=float(wall) / _batch(p),
        unit="tokens a sequence",
        says="A verification or tree with more query tokens than this pays for each of them.",
    )


def _attention_wall(p: Prediction, view: View) -> Formula:
    ridge, intensity = view.attention_ridge(), float(view.attention_intensity())
    return Formula(
        name="Query tokens where attention turns compute-bound",
        formula=sp.Eq(symbolic.QUERY, sp.Symbol("ridge") / sp.Symbol("I_1")),
        derivation="At long context one query token adds I_1 FLOP per byte of KV: the query heads "
        "that share a KV head in a 16-bit cache, more for a narrower or a latent cache.",
        inputs={"ridge": ridge, "I_1": intensity},
        value=ridge / intensity,
        unit="query tokens",
        says="Trees larger than this lose at long context, however cheap their drafting is.",
    )


def _speedup(p: Prediction) -> Formula:
    best = p.best if p.best.gamma else p.gammas[1]
    return Formula(
        name="Speedup of a round",
        formula=sp.Eq(sp.Symbol("speedup"), symbolic.speedup()),
        derivation="Tokens a round emits over its time, against one token a decode step "
        "(i.i.d. acceptance; Leviathan et al., arXiv 2211.17192).",
        inputs={
            "gamma": float(best.gamma),
            "T_target": float(p.baseline.step_seconds),
            "T_draft": float(best.draft_seconds / best.gamma),
            "T_verify": float(best.verify_seconds),
            "t_round": float(best.overhead_seconds),
            "Omega": float(best.tokens_per_round),
        },
        value=float(best.speedup),
        unit="times",
        says="Three levers: verification near one step, a draft near nothing, a long Omega.",
    )


def _line(p: Prediction) -> tuple[float, float, float]:
    """alpha, a and s: the first position's acceptance and the round as a + s gamma."""
    times = np.array([float(entry.round_seconds) for entry in p.gammas])
    slope = float(np.diff(times[:5]).mean())
    return float(p.gammas[1].tokens_per_round) - 1, float(times[1] - slope), slope


def _best_gamma(p: Prediction) -> Formula:
    alpha, fixed, slope = _line(p)
    value = float(optimal_gamma(alpha, fixed, slope))
    best = max(p.gammas, key=lambda entry: float(entry.tokens_per_s))
    return Formula(
        name="Best draft length",
        formula=sp.Eq(sp.Symbol("gamma*"), symbolic.optimal_gamma_closed_form()),
        derivation="d/dgamma of tokens over a + s gamma is zero: u - ln u = 1 + lam (a/s - 1) with "
        "lam = -ln alpha, solved by the lower branch of Lambert W.",
        inputs={"alpha": alpha, "a": fixed, "s": slope},
        value=value,
        unit="drafted tokens",
        says=f"Evaluating every length finds {best.gamma}; they differ where verification bends "
        "or acceptance changes with position.",
    )


def _growth(p: Prediction) -> Formula:
    """gamma* over contexts that double, with this draft."""
    alpha, _, _ = _line(p)
    contexts = np.array([4096.0 * 4**k for k in range(4)])
    scene = replace(p.scene, ctx=contexts[None, :])
    table = rounds(scene, p.resolved.draft, p.resolved.acceptance, 4)
    times = np.broadcast_to(table.round_seconds, (1, contexts.size, 5))[0]
    slope = np.diff(times, axis=-1).mean(axis=-1)
    lengths = optimal_gamma(alpha, times[:, 1] - slope, slope)
    return Formula(
        name="How the best draft length grows",
        formula=sp.Eq(
            sp.Symbol("gamma*"), sp.log(symbolic.FIXED / symbolic.SLOPE) / -sp.log(symbolic.ALPHA)
        ),
        derivation="For a much larger than s, u grows like lam a / s, so gamma* like its "
        "logarithm: with a fixed draft budget a grows with context and s does not.",
        inputs={
            f"gamma* at {int(c) // 1024}k": float(g) for c, g in zip(contexts, lengths, strict=True)
        },
        value=None,
        unit="",
        says="Four times the context adds about a constant number of drafted tokens, until the "
        "draft's or verification's own cost grows as well.",
    )


def _break_even(p: Prediction) -> Formula:
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
