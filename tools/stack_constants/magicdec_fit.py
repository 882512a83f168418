"""MagicDec's constants on one GPU, from rounds that were published with their parts.

Its kernels are in no table: those of another stack on the same GPU stand in for them, and a few
numbers say how it differs. Its drafts run a kernel made for prefill over a pool of their own: they
take longer by a time for every number of their queries, whatever the cache they read, as if each
sequence and head filled a tile. A GPU has one number of its own for every three rows, those that
bring the rows held out nearest, and another GPU's for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
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
from magicplan.roofline.draft_cost import draft_layout, query_numbers
from magicplan.roofline.speculation import rounds
from magicplan.roofline.timing import Machine
from tools.stack_constants.coverage import Covering, covering
from tools.stack_constants.evidence import evidence
from tools.stack_constants.round_fit import LEAST, ROWS_PER_CONSTANT
from tools.stack_constants.stack_fit import MIN_CASES

NUMBERS: dict[str, tuple[float, float, float]] = {
    "step_us": (1, 3000, 3e4),
    "token_us": (1e-3, 10, 1e3),
    "draft_step_us": (1, 2000, 3e4),
    "round_us": (1, 1000, 1e4),
    "attention_efficiency": (0.2, 0.8, 1),
    "draft_query_ns": (1e-4, 3, 1e3),
}
"""Least, first and largest value of what is fitted."""
EFFICIENCIES = np.exp(np.linspace(np.log(0.2), 0.0, 9))
"""Shares of the bandwidth at which attention is timed, 0.2 to 1 in equal ratios; times between
them are interpolated."""
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
PARTS = ("step", "draft", "verify", "speedup")


@dataclass(frozen=True, slots=True, kw_only=True)
class MagicFit:
    """The `NUMBERS` of one GPU, which of them are its own, and every set of its rows beside a
    calibration without it."""

    gpu: str
    kernels: Calibration
    numbers: Array
    own: tuple[str, ...]
    rows: int
    folds: tuple[tuple[list[Case], Calibration], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A published round, and what its kernels take [us] at each of `EFFICIENCIES`."""

    case: Case
    decode: Array
    draft: Array
    """All draft passes."""
    verify: Array
    batch: float
    gamma: int
    tokens: float
    """Emitted a round."""
    queries: float
    """Numbers of a draft step's queries, a sequence."""
    first_pass_tokens: float

    def times(self, numbers: Array) -> dict[str, float]:
        """The parts of `PARTS`: seconds of a step, a draft step and a verification; a speedup."""
        step, token, draft, whole, efficiency, query = (float(n) for n in numbers)
        at = np.log(efficiency)
        decode, drafting, verify = (
            float(np.interp(at, np.log(EFFICIENCIES), part))
            for part in (self.decode, self.draft, self.verify)
        )
        one = draft + self.batch * (token + 1e-3 * query * self.queries)
        drafting += self.gamma * one + (self.first_pass_tokens - 1) * self.batch * (
            token + 1e-3 * query * self.queries
        )
        decode += step + token * self.batch
        verify += step + token * self.batch * (self.gamma + 1)
        return {
            "step": decode * 1e-6,
            "draft": drafting * 1e-6 / self.gamma,
            "verify": verify * 1e-6,
            "speedup": self.tokens * decode / (drafting + verify + whole),
        }


def fit_each(cases: list[Case]) -> Iterator[MagicFit]:
    """Every GPU of `KERNELS`; those of few rows take the first one's numbers but for a few."""
    prior = None
    for gpu, name in KERNELS.items():
        own = [
            c for c in cases if c.engine == "MagicDec" and c.step_seconds and c.ask["gpu"] == gpu
        ]
        kernels = read(CALIBRATIONS / f"{name}.toml")
        rows = list(_rows(own, kernels))
        free = _worth_freeing(rows, prior)
        yield MagicFit(
            gpu=gpu,
            kernels=kernels,
            numbers=_fit(rows, prior, free),
            own=free,
            rows=len(own),
            folds=tuple(_folds(rows, kernels, prior, free)),
        )
        prior = _fit(rows, prior, free) if prior is None else prior


def _rows(cases: list[Case], kernels: Calibration) -> Iterator[_Row]:
    for case, ask in zip(cases, _asked(cases), strict=True):
        assert ask.draft is not None
        times = []
        for efficiency in EFFICIENCIES:
            bare = replace(
                kernels,
                attention=_at(kernels.attention, float(efficiency)),
                host=HostFit(kernel_seconds=kernels.host.kernel_seconds),
            )
            machine = Machine(accelerator=ask.machine.accelerator, calibration=bare)
            scene = scene_of(replace(ask, machine=machine), place(replace(ask, machine=machine)))
            table = rounds(scene, ask.draft, ask.acceptance, ask.max_gamma)
            parts = table.round_seconds, table.draft_seconds, table.verify_seconds
            times.append(
                [1e6 * float(p.flat[at]) for p, at in zip(parts, (0, -1, -1), strict=True)]
            )
        decode, draft, verify = np.asarray(times).T
        own = draft_layout(ask.draft, scene.layout, machine)
        yield _Row(
            case=case, decode=decode, draft=draft, verify=verify,
            batch=float(np.max(scene.batch)), gamma=ask.max_gamma,
            tokens=float(table.tokens_per_round.flat[-1]),
            queries=float(np.max(query_numbers(ask.draft, own))),
            first_pass_tokens=ask.draft.first_pass_tokens,
        )  # fmt: skip


def _fit(rows: list[_Row], prior: Array | None, free: tuple[str, ...]) -> Array:
    """The `NUMBERS` of which the `free` ones bring rows nearest, drawn towards the prior on a
    logarithmic scale; the others are the prior's."""
    low, first, high = np.log(np.asarray(list(NUMBERS.values()))).T
    start = first if prior is None else np.clip(np.log(prior), low + 1e-3, high - 1e-3)
    at = [list(NUMBERS).index(name) for name in free]

    def whole(logs: Array) -> Array:
        found = start.copy()
        found[at] = logs
        return np.asarray(np.exp(found))

    def residual(logs: Array) -> Array:
        errors = _errors(rows, whole(logs))
        drawn = PRIOR_WEIGHT * (logs - start[at]) if prior is not None else np.zeros(0)
        return np.concatenate(
            [errors["step"], errors["draft"], errors["verify"],
             SPEEDUP_WEIGHT * errors["speedup"], drawn]
        )  # fmt: skip

    found = least_squares(
        residual, start[at], bounds=(low[at], high[at]), loss="soft_l1", f_scale=0.1
    )
    return whole(found.x)


def _worth_freeing(rows: list[_Row], prior: Array | None) -> tuple[str, ...]:
    """Names of the constants to fit, as many as there are rows for: those with the least error on
    every part of held-out rows, or all where no other GPU's constants stand in."""
    count = min(len(rows) // ROWS_PER_CONSTANT, len(NUMBERS))
    if prior is None or count == len(NUMBERS):
        return tuple(NUMBERS)

    def missed(free: tuple[str, ...]) -> float:
        folds = [_errors(unseen, _fit(known, prior, free)) for known, unseen in _split(rows)]
        parts = [np.concatenate([errors[part] for errors in folds]) for part in PARTS]
        return float(sum(np.abs(part).mean() for part in parts if part.size))

    return min(combinations(NUMBERS, count), key=missed)


def _split(rows: list[_Row]) -> Iterator[tuple[list[_Row], list[_Row]]]:
    """Every (target, draft, context) held out of the others. Raises UsageError for a single one."""
    sets = [(r.case.ask["model"], r.case.ask["draft"], r.case.ask["ctx"]) for r in rows]
    if len(set(sets)) < 2:
        raise UsageError(
            "MagicDec: all rows are of one target, draft and context: none to hold out"
        )
    for left_out in sorted(set(sets)):
        known = [r for r, s in zip(rows, sets, strict=True) if s != left_out]
        yield known, [r for r, s in zip(rows, sets, strict=True) if s == left_out]


def magicdec_calibration(kernels: Calibration, numbers: Array) -> Calibration:
    """The kernels of a GPU with MagicDec's numbers."""
    step, token, draft, whole, efficiency, query = (float(n) for n in numbers)
    return replace(
        kernels,
        attention=_at(kernels.attention, efficiency),
        host=HostFit(
            kernel_seconds=kernels.host.kernel_seconds,
            step_seconds=step * 1e-6,
            token_seconds=token * 1e-6,
            draft_step_seconds=draft * 1e-6,
            draft_query_seconds=query * 1e-9,
            round_seconds=whole * 1e-6,
        ),
    )


def _at(fits: Mapping[str, AttentionFit], efficiency: float) -> dict[str, AttentionFit]:
    return {k: replace(fit, memory_efficiency=min(efficiency, 1.0)) for k, fit in fits.items()}


def held_out(
    cases: list[Case], kernels: Calibration, prior: Array | None = None
) -> Iterator[tuple[list[Case], Calibration]]:
    """Every (target, draft, context) with the calibration fitted on all the others."""
    rows = list(_rows(cases, kernels))
    yield from _folds(rows, kernels, prior, _worth_freeing(rows, prior))


def _folds(
    rows: list[_Row], kernels: Calibration, prior: Array | None, free: tuple[str, ...]
) -> Iterator[tuple[list[Case], Calibration]]:
    for known, unseen in _split(rows):
        found = magicdec_calibration(kernels, _fit(known, prior, free))
        yield [row.case for row in unseen], found


def fit_magicdec(cases: list[Case], kernels: Calibration, prior: Array | None = None) -> Array:
    """The `NUMBERS` that bring target, draft and verification steps and speedups nearest."""
    rows = list(_rows(cases, kernels))
    return _fit(rows, prior, _worth_freeing(rows, prior))


def magicdec_residuals(
    folds: Iterable[tuple[list[Case], Calibration]],
) -> tuple[Residual, Residual]:
    """Spread of held-out steps and speedups, never below 5 %."""
    found = [_replayed(unseen, calibration) for unseen, calibration in folds]
    step, speedup = (_covering(found, part) for part in ("step", "speedup"))
    basis = f"measured over predicted, {sum(len(e['step']) for e in found)} published MagicDec rows"
    return (
        Residual(low=step.low, high=step.high, basis=f"{basis}, each held out"),
        Residual(low=speedup.low, high=speedup.high, basis=f"{basis}, each held out"),
    )


DECIDED_BY = {
    "step": ("host.step_seconds", "host.token_seconds", "attention.memory_efficiency"),
    "draft": ("host.draft_step_seconds", "host.draft_query_seconds"),
    "verify": ("host.step_seconds", "host.token_seconds"),
    "speedup": ("host.round_seconds",),
}
"""What a row states, and the constants that decide it most."""


def magicdec_evidence(
    folds: Iterable[tuple[list[Case], Calibration]], fitted: Calibration
) -> list[dict[str, Any]]:
    """What the numbers rest on: held-out errors of every part of a round, and how often
    verification seems to read the cache."""
    folds = list(folds)
    errors = [_replayed(unseen, calibration) for unseen, calibration in folds]
    cases = [case for unseen, _ in folds for case in unseen]
    found = []
    for part, names in DECIDED_BY.items():
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

    def residual(share: Array) -> Array:
        attention = {
            k: replace(f, reread_share=float(share[0])) for k, f in fitted.attention.items()
        }
        return _replayed(stated, replace(fitted, attention=attention))["verify"]

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
    found = [_replayed(unseen, calibration) for unseen, calibration in folds]
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


def _errors(rows: list[_Row], numbers: Array) -> dict[str, Array]:
    """Logarithms of predicted over measured, where a row states the part."""
    return _logs([(row.case, row.times(numbers)) for row in rows])


def _replayed(cases: list[Case], calibration: Calibration) -> dict[str, Array]:
    """Logarithms of predicted over measured, as `predict` computes it with a calibration, where a
    case states the part."""
    found = []
    for case, ask in zip(cases, _asked(cases), strict=True):
        machine = Machine(accelerator=ask.machine.accelerator, calibration=calibration)
        asked = replace(ask, machine=machine)
        table = rounds(scene_of(asked, place(asked)), ask.draft, ask.acceptance, ask.max_gamma)
        predicted = {
            "step": float(table.round_seconds.flat[0]),
            "draft": float(table.draft_seconds.flat[-1]) / max(ask.max_gamma, 1),
            "verify": float(table.verify_seconds.flat[-1]),
            "speedup": float(table.speedup.flat[-1]),
        }
        found.append((case, predicted))
    return _logs(found)


def _logs(predictions: list[tuple[Case, dict[str, float]]]) -> dict[str, Array]:
    logs: dict[str, list[float]] = {part: [] for part in PARTS}
    for case, predicted in predictions:
        for part, value in _measured(case).items():
            if value:
                logs[part].append(float(np.log(predicted[part] / value)))
    return {part: np.asarray(values) for part, values in logs.items()}
