"""Does the closed-form steady state agree with a simulation of the same scheduler?

Random workloads (models, GPUs, lengths, chunk budgets, speculation, open arrivals at a random
utilisation, a fixed concurrency, or users who think) are simulated request by request with the
same step times. Prints the error of throughput, mean TPOT and p95 latency, and the worst workloads.

    python benchmarks/serving_simulation.py [workloads] [requests]
"""

from __future__ import annotations

import sys

import numpy as np

from magicplan.validate.random_serving import Comparison, compare, random_case

GOALS = {"throughput": 5.0, "tpot": 8.0, "e2e_p95": 15.0}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
    rows: list[Comparison] = []
    for seed in range(count):
        rows.append(compare(random_case(seed), requests=requests, seed=seed))
    for kind in ("open", "closed", "users", "all"):
        chosen = [r for r in rows if kind in ("all", r.case.kind)]
        print(f"{kind}: {len(chosen)} workloads")
        if not chosen:
            continue
        for name in ("throughput", "tpot", "tpot_p95", "ttft", "ttft_p95", "e2e", "e2e_p95"):
            errors = 100 * np.asarray([r.error(name) for r in chosen])
            worst = chosen[int(np.abs(errors).argmax())]
            goal = GOALS.get(name)
            met = "" if goal is None else f"  goal {goal:.0f}: "
            if goal is not None:
                met += "met" if np.abs(errors).mean() <= goal else "missed"
            print(
                f"  {name:10} MAPE {np.abs(errors).mean():5.1f} %  bias {errors.mean():+5.1f} %  "
                f"p95 {np.percentile(np.abs(errors), 95):5.1f} %  worst {worst.error(name):+.1%} "
                f"({worst.case}){met}"
            )


if __name__ == "__main__":
    main()
