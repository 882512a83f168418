"""One benchmark run of one deployment: what a load generator would report of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.engine_specs.capabilities import tree_kind
from magicplan.errors import DoesNotFit, UsageError
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, passes_of, resolve
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import Machine
from magicplan.serving.latency import Entry, Sampled, population, sample
from magicplan.serving.lengths import Lengths
from magicplan.serving.load import Load
from magicplan.serving.replica import EngineLimits, Replica, Speculation, replica, states
from magicplan.serving.steady_state import (
    Flags,
    Steady,
    edge_of,
    last_feasible,
    reached,
    slope_at,
    where_reached,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A run as a load generator is told it: a fixed concurrency, a rate of arrivals, or a rate of
    which no more than a concurrency may be in flight."""

    ask: Request
    """GPU, model, formats and degrees of one replica; its batch and context do not matter."""
    lengths: Lengths
    concurrency: float | None = None
    requests_per_s: float | None = None
    arrival_cv2: float = 1.0
    """Squared variation of the gaps between arrivals: 1 at random, 0 for a constant pace."""
    prompts: float | None = None
    """How many requests in all: the first `concurrency` of them come at once."""
    batched_tokens: float = 8192
    max_sequences: float = 1024
    prefix_hit_rate: float = 0.0
    gamma: int | None = None
    depth: int | None = None
    """Drafted levels, where `gamma` tokens are drafted in a tree."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Met:
    """What requests of a run meet, [n] seconds each, and how many each stands for: those of the
    steady state, and those of its beginning."""

    ttft: Array
    tpot: Array
    e2e: Array
    weight: Array
    """Sums to 1."""
    decodes: Flags
    """[n]: has tokens after the first, so that it has a time per token."""

    def statistic(self, metric: str, statistic: str) -> float:
        """`mean`, `p50`, `p95` or `p99` of `ttft`, `tpot` or `e2e`."""
        values, weight = getattr(self, metric), self.weight
        if metric == "tpot":
            values, weight = values[self.decodes], weight[self.decodes]
        if statistic == "mean":
            return float((values * weight).sum() / weight.sum())
        order = np.argsort(values, kind="stable")
        reach = np.cumsum(weight[order])
        middle = (reach - weight[order] / 2) / reach[-1]
        return float(np.interp(float(statistic[1:]) / 100, middle, values[order]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """What to expect of a run: latencies as sampled, seconds and rates."""

    met: Met
    sampled: Sampled
    """Of the steady state alone; its gaps between tokens are those of the whole run."""
    state: Steady
    replica: Replica
    resolved: Resolved
    users: float | None
    """Requests always in flight; None where the rate of arrivals decides."""
    requests_per_s: float
    output_tokens_per_s: float

    @property
    def ttft_seconds(self) -> float:
        """Mean, the burst at the start included."""
        return self.met.statistic("ttft", "mean")

    @property
    def tpot_seconds(self) -> float:
        """Mean over requests."""
        return self.met.statistic("tpot", "mean")

    def figures(self) -> dict[str, float]:
        """Everything that a load generator may report, seconds and rates by name."""
        statistics = ("mean", "p50", "p95", "p99")
        latencies = {
            f"{metric}_{statistic}_seconds": self.met.statistic(metric, statistic)
            for metric in ("ttft", "tpot", "e2e")
            for statistic in statistics
        }
        gaps = {f"itl_{s}_seconds": float(self.sampled.statistic("itl", s)[0]) for s in statistics}
        rates = {
            "requests_per_s": self.requests_per_s,
            "output_tokens_per_s": self.output_tokens_per_s,
        }
        return latencies | gaps | rates


def expect(run: Run, machine: Machine | None = None) -> Expected:
    """The steady state of a run, and its first burst. Raises UsageError, DoesNotFit.

    Where a run has both, its concurrency decides only if it holds back the rate: if requests that
    are always so many in flight end more slowly than new ones come. No more than all of them are
    ever in flight. `machine` replaces the one that `ask` names, to try another calibration.
    """
    if run.concurrency is None and run.requests_per_s is None:
        raise UsageError("a run has a concurrency or a rate of arrivals")
    most = min(run.concurrency or math.inf, run.prompts or math.inf)
    rate = run.requests_per_s or math.inf
    if math.isfinite(most):
        found = _expect(run, machine, users=most)
        if found.requests_per_s <= rate:
            return found
    found = _expect(run, machine, users=None)
    if found.requests_per_s < rate * (1 - 1e-3):
        raise UsageError(
            f"{rate:g} requests a second are more than the replica bears "
            f"({found.requests_per_s:.3g}): its queue grows with every request, so state how many "
            "there were, as prompts"
        )
    return found


def _expect(run: Run, machine: Machine | None, users: float | None) -> Expected:
    """The same with so many users, or with the rate of arrivals where that is None."""
    resolved = resolve(run.ask)
    if machine is not None:
        resolved = replace(resolved, machine=machine)
    load = Load(
        requests_per_s=float("nan") if users else run.requests_per_s or float("nan"),
        peak_over_mean=1.0,
        users=users,
        think_seconds=0.0,
        arrival_cv2=run.arrival_cv2,
        lengths=run.lengths,
        prefix_hit_rate=run.prefix_hit_rate,
        shared_prefix_tokens=0.0,
        source="a run",
    )
    r, found = _states(run, resolved, load)
    ladder = found.rate if users is None else population(load, found)
    wanted = np.asarray([run.requests_per_s if users is None else users])
    edge = edge_of(found)
    at, one = where_reached(ladder, wanted, edge), np.zeros(1, dtype=np.int64)
    state = found.pick(one, at)
    entry = Entry(
        saturation=reached(found.rate, edge),
        slots=reached(found.batch, edge),
        queued=np.maximum(wanted - reached(ladder, edge), 0.0),
    )
    sampled = sample(load, state, entry, slope_at(found, one, at))
    first = 0.0 if users is None or run.prompts is None else users / max(run.prompts, users)
    seated = min(float(entry.slots[0]) / users, 1.0) if users else 0.0
    thinned = replace(state, mixed_share=state.mixed_share * (1 - first * seated / 2))
    gaps = sample(load, thinned, entry) if first else sampled
    rate = float(state.rate[0, 0])
    return Expected(
        met=_met(run, load, state, entry, sampled, first),
        sampled=replace(sampled, itl=gaps.itl, itl_mean=gaps.itl_mean, itl_cv=gaps.itl_cv),
        state=state,
        replica=r,
        resolved=resolved,
        users=users,
        requests_per_s=rate,
        output_tokens_per_s=rate * float(run.lengths.output.mean()),
    )


def _states(run: Run, resolved: Resolved, load: Load) -> tuple[Replica, Steady]:
    """The replica, and what it does at every batch. Raises DoesNotFit."""
    limits = EngineLimits(
        batched_tokens=run.batched_tokens,
        max_sequences=run.max_sequences,
        memory_fraction=run.ask.memory_fraction,
        kv_passes=passes_of(run.ask.verify_kv_passes),
    )
    layout = replace(
        resolved.layout,
        tp=np.asarray([_degree(run.ask.tp)]),
        pp=np.asarray([float(run.ask.pp or 1)]),
    )
    longest = resolved.max_gamma if resolved.draft else 0
    r = replica(resolved.model, resolved.machine, layout, load, limits, longest)
    spec = Speculation(
        draft=resolved.draft,
        acceptance=resolved.acceptance,
        gamma=run.gamma,
        depth=run.depth,
        trees=tree_kind(run.ask.stack, resolved.draft, wanted=True) if run.depth else "",
    )
    found = states(r, spec if resolved.draft else Speculation())
    if last_feasible(found, margin=0.0)[0] < 0:
        raise DoesNotFit(
            f"{resolved.model.name} on {run.ask.gpu} at tp {run.ask.tp}: weights and one request "
            "of this length do not fit"
        )
    return r, found


def _degree(tp: Any) -> float:
    return 1.0 if tp == "auto" else float(tp)


def _met(run: Run, load: Load, state: Steady, entry: Entry, sampled: Sampled, first: float) -> Met:
    """The steady state, and for a share `first` of requests the burst that a closed run begins
    with.

    Those meet the prompts ahead of them, and wait for a slot where there are not enough; who has
    one at once replaces nobody, so that half of the prompts that a request meets later on are
    missing.
    """
    ttft, tpot, e2e = sampled.ttft[0], sampled.tpot[0], sampled.e2e[0]
    decodes = load.decoded > 0
    size = ttft.size
    if not first:
        return Met(ttft=ttft, tpot=tpot, e2e=e2e, weight=np.full(size, 1 / size), decodes=decodes)
    whole = float(tpot[decodes].mean())
    missing = (1 - float(state.round_seconds[0, 0] / state.step_seconds[0, 0])) * whole / 2
    place = (np.arange(size) * math.sqrt(11.0) + 0.5 / size) % 1.0  # as in `latency`, by Weyl
    late = _burst(run, load, state, entry, place)
    seated = place * (load.users or 1.0) <= float(entry.slots[0])
    shorter = np.where(decodes & seated, np.minimum(missing, tpot), 0.0)
    return Met(
        ttft=np.concatenate([ttft, ttft + late]),
        tpot=np.concatenate([tpot, tpot - shorter]),
        e2e=np.concatenate([e2e, e2e + late - shorter * load.decoded]),
        weight=np.repeat(np.asarray([1 - first, first]) / size, size),
        decodes=np.tile(decodes, 2),
    )


def _burst(run: Run, load: Load, state: Steady, entry: Entry, place: Array) -> Array:
    """Seconds that requests of the first burst wait beyond the steady state, by their `place` in
    it from 0 to 1.

    The i-th comes at i / rate, or at once; it starts behind the prompts of those who have a slot,
    and then behind the answers of all for whom there was none.
    """
    users, rate = float(load.users or 1.0), float(state.rate[0, 0])
    served = np.minimum(place * (users - 1), float(entry.slots[0]))
    queued = np.maximum(place * users - float(entry.slots[0]), 0.0) / rate
    turn = served * float(state.prompt_seconds[0, 0]) + queued
    come = place * users / (run.requests_per_s or math.inf)
    return np.asarray(np.maximum(turn - come, 0.0) - float(entry.queued[0]) / rate)
