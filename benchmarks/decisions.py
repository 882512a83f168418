"""Do recommended fleets keep their limits, and would fewer replicas do?

Seeded workloads (models, GPUs, lengths, rates, users, limits on every kind of latency) are planned;
the recommended fleet, and one with a tenth of its replicas fewer (at least one), are put to the
plain twin of the simulation under traffic drawn anew. Fleets of one replica have no smaller one.

    python benchmarks/decisions.py [workloads] [first seed] [requests]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.candidates import SizedChoice
from magicplan.planning.choose import chosen
from magicplan.planning.question import question_of
from magicplan.planning.request import request_from
from magicplan.planning.search import fleet
from magicplan.serving.load_test import TURNAROUND_SECONDS, asked, drawn
from magicplan.serving.outcome import statistic_of
from magicplan.serving.requests import SimulatedRequest
from tests.serving.plain_server import Guest, PlainServer, walk

WARM = 0.25
"""Of the requests, the first, are not counted."""
SERVERS = (
    ("llama-3.1-8b", "h100"), ("llama-3.1-8b", "l40s"), ("llama-3.1-70b", "h200"),
    ("qwen3-32b", "h100"), ("mixtral-8x7b", "h100"), ("gemma-3-27b", "a100"),
)  # fmt: skip
SHAPES = (
    ("lognormal:600,2400", "lognormal:200,600"), (1024, 256), ("uniform:2000,12000", 150),
    ("lognormal:4000,16000", "lognormal:300,900"), (200, "lognormal:500,1500"),
)  # fmt: skip
LIMITS = {
    "ttft_p95_seconds": (0.3, 4.0), "tpot_p95_seconds": (0.012, 0.08),
    "itl_p95_seconds": (0.03, 0.3), "e2e_p95_seconds": (8.0, 60.0),
    "ttft_mean_seconds": (0.2, 2.0), "tpot_mean_seconds": (0.012, 0.06),
}  # fmt: skip


def workload(seed: int) -> dict[str, Any]:
    """A question for `plan`."""
    rng = np.random.default_rng(seed)
    model, gpu = SERVERS[rng.integers(len(SERVERS))]
    prompt, output = SHAPES[rng.integers(len(SHAPES))]
    names = rng.choice(list(LIMITS), size=rng.integers(1, 3), replace=False)
    slo = {str(name): float(np.exp(rng.uniform(*np.log(LIMITS[str(name)])))) for name in names}
    traffic: dict[str, Any] = {"requests_per_s": float(np.exp(rng.uniform(*np.log([2.0, 60.0]))))}
    if rng.random() < 0.25:
        traffic = {"users": int(rng.integers(20, 400)), "think_seconds": float(rng.integers(0, 30))}
    return {
        "model": model, "gpus": gpu, "prompt": prompt, "output": output, "slo": slo,
        "drafts": ("none", "eagle3")[int(rng.random() < 0.3)], "disaggregation": "off", **traffic,
    }  # fmt: skip


def recommended(ask: Mapping[str, Any]) -> SizedChoice | None:
    """The fleet of a plan; None where nothing keeps the limits."""
    from collections import Counter

    question = question_of(request_from(dict(ask)))
    try:
        choices = chosen(question, fleet(question.request, question.load), Counter())
    except UsageError:
        return None
    if not choices or choices[0].violations(question.request):
        return None
    return choices[0]


def keeps(choice: SizedChoice, replicas: int, seed: int, count: int) -> dict[str, float]:
    """Figures over limits of one replica's share of the traffic, walked step by step."""
    setup = choice.sized.kind.setup
    load = setup.load
    draws = drawn(load, count, seed)
    twins = [PlainServer(server=setup.server, times=setup.times) for _ in range(setup.stages)]
    if load.users is None:
        told = walk(twins, _sent(asked(draws, setup.law, load.requests_per_s / replicas),
                                 setup.entry_seconds), least)  # fmt: skip
        return _ratios(told, choice.sized.limits, setup.entry_seconds)
    users = math.ceil(load.users / replicas)
    requests = asked(draws, setup.law, math.inf)
    following = iter(requests[users:])

    def again(guest: Guest, ended: float) -> list[tuple[float, SimulatedRequest]]:
        request = next(following, None)
        if request is None:
            return []
        after = ended + max(guest.ask.pause, TURNAROUND_SECONDS) + setup.entry_seconds
        return [(after, request)]

    for request in requests[:users]:
        request.arrived = request.pause
    first = _sent(requests[:users], setup.entry_seconds)
    told = walk(twins, first, least, again)
    return _ratios(told, choice.sized.limits, setup.entry_seconds)


def _sent(requests: list[SimulatedRequest], entry: float) -> list[tuple[float, SimulatedRequest]]:
    return [(r.arrived + entry, r) for r in requests]


def least(_: SimulatedRequest, servers: Any) -> int:
    """The micro-batch with the fewest requests."""
    loads = [len(s.running) + len(s.waiting) for s in servers]
    return loads.index(min(loads))


def _ratios(told: list[Guest], limits: Mapping[str, float], entry: float) -> dict[str, float]:
    kept = [g for g in told[int(len(told) * WARM) : int(len(told) * 0.95)] if g.done]
    values = {
        "ttft": np.asarray([g.first - g.queued + entry for g in kept]),
        "e2e": np.asarray([g.ended - g.queued + entry for g in kept]),
        "tpot": np.asarray(
            [(g.ended - g.first) / (g.ask.output - 1) for g in kept if g.ask.output > 1]
        ),
        "itl": np.asarray([gap for g in kept for gap in g.gaps]),
    }
    found = {}
    for key, limit in limits.items():
        metric, statistic, _ = key.split("_")
        found[key] = statistic_of(values[metric], statistic) / limit
    return found


@dataclass(frozen=True)
class Verdict:
    """One fleet: whether it keeps its limits, and whether fewer replicas would (None: one)."""

    seed: int
    name: str
    worst: float
    fewer: float | None


def verdict(seed: int, count: int) -> Verdict | None:
    """Plan a workload and walk its fleet; None where no fleet keeps its limits."""
    choice = recommended(workload(seed))
    if choice is None:
        return None
    replicas = choice.sized.replicas
    batch = choice.sized.batch
    count = int(max(count, 6 * batch))
    worst = max(keeps(choice, replicas, 10_000 + seed, count).values())
    smaller = replicas - max(replicas // 10, 1)
    fewer = None
    if smaller:
        fewer = max(keeps(choice, smaller, 10_000 + seed, count).values())
        if load_is_full(choice, smaller):
            fewer = math.inf
    name = f"{replicas} x {choice.row.resolved.machine.accelerator.name} tp{choice.row.tp}"
    return Verdict(seed=seed, name=name, worst=worst, fewer=fewer)


def load_is_full(choice: SizedChoice, replicas: int) -> bool:
    """Whether fewer replicas would pass the utilisation that plans allow."""
    sized = choice.sized
    load = sized.kind.setup.load
    if load.users is not None:
        return False
    return load.requests_per_s / replicas > 0.9 * replace(sized.kind, careful=True).saturation


def main() -> None:
    """Print a line a workload and the two shares."""
    workloads, first, count = (
        int(value) for value in (*sys.argv[1:], *("100", "0", "1200")[len(sys.argv) - 1 :])
    )
    found = []
    for seed in range(first, first + workloads):
        one = verdict(seed, count)
        if one is None:
            print(f"{seed}: nothing keeps the limits", flush=True)
            continue
        fewer = "one replica" if one.fewer is None else f"a tenth fewer {one.fewer:.2f}"
        print(f"{seed}: {one.name}: worst figure {one.worst:.2f} of its limit; {fewer}", flush=True)
        found.append(one)
    several = [v for v in found if v.fewer is not None]
    good = sum(v.worst <= 1 for v in found)
    waste = sum(v.fewer is not None and v.fewer <= 1 for v in several)
    print(f"{good} of {len(found)} fleets keep every limit; of {len(several)} with more than one "
          f"replica, {waste} would with a tenth fewer")  # fmt: skip


if __name__ == "__main__":
    main()
