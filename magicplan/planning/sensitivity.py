"""What the best plan would need if an assumption were wrong: its kind of replica, counted anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from magicplan.planning.candidates import SPLIT, Choice, step_ends
from magicplan.planning.request import METRICS, PlanRequest
from magicplan.planning.result import Sensitivity
from magicplan.planning.sizing import Limits, Sized, size_mixed, size_split
from magicplan.roofline.acceptance import Shifted
from magicplan.serving.load import Load
from magicplan.serving.replica import Speculation, one_of, pool, prompts_of, replica, states
from magicplan.serving.steady_state import Steady, at_speeds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Needs:
    """Replicas of one kind under one load."""

    meets: bool
    gpus: int
    cost_usd_per_hour: float
    usd_per_million_tokens: float
    tokens_per_s_per_gpu: float
    """Output tokens at the peak."""
    energy_joules_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """The choice's kind of replica under some lengths and with some acceptance."""

    choice: Choice
    states: Steady
    pools: Steady | None
    """The same where it only prefills, if the choice has such replicas."""


def kind_of(load: Load, choice: Choice, spec: Speculation | None = None) -> Kind:
    """The choice's own kind, or the same with another draft or acceptance."""
    row = choice.row
    spec = row.spec if spec is None else spec
    r = replica(
        row.resolved.model, row.resolved.machine, one_of(row.replica.layout, row.layout), load,
        row.replica.limits, row.replica.longest,
    )  # fmt: skip
    pools = pool(r, prompts_of(r, spec)) if choice.layout == SPLIT else None
    return Kind(choice=choice, states=states(r, spec), pools=pools)


def needs(
    ask: PlanRequest,
    load: Load,
    kind: Kind,
    *,
    limits: Limits | None = None,
    slower: Sequence[float] = (1.0,),
) -> list[Needs]:
    """Size a kind of replica for a load, for other limits than those asked for, and with all times
    longer by each factor of `slower`."""
    asked = replace(ask, slo=ask.slo if limits is None else limits)
    factors = np.asarray(slower, dtype=np.float64)[:, None]
    states = at_speeds(kind.states, factors)
    found: Sized
    if kind.pools is not None:
        pools = at_speeds(kind.pools, factors)
        found = size_split(load, states, pools, asked.slo, ask.engine.max_utilisation)
    else:
        found = size_mixed(load, states, asked.slo, ask.engine.max_utilisation)
    choices = [replace(kind.choice, sized=found, index=i) for i in range(factors.size)]
    return [_needs(asked, load, choice) for choice in choices]


def _needs(ask: PlanRequest, load: Load, choice: Choice) -> Needs:
    found, i = choice.sized, choice.index
    runs = bool(found.replicas[i])
    tokens = float(found.state.rate[i, 0] * found.replicas[i]) * float(load.lengths.output.mean())
    mean_tokens = tokens / load.peak_over_mean if runs else math.nan
    return Needs(
        meets=runs and not choice.violations(ask),
        gpus=choice.gpus,
        cost_usd_per_hour=choice.cost if runs else math.nan,
        usd_per_million_tokens=choice.cost / 3600 / mean_tokens * 1e6,
        tokens_per_s_per_gpu=tokens / choice.gpus if runs else math.nan,
        energy_joules_per_token=choice.watts / mean_tokens,
    )


def sensitivities(ask: PlanRequest, load: Load, choice: Choice) -> tuple[Sensitivity, ...]:
    """One assumption changed at a time; the ends of its GPUs are those of the step time's interval,
    replicas counted anew."""
    return tuple(_changes(ask, load, choice))


def _changes(ask: PlanRequest, load: Load, choice: Choice) -> Iterator[Sensitivity]:
    own = kind_of(load, choice)
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0, 4.0):
        yield _line(ask, _busier(load, factor), own, "traffic", factor)
    for what in ("prompt", "output"):
        for factor in (0.5, 2.0):
            longer = replace(load, lengths=load.lengths.scaled(**{what: factor}))
            yield _line(ask, longer, kind_of(longer, choice), what, factor)
    if load.prefix_hit_rate:
        cold = replace(load, prefix_hit_rate=0.0)
        kind = kind_of(cold, choice)
        yield _line(ask, cold, kind, "prefix_hit_rate", 0.0, change="no prefix cache")
    accepted = choice.row.spec.acceptance
    for by in (-0.1, -0.05, 0.05):
        if accepted is None:
            break
        same = accepted.same_model
        shifted = Shifted(origin="shifted", base=accepted, by=by, same_model=same)
        kind = kind_of(load, choice, replace(choice.row.spec, acceptance=shifted))
        yield _line(ask, load, kind, "acceptance", 1 + by, change=f"{by:+.2f}")
    for factor in (0.9, 1.2):
        yield _line(ask, load, own, "step_time", factor, slower=factor)
    for metric in METRICS:
        chosen = {k: v for k, v in ask.slo.items() if k.startswith(metric)}
        for factor in (0.5, 2.0) if chosen else ():
            bounds = dict(ask.slo) | {k: v * factor for k, v in chosen.items()}
            yield _line(ask, load, own, f"{metric} limit", factor, limits=bounds)


def _busier(load: Load, factor: float) -> Load:
    users = None if load.users is None else load.users * factor
    return replace(load, requests_per_s=load.requests_per_s * factor, users=users)


def _line(
    ask: PlanRequest,
    load: Load,
    kind: Kind,
    what: str,
    factor: float,
    *,
    change: str = "",
    limits: Limits | None = None,
    slower: float = 1.0,
) -> Sensitivity:
    faster_end, slower_end = step_ends(kind.choice)
    ends = (slower * faster_end, slower, slower * slower_end)
    low, found, high = needs(ask, load, kind, limits=limits, slower=ends)
    return Sensitivity(
        what=what,
        change=change or ("as planned" if factor == 1 else f"x {factor:g}"),
        factor=factor,
        meets=found.meets,
        gpus=found.gpus,
        gpus_low=float(low.gpus) if low.meets else math.nan,
        gpus_high=float(high.gpus) if high.meets else math.nan,
        cost_usd_per_hour=found.cost_usd_per_hour,
        usd_per_million_tokens=found.usd_per_million_tokens,
    )
