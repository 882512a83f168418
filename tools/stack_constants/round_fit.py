"""What a round of speculation takes beside its kernels, fitted on published speedups of chains.

A round costs the host a constant, some time that grows with the batch, and some for each draft step
of a head with a vocabulary of its own. A stack gets those constants that its rows tell apart
and that lower the error of sources held out; the others it borrows, or goes without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit, Residual
from magicplan.replay.published import Case
from magicplan.roofline.deployment import Array
from magicplan.roofline.speculation import rounds
from tools.stack_constants.coverage import held_out
from tools.stack_constants.evidence import evidence
from tools.stack_constants.stack_fit import MIN_CASES, placed, runs_of, set_of

CONSTANTS = ("round_seconds", "round_batch_seconds", "own_vocabulary_seconds")
SPREADS = {"round_batch_seconds": "round_batch_spread",
           "own_vocabulary_seconds": "draft_step_spread"}  # fmt: skip
"""What says by how much sweeps disagree on a constant."""
ROUND_CONSTANTS = tuple(f"host.{name}" for name in CONSTANTS)
ROWS_PER_CONSTANT = 3
LEAST = (0.95, 1.05)
"""No interval of a speedup is narrower: sources that repeat their own sweep differ by about 5 %."""
BETTER = 0.9
"""A constant more has to bring held-out errors to this share: a tenth less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFit:
    """Constants of a stack's rounds, and the spread of the speedups they leave."""

    host: HostFit
    residual: Residual
    cases: tuple[Case, ...]
    """The published rows that the fit rests on."""
    held_out: Array
    """Measured over predicted speedup of every row, each source's method by constants of the
    others; empty of a single one."""
    evidence: dict[str, Any]
    constants: tuple[str, ...]
    """Names of the constants that were fitted."""
    told: tuple[str, ...]
    """Names of the constants that the rows say anything of, by paying them differently often."""


@dataclass(frozen=True, slots=True)
class _Chains:
    """Published speedups, and what is known of their rounds: milliseconds."""

    measured: Array
    gain: Array
    """Emitted tokens times the time of a decode step."""
    known: Array
    counts: Array
    """[constant, row] how often a round pays each of `CONSTANTS`."""

    def speedup(self, x: Array, used: list[int]) -> Array:
        """Predicted speedup of every row by the constants `used`, whose values are `x`."""
        return np.asarray(self.gain / (self.known + x @ self.counts[used]))

    def solve(self, weight: Array, used: list[int]) -> Array:
        """Constants that bring speedups nearest; rows of weight 0 take no part."""
        found = least_squares(
            lambda x: np.log(self.speedup(x, used) / self.measured) * weight,
            np.full(len(used), 0.2), bounds=(0, 20), loss="soft_l1", f_scale=0.1,
        )  # fmt: skip
        return np.asarray(found.x)


def fit_rounds(stack: str, cases: list[Case], host: HostFit) -> RoundFit:
    """Constants of a stack's rounds from published speedups of chains.

    The set of constants is the smallest whose held-out error no larger one betters by a tenth.
    Raises UsageError for too few.
    """
    chains, kept = _chains([c for c in cases if c.speedup and runs_of(stack, c)], host)
    if len(kept) < MIN_CASES:
        raise UsageError(f"{stack}: {len(kept)} published speedups, the fit needs {MIN_CASES}")
    groups = np.unique([f"{c.source} {c.ask['draft']}" for c in kept], return_inverse=True)[1]
    ratios, used = _chosen(chains, groups)
    found = chains.solve(np.ones(len(kept)), used)
    names = [CONSTANTS[i] for i in used]
    spreads = {
        SPREADS[name]: _spread(chains, used, found, at, groups)
        for at, name in enumerate(names)
        if name in SPREADS
    }
    residual = _residual(chains.measured / chains.speedup(found, used), groups, stack)
    constants = {name: float(value) * 1e-3 for name, value in zip(names, found, strict=True)}
    return RoundFit(
        host=replace(host, **constants, **spreads),
        residual=residual,
        cases=tuple(kept),
        held_out=ratios,
        constants=tuple(names),
        told=tuple(n for n, c in zip(CONSTANTS, chains.counts, strict=True) if np.ptp(c) > 0),
        evidence=evidence(
            "stack rounds",
            [f"host.{name}" for name in names],
            [c.source for c in kept],
            [set_of(c) for c in kept],
            1 / ratios if len(ratios) else chains.speedup(found, used) / chains.measured,
            held_out=bool(len(ratios)),
        ),
    )


def _chains(cases: list[Case], host: HostFit) -> tuple[_Chains, list[Case]]:
    rows, kept = [], []
    for case, ask, scene in placed(cases):
        if ask.draft is None:
            continue
        known = replace(scene.machine.calibration, host=host)
        here = replace(scene, machine=replace(scene.machine, calibration=known))
        table = rounds(here, ask.draft, ask.acceptance, ask.max_gamma)
        step, whole = (1e3 * float(table.round_seconds.flat[at]) for at in (0, -1))
        gain = float(table.tokens_per_round.flat[-1]) * step
        mapped = ask.max_gamma * ask.draft.own_vocabulary
        batch = float(HostFit(round_batch_seconds=1.0).batch_seconds(np.max(scene.batch)))
        rows.append((case.speedup or 1.0, gain, whole, 1.0, batch, float(mapped)))
        kept.append(case)
    columns = np.asarray(rows, dtype=np.float64).reshape(-1, 3 + len(CONSTANTS)).T
    return _Chains(columns[0], columns[1], columns[2], columns[3:]), kept


def _chosen(chains: _Chains, groups: NDArray[np.int64]) -> tuple[Array, list[int]]:
    """Held-out ratios of the constants that are worth having, and which they are."""
    best: tuple[float, Array, list[int]] | None = None
    for used in _sets(chains, groups):

        def predict(test: NDArray[np.bool_], used: list[int] = used) -> Array:
            return chains.speedup(chains.solve(np.where(test, 0.0, 1.0), used), used)

        ratios = held_out(chains.measured, predict, groups)
        errors = np.abs(np.log(ratios if len(ratios) else chains.measured / predict(groups < 0)))
        error = float(np.mean([errors[groups == g].mean() for g in np.unique(groups)]))
        if best is None or error < BETTER * best[0]:
            best = error, ratios, used
    assert best is not None
    return best[1], best[2]


def _sets(chains: _Chains, groups: NDArray[np.int64]) -> Iterator[list[int]]:
    """Sets of constants that the rows tell apart, small ones first: each varies, none is 0, and
    there are rows and groups enough for them."""
    varying = [i for i in range(1, len(CONSTANTS)) if np.ptp(chains.counts[i]) > 0]
    for more in chain.from_iterable(combinations(varying, n) for n in range(len(varying) + 1)):
        used = [0, *more]
        enough = ROWS_PER_CONSTANT * len(used) <= groups.size
        if enough and (chains.solve(np.ones(groups.size), used) > 1e-3).all():
            yield used


def _spread(
    chains: _Chains, used: list[int], found: Array, at: int, groups: NDArray[np.int64]
) -> float:
    """Share of a constant within which 80 % of the groups' own lie, at most all of it.

    A group has one of its own where its rows pay the constant differently often.
    """
    own = []
    for group in np.unique(groups):
        rows = groups == group
        if np.ptp(chains.counts[used[at]][rows]) > 0:
            own.append(_own(chains, used, found, at, rows) / found[at])
    if len(own) < 2:
        return 1.0
    reach = student.ppf(0.9, len(own) - 1) * float(np.std(own, ddof=1))
    return float(min(1.0, max(reach, 0.05)))


def _own(chains: _Chains, used: list[int], found: Array, at: int, rows: NDArray[np.bool_]) -> float:
    """The constant that a group's rows alone would have, the others as found."""

    def errors(x: Array) -> Array:
        changed = found.copy()
        changed[at] = x[0]
        ratio = chains.speedup(changed, used)[rows] / chains.measured[rows]
        return np.asarray(np.log(ratio))

    return float(least_squares(errors, [found[at]], bounds=(0, 20)).x[0])


def _residual(ratios: Array, groups: NDArray[np.int64], stack: str) -> Residual:
    """80 % of measured over fitted speedup, each group of rows weighing the same."""
    weights = 1 / np.bincount(groups)[groups]
    order = np.argsort(ratios)
    reached = np.cumsum(weights[order]) / weights.sum()
    low, high = (float(ratios[order][np.searchsorted(reached, share)]) for share in (0.1, 0.9))
    basis = f"measured over fitted speedup of {ratios.size} published chains of {stack}"
    return Residual(low=min(low, LEAST[0]), high=max(high, LEAST[1]), basis=basis)
