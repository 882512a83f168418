"""Does the closed-form steady state agree with a simulation of the same scheduler?

Random workloads (models, GPUs, lengths, long prompts, chunk budgets, speculation, pipeline stages,
replicas that only prefill, shared prefixes, tight caches; open arrivals at a random utilisation,
some in bursts, a fixed concurrency, or users who think) are simulated request by request with the
same step times. Prints the error of throughput, times to the first token and per token, p95 latency
and gaps between tokens, and the worst workloads. So are the fleets that the example plans
recommend, at their planned load: predicted, simulated, and the plan's limit.

    python benchmarks/serving_simulation.py [workloads] [requests] [processes]
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from benchmarks.random_serving import FEATURES, Comparison, compare, random_case
from benchmarks.serving_plans import check

PLANS = Path(__file__).parent.parent / "examples" / "plans"
PLAN_REQUESTS, PLAN_SEEDS = 4000, 3
FEW = 16
GOALS = {"throughput": 5.0, "tpot": 8.0, "e2e_p95": 15.0}
LATENCIES = ("throughput", "tpot", "tpot_p95", "ttft", "ttft_p95", "e2e", "e2e_p95")
GAPS = ("itl_mean", "itl_cv", "itl_p50", "itl_p95", "itl_p99")


def answer(seed: int, requests: int) -> Comparison:
    """One workload from both sides; a third of the requests will do where few are in flight."""
    case = random_case(seed)
    few = case.kind != "open" and case.concurrency < FEW
    return compare(case, requests=requests // 3 if few else requests, seed=seed)


def report(title: str, rows: list[Comparison], names: tuple[str, ...]) -> None:
    """Errors of each figure over some workloads, and the worst of them."""
    print(f"{title}: {len(rows)} workloads")
    for name in names if rows else ():
        errors = 100 * np.asarray([r.error(name) for r in rows])
        sizes = np.abs(errors)
        worst = rows[int(sizes.argmax())]
        goal = GOALS.get(name)
        met = "" if goal is None else f"  goal {goal:.0f}: "
        if goal is not None:
            met += "met" if sizes.mean() <= goal else "missed"
        print(
            f"  {name:10} MAPE {sizes.mean():5.1f} %  median {np.median(sizes):5.1f} %  "
            f"bias {errors.mean():+5.1f} %  p95 {np.percentile(sizes, 95):5.1f} %  "
            f"worst {worst.error(name):+.1%} ({worst.name}){met}"
        )


def report_plan(path: Path) -> None:
    """What a plan recommends: predicted, simulated (mean, lowest and highest seed) and limit."""
    found = check(path, requests=PLAN_REQUESTS, seeds=PLAN_SEEDS)
    print(f"{path.stem}: {found.planned.name}, preempted {max(found.preempted):.1%} of requests")
    for key, predicted in found.planned.predicted.items():
        if key not in found.planned.limits and "p95" not in key and key != "tokens_per_s":
            continue
        seeds, limit = found.simulated[key], found.planned.limits.get(key)
        print(
            f"  {key:18} predicted {predicted:9.4g}  simulated {seeds.mean():9.4g} "
            f"({seeds.min():.4g} to {seeds.max():.4g})  {found.error(key):+6.1%}"
            + ("" if limit is None else f"  limit {limit:g}")
        )


def main() -> None:
    count, requests, processes = (
        int(given) for given in (*sys.argv[1:], *("240", "1500", "2")[len(sys.argv) - 1 :])
    )
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as workers:
        found = workers.imap(partial(answer, requests=requests), range(count))
        rows = list(track(found, "simulating", total=count))
    print(f"{count} workloads of {requests} requests in {time.perf_counter() - started:.0f} s")
    for kind in ("open", "closed", "users"):
        report(kind, [r for r in rows if r.kind == kind], LATENCIES)
    structural = {"speculation", "pipeline", "disaggregated"}
    report("plain", [r for r in rows if not r.features & structural], LATENCIES)
    for feature in FEATURES:
        report(feature, [r for r in rows if feature in r.features], LATENCIES)
    print("gaps between tokens, errors in mean gaps (coefficient of variation: in itself)")
    for title, drafted in (("without drafts", False), ("speculation", True)):
        chosen = [r for r in rows if ("speculation" in r.features) == drafted]
        report(title, chosen, GAPS)
    report("all", rows, LATENCIES)
    for path in sorted(PLANS.glob("*.toml")):
        report_plan(path)


if __name__ == "__main__":
    main()
