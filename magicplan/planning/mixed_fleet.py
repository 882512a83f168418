"""Several GPU types or models at once: which replicas of which plan, by integer programming.

Every candidate that meets its limits is one kind of replica with the rate it bears. Whole numbers
of them must carry every workload within the GPUs at hand, at the least cost (scipy's `milp`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.launch import launch_of
from magicplan.planning.request import stock_of
from magicplan.planning.result import Candidate, FleetPart, MixedFleet, Plan
from magicplan.planning.verdict import fleet_verdict, mix_verdict

CAPACITY = "capacity_requests_per_s"


def mixed_fleet(plans: Sequence[Plan], available: Mapping[str, int] | None = None) -> MixedFleet:
    """Whole replicas of any kinds that carry every plan's peak at the least cost.

    `available` caps GPUs by type, None as the plans themselves do; a type that it does not name is
    not to be had. What a plan asked for at most, in GPUs or money, holds for its own replicas.
    Kinds that only prefill or only decode are left out. Raises UsageError for names, counts,
    missing prices, or plans that state different stocks.
    """
    if not plans:
        raise UsageError("a mixed fleet needs at least one plan")
    stock = _stated(plans) if available is None else stock_of(available)
    kinds = [(number, c) for number, p in enumerate(plans) for c in p.candidates if _usable(c)]
    alone = sum(map(_alone, plans))
    chosen = _solve(plans, kinds, stock, [c.capacity_requests_per_s for _, c in kinds])
    if chosen is None:
        limited = any(
            p.request.money.max_gpus or p.request.money.budget_usd_per_hour for p in plans
        )
        short = "within the GPUs available" if stock is not None else (
            "within the GPUs and the budget allowed" if limited else "at any size"
        )  # fmt: skip
        verdict = f"No mix of replicas carries {_names(plans)} {short}."
        return MixedFleet(feasible=False, verdict=verdict, parts=(), gpus={},
                          cost_usd_per_hour=math.nan, alone_usd_per_hour=alone)  # fmt: skip
    parts = tuple(_part(plans[n], c, x) for (n, c), x in zip(kinds, chosen, strict=True) if x)
    gpus: dict[str, int] = {}
    for part in parts:
        gpus[part.gpu] = gpus.get(part.gpu, 0) + part.gpus
    cost = sum(part.cost_usd_per_hour for part in parts)
    low, high = (_cost_at(plans, kinds, stock, end) for end in (1, 0))
    return MixedFleet(
        feasible=True,
        verdict=fleet_verdict(gpus, cost),
        parts=parts,
        gpus=gpus,
        cost_usd_per_hour=cost,
        cost_low_usd_per_hour=min(low, cost),
        cost_high_usd_per_hour=max(high, cost),
        alone_usd_per_hour=alone,
    )


def _stated(plans: Sequence[Plan]) -> Mapping[str, int] | None:
    """The GPUs at hand that the plans speak of; None where none does."""
    stocks = [p.question.stock for p in plans if p.question.stock is not None]
    if any(stock != stocks[0] for stock in stocks):
        raise UsageError(
            "available differs from plan to plan: expected the same stock in each, or one for all "
            "of them beside the plans (--available)"
        )
    return stocks[0] if stocks else None


def _alone(p: Plan) -> float:
    """USD an hour of a plan by itself; NaN where it has none."""
    if p.answer == "mixed" and p.mixed is not None:
        return p.mixed.cost_usd_per_hour
    return p.best.cost_usd_per_hour if p.best.meets else math.nan


def _cost_at(
    plans: Sequence[Plan],
    kinds: list[tuple[int, Candidate]],
    stock: Mapping[str, int] | None,
    end: int,
) -> float:
    """USD an hour of the cheapest mix where every replica bears the low (0) or the high (1) end of
    its capacity, all at once; infinite where no mix does."""
    borne = [c.ends.get(CAPACITY, (c.capacity_requests_per_s,) * 2)[end] for _, c in kinds]
    chosen = _solve(plans, kinds, stock, borne)
    if chosen is None:
        return math.inf
    return sum(
        x * c.cost_usd_per_hour / c.replicas for (_, c), x in zip(kinds, chosen, strict=True)
    )


def _usable(c: Candidate) -> bool:
    if math.isnan(c.cost_usd_per_hour):
        raise UsageError(f"a mixed fleet needs a price for {c.gpu}: state prices")
    latencies = [key for key in c.violations if key.endswith("_seconds")]
    return c.layout == "mixed" and not latencies and c.capacity_requests_per_s > 0


def _solve(
    plans: Sequence[Plan],
    kinds: list[tuple[int, Candidate]],
    stock: Mapping[str, int] | None,
    borne: Sequence[float],
) -> list[int] | None:
    """Replicas of each kind, whose fleet bears so many requests/s; None where no numbers do."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not kinds:
        return None
    bears = np.zeros((len(plans), len(kinds)))
    for column, (number, c) in enumerate(kinds):
        bears[number, column] = borne[column] / c.replicas
    peaks = [p.traffic.peak_requests_per_s * (1 - 1e-9) for p in plans]
    constraints = [LinearConstraint(bears, lb=peaks)]
    if stock is not None:
        names = sorted({c.gpu for _, c in kinds})
        uses = np.asarray([[_size(c) * (c.gpu == gpu) for _, c in kinds] for gpu in names])
        constraints.append(LinearConstraint(uses, ub=[stock.get(gpu, 0) for gpu in names]))
    prices = np.asarray([c.cost_usd_per_hour / c.replicas for _, c in kinds])
    sizes = np.asarray([float(_size(c)) for _, c in kinds])
    for number, p in enumerate(plans):
        own = np.asarray([n == number for n, _ in kinds])
        for limit, each in (
            (p.request.money.max_gpus, sizes),
            (p.request.money.budget_usd_per_hour, prices),
        ):
            if limit is not None:
                constraints.append(LinearConstraint(own * each, ub=limit))
    found = milp(
        prices, constraints=constraints, integrality=np.ones(len(kinds)), bounds=Bounds(lb=0)
    )
    return None if found.x is None else [round(float(x)) for x in found.x]


def _size(c: Candidate) -> int:
    """GPUs of one replica."""
    return c.gpus // c.replicas


def _part(p: Plan, c: Candidate, replicas: int) -> FleetPart:
    return FleetPart(
        workload=p.name, gpu=c.gpu, replicas=replicas, gpus=replicas * _size(c), tp=c.tp, pp=c.pp,
        dtype=c.dtype, kv_dtype=c.kv_dtype, draft=c.draft, gamma=c.gamma,
        tree=c.tree, ep=c.ep, attention_dp=c.attention_dp,
        launch=launch_of(p.question, c, replicas),
        requests_per_s=replicas * c.capacity_requests_per_s / c.replicas,
        cost_usd_per_hour=replicas * c.cost_usd_per_hour / c.replicas,
    )  # fmt: skip


def _names(plans: Sequence[Plan]) -> str:
    return " and ".join(p.name for p in plans)


SAME = 1 - 1e-6
"""Share of a cost above which another cost is no saving."""


def with_mix(found: Plan) -> Plan:
    """The plan with the cheapest mix, which is the answer where no single kind of replica meets
    the limits, or where cost is the objective and the mix costs less."""
    mixed, best = mixed_fleet([found]), found.best
    cheaper = mixed.cost_usd_per_hour < best.cost_usd_per_hour * SAME
    if not mixed.feasible or (
        best.meets and not (cheaper and found.request.money.objective == "cost")
    ):
        return replace(found, mixed=mixed)
    return replace(
        found,
        answer="mixed",
        feasible=True,
        verdict=mix_verdict(mixed.gpus, mixed.cost_usd_per_hour, best),
        launch=tuple(one for part in mixed.parts for one in part.launch),
        mixed=mixed,
    )
