"""Several GPU types or models at once: which replicas of which plan, by integer programming.

Every candidate that meets its limits is one kind of replica with the rate it bears. Whole numbers
of them must carry every workload within the GPUs at hand, at the least cost (scipy's `milp`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.planning.plan_result import Candidate, FleetPart, MixedFleet, Plan

CAPACITY = "capacity_requests_per_s"


def mixed_fleet(plans: Sequence[Plan], available: Mapping[str, int] | None = None) -> MixedFleet:
    """Whole replicas of any kinds that carry every plan's peak at the least cost.

    `available` caps GPUs by type; a type that it does not name is not to be had. Kinds that only
    prefill or only decode are left out. Raises UsageError for names, counts or missing prices.
    """
    if not plans:
        raise UsageError("a mixed fleet needs at least one plan")
    stock = None if available is None else stock_of(available)
    kinds = [(number, c) for number, p in enumerate(plans) for c in p.candidates if _usable(c)]
    alone = sum(p.best.cost_usd_per_hour if p.feasible else math.nan for p in plans)
    chosen = _solve(plans, kinds, stock, [c.capacity_requests_per_s for _, c in kinds])
    if chosen is None:
        short = "within the GPUs available" if stock is not None else "at any size"
        verdict = f"no mix of replicas carries {_names(plans)} {short}"
        return MixedFleet(feasible=False, verdict=verdict, parts=(), gpus={},
                          cost_usd_per_hour=math.nan, alone_usd_per_hour=alone)  # fmt: skip
    parts = tuple(_part(plans[n], c, x) for (n, c), x in zip(kinds, chosen, strict=True) if x)
    gpus: dict[str, int] = {}
    for part in parts:
        gpus[part.gpu] = gpus.get(part.gpu, 0) + part.gpus
    cost = sum(part.cost_usd_per_hour for part in parts)
    counts = ", ".join(f"{count} x {gpu}" for gpu, count in gpus.items())
    low, high = (_cost_at(plans, kinds, stock, end) for end in (1, 0))
    return MixedFleet(
        feasible=True,
        verdict=f"{counts} for {cost:.2f} USD an hour",
        parts=parts,
        gpus=gpus,
        cost_usd_per_hour=cost,
        cost_low_usd_per_hour=min(low, cost),
        cost_high_usd_per_hour=max(high, cost),
        alone_usd_per_hour=alone,
    )


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


def stock_of(available: Mapping[str, int]) -> dict[str, int]:
    """GPUs at hand by exact names. Raises UsageError for unknown names and bad counts."""
    found = {}
    for name, count in available.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10**6:
            raise UsageError(f"available.{name} {count!r}: expected a whole number of GPUs")
        found[hardware_specs.load(name).name] = count
    return found


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
        tree=c.tree,
        requests_per_s=replicas * c.capacity_requests_per_s / c.replicas,
        cost_usd_per_hour=replicas * c.cost_usd_per_hour / c.replicas,
    )  # fmt: skip


def _names(plans: Sequence[Plan]) -> str:
    return " and ".join(p.name for p in plans)
