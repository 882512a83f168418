"""One benchmark run of one server: what a load generator would report of it, by simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from magicplan.engine_specs.capabilities import tree_kind
from magicplan.errors import DoesNotFit, UsageError
from magicplan.prediction.placement import asked_degree
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, passes_of, resolve
from magicplan.roofline.timing import Machine
from magicplan.serving.lengths import Lengths
from magicplan.serving.load import Load
from magicplan.serving.load_test import (
    Routing,
    Setup,
    drawn,
    saturation,
    setup_of,
    simulate,
    stable,
)
from magicplan.serving.outcome import METRICS, STATISTICS, SimulationOutcome
from magicplan.serving.policies import policy_of
from magicplan.serving.replica import (
    PLAIN,
    EngineLimits,
    Replica,
    Speculation,
    replica,
    room_of,
    rounds_of,
)

STEADY, MOST = 1500, 6000
"""Requests simulated where no number is stated, and at most."""
LATE = 1.02
"""Times the last planned arrival from which a run was held back."""
WAVES = 6
"""Requests simulated for each that is always in flight, where no number is stated."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A run as a load generator is told it: a fixed concurrency, a rate of arrivals, or a rate of
    which no more than a concurrency may be in flight."""

    ask: Request
    """GPU, model, formats and degrees of one replica; its own batch and context do not matter."""
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
    replicas: int = 1
    routing: Routing = "random"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredServer:
    """One replica of a run, ready to be simulated."""

    resolved: Resolved
    replica: Replica
    setup: Setup
    gamma: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """What to expect of a run: latencies in seconds, and rates of the whole server."""

    outcome: SimulationOutcome
    server: MeasuredServer
    users: float | None
    """Requests always in flight; None where the rate of arrivals decides."""
    requests_per_s: float
    output_tokens_per_s: float

    @property
    def resolved(self) -> Resolved:
        """The question as resolved."""
        return self.server.resolved

    @property
    def ttft_seconds(self) -> float:
        """Mean over requests."""
        return self.outcome.figure("ttft_mean_seconds")

    @property
    def tpot_seconds(self) -> float:
        """Mean over requests."""
        return self.outcome.figure("tpot_mean_seconds")

    def figures(self) -> dict[str, float]:
        """Everything that a load generator may report, seconds and rates by name."""
        keys = [f"{metric}_{s}_seconds" for metric in METRICS for s in STATISTICS]
        return {key: self.outcome.figure(key) for key in keys} | {
            "requests_per_s": self.requests_per_s,
            "output_tokens_per_s": self.output_tokens_per_s,
        }


def expect(
    run: Run,
    machine: Machine | None = None,
    server: MeasuredServer | None = None,
    *,
    growing: bool = False,
) -> Expected:
    """Simulate a run. Raises DoesNotFit, and UsageError for a load whose queue grows without end,
    unless `growing` asks for what the simulated requests meet in it.

    A run that says how many `prompts` it sends is finite: everybody counts, ramp and drain
    included. Otherwise it is in a steady state. `machine` replaces the one that `ask` names, to try
    another calibration.
    """
    if run.concurrency is None and run.requests_per_s is None:
        raise UsageError("a run has a concurrency or a rate of arrivals")
    server = server or server_of(run, machine)
    most = min(run.concurrency or math.inf, run.prompts or math.inf)
    users = max(int(most), 1) if math.isfinite(most) else None
    count = STEADY if users is None else max(STEADY, WAVES * users)
    if run.prompts is not None:
        count = max(int(min(run.prompts, max(MOST, count))), 1)
    draws = drawn(server.setup.load, count, run.seed)
    outcome = simulate(
        server.setup, draws, requests_per_s=run.requests_per_s or math.inf, users=users,
        replicas=run.replicas, routing=run.routing, whole=run.prompts is not None,
    )  # fmt: skip
    if users is None and not growing and not stable(outcome):
        _refuse_overload(run, server)
    return Expected(
        outcome=outcome,
        server=server,
        requests_per_s=outcome.request_rate,
        users=float(most) if _held_back(run, outcome, float(draws.gaps.sum())) else None,
        output_tokens_per_s=outcome.output_tokens / (outcome.end - outcome.begin),
    )


def _held_back(run: Run, outcome: SimulationOutcome, gaps: float) -> bool:
    """Whether the number in flight decided, not the rate: requests came later than they were due,
    or met a queue that grew."""
    if run.requests_per_s is None:
        return True
    late = max(r.arrived for r in outcome.requests) > LATE * gaps / run.requests_per_s
    return (late and run.concurrency is not None) or not stable(outcome)


def _refuse_overload(run: Run, server: MeasuredServer) -> NoReturn:
    bears = saturation(server.setup) * run.replicas
    raise UsageError(
        f"{run.requests_per_s:g} requests a second are more than the server bears (about "
        f"{bears:.3g}): its queue grows with every request, so state how many there were, as "
        "prompts"
    )


def server_of(run: Run, machine: Machine | None = None) -> MeasuredServer:
    """One replica of the run. Raises DoesNotFit."""
    resolved = resolve(run.ask)
    if machine is not None:
        resolved = replace(resolved, machine=machine)
    load = Load(
        requests_per_s=run.requests_per_s or math.nan, peak_over_mean=1.0, users=run.concurrency,
        think_seconds=0.0, arrival_cv2=run.arrival_cv2, lengths=run.lengths,
        prefix_hit_rate=run.prefix_hit_rate, shared_prefix_tokens=0.0, source="a run",
    )  # fmt: skip
    limits = EngineLimits(
        batched_tokens=run.batched_tokens,
        max_sequences=run.max_sequences,
        memory_fraction=run.ask.memory_fraction,
        kv_passes=passes_of(run.ask.verify_kv_passes),
    )
    _check_experts(run.ask)
    layout = replace(
        resolved.layout,
        tp=np.asarray([1.0 if run.ask.tp == "auto" else float(asked_degree(resolved))]),
        pp=np.asarray([float(run.ask.pp or 1)]),
    )
    longest = resolved.max_gamma if resolved.draft else 0
    r = replica(resolved.model, resolved.machine, layout, load, limits, longest)
    spec = Speculation(
        draft=resolved.draft, acceptance=resolved.acceptance, gamma=run.gamma, depth=run.depth,
        trees=tree_kind(run.ask.stack, resolved.draft, wanted=True) if run.depth else "",
    ) if resolved.draft else PLAIN  # fmt: skip
    rounds = rounds_of(r, spec)
    place = int(np.abs(r.batch - (run.concurrency or 1.0) / run.replicas).argmin())
    gamma, depth = int(rounds.gamma[0, place]), int(rounds.depth[0, place])
    room = room_of(r, spec, float(gamma))
    longest_request = float((run.lengths.prompt + run.lengths.output).max())
    setup = setup_of(r, 0, spec, gamma, depth, policy_of(run.ask.stack))
    if float(room.free_bytes[0]) <= 0 or setup.server.capacity_tokens < longest_request:
        raise DoesNotFit(
            f"{resolved.model.name} on {run.ask.gpu} at tp {run.ask.tp}: weights and one request "
            f"of {longest_request:.0f} tokens do not fit"
        )
    return MeasuredServer(resolved=resolved, replica=r, setup=setup, gamma=gamma, depth=depth)


def _check_experts(ask: Request) -> None:
    """Raises UsageError for experts split over more ranks than there are, or unevenly."""
    ranks = (1 if ask.tp == "auto" else int(ask.tp)) * ask.attention_dp
    if ranks % ask.ep:
        raise UsageError(
            f"--ep {ask.ep} does not divide the {ranks} GPUs of --tp {ask.tp} times "
            f"--attention-dp {ask.attention_dp}"
        )
