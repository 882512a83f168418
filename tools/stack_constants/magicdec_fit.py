"""MagicDec's constants on one GPU, from rounds that were published with their parts.

Its kernels are in no table: those of another stack on the same GPU stand in for them, and six
numbers say how it differs. Its draft reads a pool of its own with a kernel made for prefill, which
on an A100 reaches a tenth of the bandwidth that its decode attention does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import AttentionFit, Calibration, HostFit, Residual
from magicplan.hardware_specs.calibration_files import CALIBRATIONS, read
from magicplan.prediction.placement import place, scene_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, resolve
from magicplan.replay.published import Case
from magicplan.roofline.deployment import Array
from magicplan.roofline.speculation import rounds
from magicplan.roofline.timing import Machine
from tools.stack_constants.coverage import Covering, covering
from tools.stack_constants.evidence import evidence
from tools.stack_constants.round_fit import LEAST
from tools.stack_constants.stack_fit import MIN_CASES

NUMBERS: dict[str, tuple[float, float, float]] = {
    "step_us": (1, 3000, 3e4),
    "token_us": (1e-3, 10, 1e3),
    "draft_step_us": (1, 2000, 3e4),
    "round_us": (1, 1000, 1e4),
    "attention_efficiency": (0.2, 0.8, 1),
    "draft_attention_efficiency": (0.03, 0.5, 1),
}
"""Least, first and largest value of what is fitted."""
SPEEDUP_WEIGHT = 2.0
PRIOR_WEIGHT = 0.05
KERNELS = {
    "a100-sxm-80gb": "a100-sxm-80gb_vllm_0.14.0",
    "h100-sxm": "h100-sxm_vllm_0.19.0",
    "l40": "l40s_sglang_0.5.12",
}
"""Whose kernels stand in for MagicDec's on each GPU it was published for, most rows first. Eight
L40 meet over PCIe, and of the tables of all-reduces there only this one follows a form (16 % off
rows not fitted, the others 40)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MagicFit:
    """The `NUMBERS` of one GPU, and every set of its rows beside a calibration without it."""

    gpu: str
    kernels: Calibration
    numbers: Array
    rows: int
    folds: tuple[tuple[list[Case], Calibration], ...]


def fit_each(cases: list[Case]) -> Iterator[MagicFit]:
    """Every GPU of `KERNELS`, each drawn towards the one before: L40 has three rows."""
    prior = None
    for gpu, name in KERNELS.items():
        own = [
            c for c in cases if c.engine == "MagicDec" and c.step_seconds and c.ask["gpu"] == gpu
        ]
        kernels = read(CALIBRATIONS / f"{name}.toml")
        numbers = fit_magicdec(own, kernels, prior)
        folds = tuple(held_out(own, kernels, prior))
        yield MagicFit(gpu=gpu, kernels=kernels, numbers=numbers, rows=len(own), folds=folds)
        prior = numbers


def fit_magicdec(cases: list[Case], kernels: Calibration, prior: Array | None = None) -> Array:
    """The `NUMBERS` that bring target, draft and verification steps and speedups nearest.

    Few rows are drawn towards `prior`, another GPU's numbers, on a logarithmic scale.
    """
    asks = _asked(cases)
    low, first, high = np.log(np.asarray(list(NUMBERS.values())).T)
    start = first if prior is None else np.clip(np.log(prior), low + 1e-3, high - 1e-3)

    def residual(logs: Array) -> Array:
        errors = _errors(cases, asks, magicdec_calibration(kernels, np.exp(logs)))
        drawn = PRIOR_WEIGHT * (logs - start) if prior is not None else np.zeros(0)
        speedups = SPEEDUP_WEIGHT * errors["speedup"]
        return np.concatenate([errors["step"], errors["draft"], errors["verify"], speedups, drawn])

    found = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    return np.asarray(np.exp(found.x))


def magicdec_calibration(kernels: Calibration, numbers: Array) -> Calibration:
    """The kernels of a GPU with MagicDec's numbers."""
    step, token, draft, whole, efficiency, draft_efficiency = (float(n) for n in numbers)
    return replace(
        kernels,
        attention=_at(kernels.attention, efficiency),
        draft_attention=_at(kernels.attention, draft_efficiency),
        host=HostFit(
            kernel_seconds=kernels.host.kernel_seconds,
            step_seconds=step * 1e-6,
            token_seconds=token * 1e-6,
            draft_step_seconds=draft * 1e-6,
            round_seconds=whole * 1e-6,
        ),
    )


def _at(fits: Mapping[str, AttentionFit], efficiency: float) -> dict[str, AttentionFit]:
    return {k: replace(fit, memory_efficiency=min(efficiency, 1.0)) for k, fit in fits.items()}


def held_out(
    cases: list[Case], kernels: Calibration, prior: Array | None = None
) -> Iterator[tuple[list[Case], Calibration]]:
    """Every (target, draft, context) with the calibration fitted on all the others."""
    sets = [(c.ask["model"], c.ask["draft"], c.ask["ctx"]) for c in cases]
    if len(set(sets)) < 2:
        raise UsageError(
            "MagicDec: all rows are of one target, draft and context: none to hold out"
        )
    for left_out in sorted(set(sets)):
        known = [c for c, s in zip(cases, sets, strict=True) if s != left_out]
        unseen = [c for c, s in zip(cases, sets, strict=True) if s == left_out]
        yield unseen, magicdec_calibration(kernels, fit_magicdec(known, kernels, prior))


def magicdec_residuals(
    folds: Iterable[tuple[list[Case], Calibration]],
) -> tuple[Residual, Residual]:
    """Spread of held-out steps and speedups, never below 5 %."""
    found = [_errors(unseen, _asked(unseen), calibration) for unseen, calibration in folds]
    step, speedup = (_covering(found, part) for part in ("step", "speedup"))
    basis = f"measured over predicted, {sum(len(e['step']) for e in found)} published MagicDec rows"
    return (
        Residual(low=step.low, high=step.high, basis=f"{basis}, each held out"),
        Residual(low=speedup.low, high=speedup.high, basis=f"{basis}, each held out"),
    )


PARTS = {
    "step": ("host.step_seconds", "host.token_seconds", "attention.memory_efficiency"),
    "draft": ("host.draft_step_seconds", "draft_attention.memory_efficiency"),
    "verify": ("host.step_seconds", "host.token_seconds"),
    "speedup": ("host.round_seconds",),
}
"""What a row states, and the constants that decide it most; all six are fitted on all rows."""


def magicdec_evidence(
    folds: list[tuple[list[Case], Calibration]], fitted: Calibration
) -> list[dict[str, Any]]:
    """What the numbers rest on: held-out errors of every part of a round, and how often
    verification seems to read the cache."""
    errors = [_errors(unseen, _asked(unseen), calibration) for unseen, calibration in folds]
    cases = [case for unseen, _ in folds for case in unseen]
    found = []
    for part, names in PARTS.items():
        ratios = np.exp(np.concatenate([e[part] for e in errors]))
        stated = [c for c in cases if _measured(c)[part]]
        if stated:
            sets = [f"{c.ask['model']} {c.ask['draft']} {c.ask['ctx']}" for c in stated]
            sources = [c.source for c in stated]
            found.append(evidence(f"magicdec {part}", names, sources, sets, ratios, held_out=True))
    return [*found, *_passes(cases, fitted)]


def _passes(cases: list[Case], fitted: Calibration) -> Iterator[dict[str, Any]]:
    """How much of the cache each further query token would have to read again for verification to
    take as long as measured, everything else as fitted."""
    stated = [c for c in cases if c.verify_seconds]
    if len(stated) < MIN_CASES:
        return
    asks = _asked(stated)

    def residual(share: Array) -> Array:
        attention = {
            k: replace(f, reread_share=float(share[0])) for k, f in fitted.attention.items()
        }
        return _errors(stated, asks, replace(fitted, attention=attention))["verify"]

    best = least_squares(residual, [0.05], bounds=(0, 1), loss="soft_l1", f_scale=0.1)
    told = f"{len(stated)} published verifications fit best with {best.x[0]:.2f} of the cache"
    yield {
        "part": "verification",
        "rows": len(stated),
        "reread_share": round(float(best.x[0]), 4),
        "says": f"{told} read again for every further query token",
    }


def magicdec_coverage(folds: Iterable[tuple[list[Case], Calibration]]) -> tuple[float, float]:
    """Share of steps and of speedups inside intervals that the other sets of rows give."""
    found = [_errors(unseen, _asked(unseen), calibration) for unseen, calibration in folds]
    step, speedup = (_covering(found, part).coverage for part in ("step", "speedup"))
    return step, speedup


def _covering(errors: list[dict[str, Array]], part: str) -> Covering:
    logs = np.concatenate([e[part] for e in errors])
    folds = np.repeat(np.arange(len(errors)), [len(e[part]) for e in errors])
    return covering(np.exp(-logs), folds, LEAST)


def _measured(case: Case) -> dict[str, float | None]:
    return {
        "step": case.step_seconds,
        "draft": case.draft_seconds,
        "verify": case.verify_seconds,
        "speedup": case.speedup,
    }


def _asked(cases: list[Case]) -> list[Resolved]:
    return [resolve(Request(**case.ask)) for case in cases]


def _errors(cases: list[Case], asks: list[Resolved], calibration: Calibration) -> dict[str, Array]:
    """Logarithms of predicted over measured, where a row states the part."""
    logs: dict[str, list[float]] = {"step": [], "draft": [], "verify": [], "speedup": []}
    for case, ask in zip(cases, asks, strict=True):
        machine = Machine(accelerator=ask.machine.accelerator, calibration=calibration)
        asked = replace(ask, machine=machine)
        table = rounds(scene_of(asked, place(asked)), ask.draft, ask.acceptance, ask.max_gamma)
        predicted = {
            "step": table.round_seconds.flat[0],
            "draft": table.draft_seconds.flat[-1] / max(ask.max_gamma, 1),
            "verify": table.verify_seconds.flat[-1],
            "speedup": table.speedup.flat[-1],
        }
        for part, value in _measured(case).items():
            if value:
                logs[part].append(float(np.log(predicted[part] / value)))
    return {part: np.asarray(values) for part, values in logs.items()}
