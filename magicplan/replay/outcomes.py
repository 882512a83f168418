"""Predictions beside published measurements: errors by source, signs, regret, worst rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.transfer import AMD, CALIBRATED, ideal
from magicplan.prediction.predict import answer, predict
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.prediction.result import Prediction
from magicplan.replay.published import Case, ServedRun, Skipped, engine_stack
from magicplan.replay.serving_rows import predicted
from magicplan.roofline.timing import Machine

DECIDED = 0.02
"""A measured speedup this near 1 has no sign: sources that repeat themselves differ by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row: measured, predicted with its 80 % interval, and naive. Seconds, or a speedup."""

    case: Case
    kind: str
    """step, speedup, tpot, ttft, itl or rate."""
    measured: float
    predicted: float
    low: float
    high: float
    naive: float
    floor: float
    """What no measurement beats: the naive step without neighbours' prompts, the naive speedup."""
    fitted: bool
    """Whether the stack's constants were fitted on rows of this kind, which then test nothing."""

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.measured - 1

    @property
    def impossible(self) -> bool:
        """A time shorter than the datasheet allows, or a rate or speedup beyond that of the
        datasheet's speed: the row or its reading is wrong."""
        if self.kind in ("rate", "speedup"):
            return self.measured > self.floor
        return self.measured < self.floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Errors of a set of rows, in percent."""

    rows: int
    mape: float
    median: float
    p95: float
    bias: float
    naive_mape: float
    naive_bias: float
    coverage: float
    """Share of rows inside the 80 % interval."""

    @classmethod
    def of(cls, outcomes: list[Outcome]) -> Summary:
        """The summary of outcomes of one kind, physically impossible rows included."""
        error = 100 * np.asarray([o.error for o in outcomes])
        naive = 100 * np.asarray([o.naive / o.measured - 1 for o in outcomes])
        return cls(
            rows=len(outcomes),
            mape=float(np.abs(error).mean()),
            median=float(np.median(np.abs(error))),
            p95=float(np.percentile(np.abs(error), 95)),
            bias=float(error.mean()),
            naive_mape=float(np.abs(naive).mean()),
            naive_bias=float(naive.mean()),
            coverage=100 * float(np.mean([o.low <= o.measured <= o.high for o in outcomes])),
        )


def replay(
    cases: Iterable[Case],
    overrides: dict[str, Any] | None = None,
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Outcome], list[Skipped]]:
    """Predict every case; those that the package refuses are skipped with its reason."""
    outcomes: list[Outcome] = []
    skipped: list[Skipped] = []
    for stated in cases:
        case = replace(stated, ask=stated.ask | (overrides or {}))
        try:
            run = case.run
            found = _served(case, run) if run else _outcomes(case, predict(**case.ask))
            if not found:
                raise UsageError("neither a step time nor a speedup of a round is stated")
            outcomes += found
        except UsageError as problem:
            skipped.append(Skipped(id=case.id, source=case.source, reason=str(problem)))
        done()
    return outcomes, skipped


def replay_with(cases: Iterable[Case], calibration: Calibration) -> list[Outcome]:
    """Predict cases by a calibration at hand instead of a shipped one. Raises UsageError."""
    found: list[Outcome] = []
    for case in cases:
        ask = resolve(Request(**case.ask))
        machine = Machine(accelerator=ask.machine.accelerator, calibration=calibration)
        found += _outcomes(case, answer(replace(ask, machine=machine)))
    return found


def _served(case: Case, run: ServedRun) -> list[Outcome]:
    """A load test's figures, through the path that plans use.

    Times and rates are off by what steps are off by, times to the first token by their own
    residual. None is called impossible: the naive run is no floor, for it meets its neighbours
    elsewhere.
    """
    machine = resolve(Request(**case.ask)).machine
    bare = predicted(case, run, replace(machine, calibration=ideal()))
    step, first = machine.calibration.step_residual, machine.calibration.first_token_residual
    found = []
    for kind, value in predicted(case, run).items():
        if kind not in run.measured:
            continue
        ends = first if kind == "ttft" and first else step
        low, high = (1 / ends.high, 1 / ends.low) if kind == "rate" else (ends.low, ends.high)
        found.append(
            Outcome(
                case=case, kind=kind, measured=run.measured[kind], predicted=value,
                low=value * low, high=value * high, naive=bare[kind],
                floor=math.inf if kind == "rate" else 0.0,
                fitted=fitted(case, step.basis),
            )
        )  # fmt: skip
    return found


def _outcomes(case: Case, p: Prediction) -> list[Outcome]:
    found = []
    calibration = p.scene.machine.calibration
    if case.step_seconds:
        b = p.baseline
        added = 0.0 if case.served else -float(b.host_seconds)
        found.append(
            Outcome(
                case=case,
                kind="step",
                measured=case.step_seconds,
                predicted=b.step_seconds + added,
                low=(b.step_seconds + added) * b.low_seconds / b.step_seconds,
                high=(b.step_seconds + added) * b.high_seconds / b.step_seconds,
                naive=p.ideal.step_seconds,
                floor=p.ideal.step_seconds,
                fitted=fitted(case, calibration.step_residual.basis),
            )
        )
    chain = p.judged[-1]
    if case.speedup and chain.gamma:
        found.append(
            Outcome(
                case=case,
                kind="speedup",
                measured=case.speedup,
                predicted=chain.speedup,
                low=chain.speedup_low,
                high=chain.speedup_high,
                naive=p.ideal.speedup,
                floor=p.ideal.speedup,
                fitted=fitted(case, calibration.speedup_residual.basis),
            )
        )
    return found


def fitted(case: Case, basis: str) -> bool:
    """Whether a residual's basis is published rows of this case's engine, on a part like its own.

    Serving stacks have one set of constants for all GPUs of the calibrated families, MagicDec one
    a GPU, which others take over widened. Chains were fitted on dense models alone.
    """
    if case.engine == "MagicDec":
        return "published MagicDec rows" in basis and "widened" not in basis
    stack = engine_stack(case.engine)
    family = hardware_specs.load(case.ask["gpu"]).architecture.split()[0]
    if stack is None or case.ask["stack"] != stack:
        return False
    if "one slowdown fitted" in basis:
        return case.ask["gpu"] == AMD and case.dense
    steps = f"published steps of {stack}" in basis
    chains = f"published chains of {stack}" in basis and case.dense
    return (steps or chains) and family in CALIBRATED


def sign_accuracy(outcomes: list[Outcome]) -> tuple[float, int]:
    """Percent of speedups predicted on the right side of 1, and of how many."""
    clear = [o for o in outcomes if o.kind == "speedup" and abs(o.measured - 1) > DECIDED]
    right = [(o.predicted > 1) == (o.measured > 1) for o in clear]
    return (100 * float(np.mean(right)) if right else float("nan")), len(clear)


def regrets(outcomes: list[Outcome]) -> dict[tuple[str, ...], float]:
    """Percent of throughput lost by the predicted draft length against the best measured one,
    for every sweep that measured at least two lengths; not to speculate is among the choices."""
    sweeps: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for o in outcomes:
        if o.kind == "speedup" and o.case.sweep:
            sweeps[o.case.sweep].append(o)
    found = {}
    for key, rows in sweeps.items():
        if len({o.case.ask["gamma"] for o in rows}) < 2:
            continue
        measured = [1.0, *(o.measured for o in rows)]
        chosen = int(np.argmax([1.0, *(o.predicted for o in rows)]))
        found[key] = 100 * (1 - measured[chosen] / max(measured))
    return found
