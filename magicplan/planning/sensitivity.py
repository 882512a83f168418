"""What the best plan would need if an assumption were wrong: its kind of replica, counted anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from magicplan.planning.candidates import SizedChoice, step_ends
from magicplan.planning.request import METRICS, PlanRequest
from magicplan.planning.result import Sensitivity
from magicplan.planning.search import Configuration
from magicplan.planning.sizing import FULL, Limits, kind_of, size
from magicplan.roofline.acceptance import Shifted
from magicplan.serving.load import Load
from magicplan.serving.replica import Speculation, one_of, replica, rounds_of
from magicplan.serving.screen import screen


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


NOTHING = Needs(
    meets=False, gpus=0, cost_usd_per_hour=math.nan, usd_per_million_tokens=math.nan,
    tokens_per_s_per_gpu=math.nan, energy_joules_per_token=math.nan,
)  # fmt: skip


def row_with(
    load: Load, row: Configuration, limits: Limits, spec: Speculation | None = None
) -> Configuration:
    """The row under other lengths or with another draft or acceptance."""
    spec = spec or row.spec
    r = replica(
        row.resolved.model, row.resolved.machine, one_of(row.replica.layout, row.layout), load,
        row.replica.limits, row.replica.longest,
    )  # fmt: skip
    rounds = rounds_of(r, spec)
    bounds = screen(r, spec, rounds, limits)
    return replace(row, replica=r, layout=0, spec=spec, rounds=rounds, bounds=bounds)


def needs(
    ask: PlanRequest, load: Load, choice: SizedChoice, row: Configuration,
    *, limits: Limits | None = None, slower: float = 1.0, requests: int = FULL,
    draws: int = 1,
) -> Needs:  # fmt: skip
    """Count the replicas of a row for a load, for other limits than those asked for, and with all
    steps longer by a factor."""
    limits = ask.slo if limits is None else limits
    own = choice.sized.kind
    kind = own if row is choice.row else kind_of(row, choice.layout, load, ask.engine.stack)
    if kind is None:
        return NOTHING
    if slower != 1:
        kind = kind.slower(slower)
    base = own.setup.load
    near = choice.sized.replicas * slower * (
        load.users / base.users if load.users and base.users
        else load.requests_per_s / base.requests_per_s
    )  # fmt: skip
    sized = size(
        kind, load, limits, ask.engine.max_utilisation, requests, near=max(round(near), 1),
        nearest=False, draws=draws,
    )  # fmt: skip
    found = replace(choice, row=row, sized=sized)
    tokens = sized.trial.rate * sized.replicas * float(load.lengths.output.mean())
    mean_tokens = tokens / load.peak_over_mean
    return Needs(
        meets=not found.violations(replace(ask, slo=limits)),
        gpus=found.gpus,
        cost_usd_per_hour=found.cost,
        usd_per_million_tokens=found.cost / 3600 / mean_tokens * 1e6,
        tokens_per_s_per_gpu=tokens / found.gpus,
        energy_joules_per_token=found.watts / mean_tokens,
    )


def sensitivities(ask: PlanRequest, load: Load, choice: SizedChoice) -> tuple[Sensitivity, ...]:
    """One assumption changed at a time, replicas counted anew; the ends of the
    GPUs of the plan as it is are those of the step time's interval."""
    return tuple(_changes(ask, load, choice))


def _changes(ask: PlanRequest, load: Load, choice: SizedChoice) -> Iterator[Sensitivity]:
    own = choice.row
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0, 4.0):
        yield _traffic(ask, load, choice, factor)
    for what in ("prompt", "output"):
        for factor in (0.5, 2.0):
            longer = replace(load, lengths=load.lengths.scaled(**{what: factor}))
            row = row_with(longer, choice.row, ask.slo)
            yield _line(ask, longer, choice, row, what, factor)
    if load.prefix_hit_rate:
        cold = replace(load, prefix_hit_rate=0.0)
        row = row_with(cold, choice.row, ask.slo)
        yield _line(ask, cold, choice, row, "prefix_hit_rate", 0.0, change="no prefix cache")
    accepted = choice.row.spec.acceptance
    for by in (-0.1, -0.05, 0.05):
        if accepted is None:
            break
        same = accepted.same_model
        shifted = Shifted(origin="shifted", base=accepted, by=by, same_model=same)
        row = row_with(load, choice.row, ask.slo, replace(choice.row.spec, acceptance=shifted))
        yield _line(ask, load, choice, row, "acceptance", 1 + by, change=f"{by:+.2f}")
    for factor in (0.9, 1.2):
        yield _line(ask, load, choice, own, "step_time", factor, slower=factor)
    for metric in METRICS:
        some = {k: v for k, v in ask.slo.items() if k.startswith(metric)}
        for factor in (0.5, 2.0) if some else ():
            bounds = dict(ask.slo) | {k: v * factor for k, v in some.items()}
            yield _line(ask, load, choice, own, f"{metric} limit", factor, limits=bounds)


def _traffic(ask: PlanRequest, load: Load, choice: SizedChoice, factor: float) -> Sensitivity:
    """More of the same requests take as many more replicas as bear them."""
    sized = choice.sized
    base = float(load.users if load.users is not None else load.requests_per_s)
    share = factor * base / max(sized.capacity, base)
    count = max(math.ceil(share * sized.replicas - 1e-9), 1)
    pool = max(math.ceil(share * sized.prefill_replicas - 1e-9), min(sized.prefill_replicas, 1))
    trial = replace(sized.trial, replicas=count, prefill_replicas=pool)
    found = replace(choice, sized=replace(sized, trial=trial))
    tokens = sized.trial.rate * sized.replicas * factor * float(load.lengths.output.mean())
    ends: list[float] = [math.nan, math.nan]
    if factor == 1:
        some = [needs(ask, load, choice, choice.row, slower=end) for end in step_ends(choice)]
        ends = [float(one.gpus) if one.meets else math.nan for one in some]
    return Sensitivity(
        what="traffic", change="as planned" if factor == 1 else f"x {factor:g}", factor=factor,
        meets=not found.violations(ask), gpus=found.gpus, gpus_low=ends[0], gpus_high=ends[1],
        cost_usd_per_hour=found.cost,
        usd_per_million_tokens=found.cost / 3600 / tokens * load.peak_over_mean * 1e6,
    )  # fmt: skip


def _line(
    ask: PlanRequest, load: Load, choice: SizedChoice, row: Configuration, what: str, factor: float,
    *, change: str = "", limits: Limits | None = None, slower: float = 1.0,
) -> Sensitivity:  # fmt: skip
    found = needs(ask, load, choice, row, limits=limits, slower=slower)
    return Sensitivity(
        what=what,
        change=change or f"x {factor:g}",
        factor=factor,
        meets=found.meets,
        gpus=found.gpus,
        cost_usd_per_hour=found.cost_usd_per_hour,
        usd_per_million_tokens=found.usd_per_million_tokens,
    )
