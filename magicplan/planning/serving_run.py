"""One benchmark run of one deployment: what a load generator would report of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import DoesNotFit, UsageError
from magicplan.planning.latency import Entry, Sampled, population, sample
from magicplan.planning.lengths import Lengths
from magicplan.planning.replica import EngineLimits, Replica, Speculation, replica, states
from magicplan.planning.request import Request, Resolved, passes_of, resolve
from magicplan.planning.serving import (
    Steady,
    edge_of,
    last_feasible,
    reached,
    slope_at,
    where_reached,
)
from magicplan.planning.traffic_load import Load
from magicplan.planning.tree_engines import tree_kind
from magicplan.roofline.timing import Machine


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A run as a load generator is told it: a fixed concurrency, or a rate of arrivals."""

    ask: Request
    """GPU, model, formats and degrees of one replica; its batch and context do not matter."""
    lengths: Lengths
    concurrency: float | None = None
    requests_per_s: float | None = None
    prompts: float | None = None
    """How many requests in all: the first `concurrency` of them come at once."""
    batched_tokens: float = 8192
    max_sequences: float = 1024
    prefix_hit_rate: float = 0.0
    gamma: int | None = None
    depth: int | None = None
    """Drafted levels, where `gamma` tokens are drafted in a tree."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """What to expect of a run: latencies as sampled, seconds and rates."""

    sampled: Sampled
    state: Steady
    replica: Replica
    resolved: Resolved
    requests_per_s: float
    output_tokens_per_s: float
    ttft_seconds: float
    """Mean, the burst at the start included."""
    tpot_seconds: float


def expect(run: Run, machine: Machine | None = None) -> Expected:
    """The steady state of a run, and its first burst. Raises UsageError, DoesNotFit.

    `machine` replaces the one that `ask` names, to try another calibration.
    """
    if (run.concurrency is None) == (run.requests_per_s is None):
        raise UsageError("a run has either a concurrency or a rate of arrivals")
    resolved = resolve(run.ask)
    if machine is not None:
        resolved = replace(resolved, machine=machine)
    load = Load(
        requests_per_s=run.requests_per_s or float("nan"),
        peak_over_mean=1.0,
        users=run.concurrency,
        think_seconds=0.0,
        arrival_cv2=1.0,
        lengths=run.lengths,
        prefix_hit_rate=run.prefix_hit_rate,
        shared_prefix_tokens=0.0,
        source="a run",
    )
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
    longest = run.ask.max_gamma if resolved.draft else 0
    r = replica(resolved.model, resolved.machine, layout, load, limits, longest)
    spec = Speculation(
        draft=resolved.draft,
        acceptance=resolved.acceptance,
        gamma=run.gamma,
        depth=run.depth,
        trees=tree_kind(run.ask.stack, resolved.draft, wanted=True) if run.depth else "",
    )
    found = states(r, spec if resolved.draft else Speculation())
    last = last_feasible(found, margin=0.0)
    if last[0] < 0:
        raise DoesNotFit(
            f"{resolved.model.name} on {run.ask.gpu} at tp {run.ask.tp}: weights and one request "
            "of this length do not fit"
        )
    ladder = found.rate if run.concurrency is None else population(load, found)
    wanted = np.asarray([run.requests_per_s if run.concurrency is None else run.concurrency])
    edge = edge_of(found)
    at, one = where_reached(ladder, wanted, edge), np.zeros(1, dtype=np.int64)
    state = found.pick(one, at)
    entry = Entry(
        saturation=reached(found.rate, edge),
        slots=reached(found.batch, edge),
        queued=np.maximum(wanted - reached(ladder, edge), 0.0),
    )
    sampled = sample(load, state, entry, slope_at(found, one, at))
    rate = float(state.rate[0, 0])
    decoded = load.decoded > 0
    whole = float(sampled.tpot[0, decoded].mean())
    alone = float(state.round_seconds[0, 0] / state.step_seconds[0, 0]) * whole
    first = _first_share(run)
    return Expected(
        sampled=sampled,
        state=state,
        replica=r,
        resolved=resolved,
        requests_per_s=rate,
        output_tokens_per_s=rate * float(run.lengths.output.mean()),
        ttft_seconds=float(sampled.ttft.mean()) + first * _burst(run, state),
        tpot_seconds=alone + (1 - first / 2) * (whole - alone),
    )


def _degree(tp: Any) -> float:
    return 1.0 if tp == "auto" else float(tp)


def _first_share(run: Run) -> float:
    """Share of requests that come in the first burst of a fixed concurrency; 0 where unknown.

    They meet the prompts behind them but replace nobody, so that half of the prompts that a
    request meets later on are missing.
    """
    if run.concurrency is None or run.prompts is None:
        return 0.0
    return min(run.concurrency / max(run.prompts, 1.0), 1.0)


def _burst(run: Run, state: Steady) -> float:
    """What the middle of the first burst waits for: half of its prompts."""
    return ((run.concurrency or 1.0) - 1) / 2 * float(state.prompt_seconds[0, 0])
