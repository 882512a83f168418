"""What the best plan would need if an assumption were wrong: its kind of replica, counted anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from magicplan.planning.plan_candidates import SPLIT, Choice
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import Candidate, Interval, Sensitivity
from magicplan.planning.replica import Speculation, pool, prompts_of, replica, states
from magicplan.planning.sizing import Sized, size_mixed, size_split
from magicplan.planning.traffic_load import Load
from magicplan.roofline.acceptance import Shifted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Needs:
    """Replicas of one kind under one load."""

    meets: bool
    gpus: int
    cost_usd_per_hour: float
    usd_per_million_tokens: float
    tpot_p95_seconds: float
    ttft_p95_seconds: float


def needs(
    ask: PlanRequest,
    load: Load,
    choice: Choice,
    *,
    limits: Mapping[str, float] | None = None,
    spec: Speculation | None = None,
    slower: float = 1.0,
) -> Needs:
    """Size the choice's kind of replica for another load, limits, acceptance or speed.

    Times that are all `slower` by a factor need what traffic and limits, scaled by it, need.
    """
    row = choice.row
    limits = ask.slo if limits is None else limits
    scaled = replace(
        load,
        requests_per_s=load.requests_per_s * slower,
        think_seconds=load.think_seconds / slower,
    )
    one = replace(
        row.replica.layout, tp=np.asarray([float(row.tp)]), pp=np.asarray([float(row.pp)])
    )
    r = replica(
        row.resolved.model, row.resolved.machine, one, scaled, row.replica.limits,
        row.replica.longest,
    )  # fmt: skip
    spec = row.spec if spec is None else spec
    bounds = {key: limit / slower for key, limit in limits.items()}
    found: Sized
    if choice.layout == SPLIT:
        pools = pool(r, prompts_of(r, spec))
        found = size_split(scaled, states(r, spec), pools, bounds, ask.max_utilisation)
    else:
        found = size_mixed(scaled, states(r, spec), bounds, ask.max_utilisation)
    changed = replace(choice, sized=found, index=0)
    rate = float(found.state.rate[0, 0]) * int(found.replicas[0]) / slower
    tokens = rate * float(load.lengths.output.mean()) / load.peak_over_mean
    broken = changed.violations(replace(ask, slo=bounds))
    runs = bool(found.replicas[0])
    return Needs(
        meets=runs and not broken,
        gpus=changed.gpus,
        cost_usd_per_hour=changed.cost if runs else math.nan,
        usd_per_million_tokens=changed.cost / 3600 / tokens * 1e6 if runs else math.nan,
        tpot_p95_seconds=float(found.figures["tpot_p95_seconds"][0]) * slower,
        ttft_p95_seconds=float(found.figures["ttft_p95_seconds"][0]) * slower,
    )


def sensitivities(ask: PlanRequest, load: Load, choice: Choice) -> tuple[Sensitivity, ...]:
    """One assumption changed at a time."""
    return tuple(_changes(ask, load, choice))


def _changes(ask: PlanRequest, load: Load, choice: Choice) -> Iterator[Sensitivity]:
    for factor in (0.5, 0.8, 1.25, 2.0, 4.0):
        yield _line("traffic", factor, needs(ask, _busier(load, factor), choice))
    for factor in (0.5, 2.0):
        longer = replace(load, lengths=load.lengths.scaled(prompt=factor))
        yield _line("prompt", factor, needs(ask, longer, choice))
    for factor in (0.5, 2.0):
        longer = replace(load, lengths=load.lengths.scaled(output=factor))
        yield _line("output", factor, needs(ask, longer, choice))
    if load.prefix_hit_rate:
        cold = replace(load, prefix_hit_rate=0.0)
        yield _line("prefix_hit_rate", 0.0, needs(ask, cold, choice), "no prefix cache")
    for by in (-0.1, -0.05, 0.05):
        if choice.row.spec.acceptance is not None:
            shifted = Shifted(
                origin="shifted", base=choice.row.spec.acceptance, by=by,
                same_model=choice.row.spec.acceptance.same_model,
            )  # fmt: skip
            spec = replace(choice.row.spec, acceptance=shifted)
            yield _line("acceptance", 1 + by, needs(ask, load, choice, spec=spec), f"{by:+.2f}")
    for factor in (0.9, 1.2):
        yield _line("step_time", factor, needs(ask, load, choice, slower=factor))
    for metric in ("ttft", "tpot", "itl", "e2e"):
        chosen = {k: v for k, v in ask.slo.items() if k.startswith(metric)}
        for factor in (0.5, 2.0) if chosen else ():
            bounds = dict(ask.slo) | {k: v * factor for k, v in chosen.items()}
            yield _line(f"{metric} limit", factor, needs(ask, load, choice, limits=bounds))


def _busier(load: Load, factor: float) -> Load:
    users = None if load.users is None else load.users * factor
    return replace(load, requests_per_s=load.requests_per_s * factor, users=users)


def _line(what: str, factor: float, found: Needs, change: str = "") -> Sensitivity:
    return Sensitivity(
        what=what,
        change=change or f"x {factor:g}",
        factor=factor,
        meets=found.meets,
        gpus=found.gpus,
        cost_usd_per_hour=found.cost_usd_per_hour,
        usd_per_million_tokens=found.usd_per_million_tokens,
    )


def intervals(
    ask: PlanRequest, load: Load, choice: Choice, best: Candidate
) -> tuple[Interval, ...]:
    """80 % intervals: latencies of the fleet as sized, and what would be needed at either end."""
    residual = choice.row.resolved.machine.calibration.step_residual
    found = [
        Interval(
            figure=f"{metric}_p95_seconds",
            low=value * residual.low,
            value=value,
            high=value * residual.high,
            basis=residual.basis,
        )
        for metric, value in (
            ("ttft", best.latency.ttft.p95_seconds),
            ("tpot", best.latency.tpot.p95_seconds),
        )
    ]
    ends = [needs(ask, load, choice, slower=f) for f in (residual.low, residual.high)]
    basis = f"replicas counted anew at either end of: {residual.basis}"
    found += _needed(best, ends, basis)
    accepted = choice.row.spec.acceptance
    if accepted is not None and accepted.uncertainty:
        specs = [replace(choice.row.spec, acceptance=end) for end in accepted.interval()]
        ends = [needs(ask, load, choice, spec=spec) for spec in specs]
        found += _needed(best, ends, f"replicas counted anew at either end of: {accepted.origin}")
    return tuple(found)


def _needed(best: Candidate, ends: list[Needs], basis: str) -> Iterator[Interval]:
    for name in ("gpus", "cost_usd_per_hour", "usd_per_million_tokens"):
        value = float(getattr(best, name))
        low, *_, high = sorted([value, *(float(getattr(end, name)) for end in ends)])
        yield Interval(figure=name, low=low, value=value, high=high, basis=basis)
