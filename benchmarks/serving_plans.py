"""A plan's recommended replicas at their planned load, put to the event simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.candidates import SPLIT, SizedChoice, choices_of, ranked
from magicplan.planning.question import read_plan
from magicplan.planning.request import SLO_KEYS
from magicplan.planning.search import fleet
from magicplan.roofline.deployment import Array
from magicplan.serving.replica import Replica, Speculation, one_of, replica
from magicplan.serving.simulation import Simulated, simulate


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
    some only prefill. Raises SpecError, UsageError."""
    question = read_plan(path)
    ask = question.request
    choices = ranked(ask, choices_of(question, fleet(ask, question.load), Counter()))
    if not choices:
        raise UsageError(f"{path}: no GPU given can serve this workload")
    return _of(choices[0], dict(ask.slo))


def _of(choice: SizedChoice, limits: Mapping[str, float]) -> Planned:
    row, sized, i = choice.row, choice.sized, choice.index
    count = int(sized.replicas[i])
    simulated = count if choice.layout == SPLIT else 1
    load = row.replica.load
    part = simulated / count
    users = None if load.users is None else load.users * part
    load = replace(load, users=users, requests_per_s=load.requests_per_s * part)
    gamma, depth = (int(getattr(sized.state, name)[i, 0]) for name in ("gamma", "depth"))
    if depth < gamma:
        raise UsageError("the plan drafts trees: the simulation has chains only")
    one = replica(
        row.replica.model, row.replica.machine, one_of(row.replica.layout, row.layout), load,
        row.replica.limits, row.replica.longest,
    )  # fmt: skip
    tokens = float(sized.state.rate[i, 0]) * simulated * float(load.lengths.output.mean())
    predicted = {key: float(sized.figures[key][i]) for key in SLO_KEYS} | {"tokens_per_s": tokens}
    return Planned(
        name=f"{simulated} of {count} x {row.resolved.machine.accelerator.name} tp{row.tp}",
        replica=one,
        spec=replace(row.spec, gamma=gamma or None),
        concurrency=None if users is None else round(users),
        replicas=simulated,
        prefill_replicas=int(sized.prefill_replicas[i]),
        predicted=predicted,
        limits=limits,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Check:
    """A plan beside simulations of it, one for each seed."""

    planned: Planned
    simulated: Mapping[str, Array]
    """[seed], by the names of `Planned.predicted`."""
    preempted: Array
    """[seed]: preemptions over requests."""

    def error(self, key: str) -> float:
        """Predicted over the mean of the simulated, minus 1."""
        return self.planned.predicted[key] / float(self.simulated[key].mean()) - 1


def check(path: Path | str, *, requests: int, seeds: int) -> Check:
    """A plan file's recommended fleet, simulated at its planned load. Raises SpecError, UsageError,
    MissingExtra."""
    plan = planned(path)
    runs = [
        simulate(
            plan.replica, plan.spec, requests=requests, seed=seed, concurrency=plan.concurrency,
            replicas=plan.replicas, prefill_replicas=plan.prefill_replicas,
        )
        for seed in range(seeds)
    ]  # fmt: skip
    return Check(
        planned=plan,
        simulated={key: np.asarray([_figure(run, key) for run in runs]) for key in plan.predicted},
        preempted=np.asarray([run.preemptions / requests for run in runs]),
    )


def _figure(run: Simulated, key: str) -> float:
    if key == "tokens_per_s":
        return run.tokens_per_s
    metric, statistic, _ = key.split("_")
    values = run.gaps if metric == "itl" else getattr(run, metric)
    if statistic == "mean":
        return float(values.mean())
    return float(np.percentile(values, float(statistic[1:])))
