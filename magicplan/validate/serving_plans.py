"""A plan's recommended replicas at their planned load, put to the event simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from magicplan import hardware_specs
from magicplan.planning.fleet import fleet
from magicplan.planning.plan_candidates import SPLIT, Choice
from magicplan.planning.plan_choices import choices_of, ranked
from magicplan.planning.plan_files import read_plan
from magicplan.planning.prices import prices_for
from magicplan.planning.replica import Replica, Speculation, one_of, replica
from magicplan.planning.sizing import SLO_KEYS
from magicplan.planning.traffic_load import load_of
from magicplan.validate.serving_simulation import Simulated, simulate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """What a plan recommends, as a simulation can be asked for it."""

    name: str
    replica: Replica
    """Of one layout; its load is that of `replicas`."""
    spec: Speculation
    concurrency: int | None
    replicas: int
    prefill_replicas: int
    predicted: Mapping[str, float]
    """By `SLO_KEYS`, and `tokens_per_s` of these replicas."""
    limits: Mapping[str, float]


def planned(path: Path | str) -> Planned:
    """The recommended fleet of a plan file: one replica and its share of the load, or all where
    some only prefill."""
    ask = read_plan(path, {})
    load = load_of(ask)
    gpus = [hardware_specs.load(name) for name in ask.gpus]
    prices = prices_for(gpus, ask.prices, needed=False)
    choice = ranked(ask, choices_of(ask, load, fleet(ask, load), prices, Counter()))[0]
    return _of(choice, dict(ask.slo))


def _of(choice: Choice, limits: Mapping[str, float]) -> Planned:
    row, sized, i = choice.row, choice.sized, choice.index
    count = int(sized.replicas[i])
    simulated = count if choice.layout == SPLIT else 1
    load = row.replica.load
    part = simulated / count
    users = None if load.users is None else load.users * part
    load = replace(load, users=users, requests_per_s=load.requests_per_s * part)
    gamma, depth = (int(getattr(sized.state, name)[i, 0]) for name in ("gamma", "depth"))
    if depth < gamma:
        raise NotImplementedError("the simulation drafts chains only")
    one = replica(
        row.replica.model, row.replica.machine, one_of(row.replica.layout, row.layout), load,
        row.replica.limits, row.replica.longest,
    )  # fmt: skip
    rate = float(sized.state.rate[i, 0]) * simulated
    tokens = rate * float(load.lengths.output.mean())
    return Planned(
        name=f"{simulated} of {count} x {row.resolved.machine.accelerator.name} tp{row.tp}",
        replica=one,
        spec=replace(row.spec, gamma=gamma or None),
        concurrency=None if users is None else round(users),
        replicas=simulated,
        prefill_replicas=int(sized.prefill_replicas[i]),
        predicted={key: float(sized.figures[key][i]) for key in SLO_KEYS} | {"tokens_per_s": tokens},
        limits=limits,
    )


def simulated(plan: Planned, *, requests: int, seed: int) -> tuple[dict[str, float], Simulated]:
    """The same figures, and the run that they are of."""
    found = simulate(
        plan.replica, plan.spec, requests=requests, seed=seed, concurrency=plan.concurrency,
        replicas=plan.replicas, prefill_replicas=plan.prefill_replicas,
    )  # fmt: skip
    figures = {"tokens_per_s": found.tokens_per_s}
    for key in SLO_KEYS:
        metric, statistic, _ = key.split("_")
        values = found.gaps if metric == "itl" else getattr(found, metric)
        mean = statistic == "mean"
        figures[key] = float(values.mean() if mean else np.percentile(values, float(statistic[1:])))
    return figures, found
