"""What a round of speculation takes beside its kernels, fitted on published speedups of chains: the
host's time of a draft step, and the bookkeeping of a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit, Residual
from magicplan.replay.published import Case
from magicplan.roofline.deployment import Array
from magicplan.roofline.speculation import rounds
from tools.stack_constants.coverage import held_out
from tools.stack_constants.evidence import evidence
from tools.stack_constants.stack_fit import MIN_CASES, placed, runs_of, set_of

ROUND_CONSTANTS = ("host.draft_step_seconds", "host.round_seconds")
LEAST = (0.95, 1.05)
"""No interval of a speedup is narrower: sources that repeat their own sweep differ by about 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFit:
    """Draft and round constants of a stack, and the spread of the speedups they leave."""

    host: HostFit
    residual: Residual
    held_out: Array
    """Measured over predicted speedup, each sweep by constants of the others."""
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Chains:
    """Published speedups, and what is known of their rounds: milliseconds."""

    measured: Array
    gain: Array
    """Emitted tokens times the time of a decode step."""
    known: Array
    gamma: Array

    def speedup(self, x: Array, steps: Array | float = 1.0) -> Array:
        """With `x` (draft step, round), and another draft step by a factor."""
        return np.asarray(self.gain / (self.known + self.gamma * x[0] * steps + x[1]))

    def solve(self, weight: Array) -> Array:
        """Draft step and round that bring speedups nearest; rows of weight 0 take no part."""
        found = least_squares(
            lambda x: np.log(self.speedup(x) / self.measured) * weight, [0.2, 0.3],
            bounds=(0, 10), loss="soft_l1", f_scale=0.1,
        )  # fmt: skip
        return np.asarray(found.x)


def fit_rounds(stack: str, cases: list[Case], host: HostFit) -> RoundFit:
    """Time of a draft step and of a round beyond its kernels, from published speedups of chains.

    Sweeps of one engine disagree on the draft step more than on anything else: the factor that
    each would have of its own gives `draft_step_spread`, and what is left then the residual.
    Raises UsageError for too few.
    """
    chains, kept = _chains([c for c in cases if c.speedup and runs_of(stack, c)], host)
    if len(kept) < MIN_CASES:
        raise UsageError(f"{stack}: {len(kept)} published speedups, the fit needs {MIN_CASES}")
    sweeps = np.unique([str(c.sweep or c.id) for c in kept], return_inverse=True)[1]
    found = chains.solve(np.ones(len(kept)))
    own = np.asarray([_own_step(chains, found, sweeps == sweep) for sweep in np.unique(sweeps)])
    rest = chains.measured / chains.speedup(found, own[sweeps])
    low, high = np.percentile(rest, [10, 90])
    ratios = held_out(
        chains.measured,
        lambda test: chains.speedup(chains.solve(np.where(test, 0.0, 1.0))),
        sweeps,
    )
    basis = f"measured over fitted speedup of {len(kept)} published chains of {stack}"
    return RoundFit(
        host=replace(
            host,
            draft_step_seconds=float(found[0]) * 1e-3,
            draft_step_spread=float(np.abs(own - 1).max()),
            round_seconds=float(found[1]) * 1e-3,
        ),
        residual=Residual(
            low=min(float(low), LEAST[0]), high=max(float(high), LEAST[1]), basis=basis
        ),
        held_out=ratios,
        evidence=evidence(
            "stack rounds",
            ROUND_CONSTANTS,
            [c.source for c in kept],
            [set_of(c) for c in kept],
            1 / ratios if len(ratios) else chains.speedup(found) / chains.measured,
            held_out=bool(len(ratios)),
        ),
    )


def _chains(cases: list[Case], host: HostFit) -> tuple[_Chains, list[Case]]:
    rows, kept = [], []
    for case, ask, scene in placed(cases):
        known = replace(scene.machine.calibration, host=host)
        here = replace(scene, machine=replace(scene.machine, calibration=known))
        table = rounds(here, ask.draft, ask.acceptance, ask.max_gamma)
        step, whole = (1e3 * float(table.round_seconds.flat[at]) for at in (0, -1))
        gain = float(table.tokens_per_round.flat[-1]) * step
        rows.append((case.speedup or 1.0, gain, whole, float(ask.max_gamma)))
        kept.append(case)
    return _Chains(*np.asarray(rows, dtype=np.float64).reshape(-1, 4).T), kept


def _own_step(chains: _Chains, found: Array, sweep: NDArray[np.bool_]) -> float:
    """Factor on the draft step that a sweep of several lengths has of its own; 1 of one length."""
    if len(np.unique(chains.gamma[sweep])) < 2:
        return 1.0

    def missed(factor: float) -> float:
        ratio = chains.speedup(found, factor)[sweep] / chains.measured[sweep]
        return float(np.abs(np.log(ratio)).mean())

    return float(minimize_scalar(missed, bounds=(0, 4), method="bounded").x)
