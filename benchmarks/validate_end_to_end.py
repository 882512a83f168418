"""Is speculation faster from end to end where it is predicted to be, by the wall clock?

Whole generations with and without speculation on this device, batch 4 at 16k and batch 1 at 4k,
simulated acceptance .8, gamma 4, self-draft over 512 tokens. Goal: at least 1.5 times at batch 4,
16k, and a loss at batch 1, 4k, if one is predicted there.

    python benchmarks/validate_end_to_end.py [--device cpu] [--seconds 10] [--backend native]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from magicplan.validate.measure.cells import end_to_end
from magicplan.validate.measure.clock import clock_of
from magicplan.validate.measure.grid import Point
from magicplan.validate.prepare import session
from magicplan.validate.question import question
from magicplan.validate.settings import Asked, resolve_settings

CASES = ((4, 16384, 1.5), (1, 4096, None))
"""Batch, context, and the speedup aimed at."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend")
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each side of a case")
    asked = parser.parse_args()
    settings = resolve_settings(
        Asked(device=asked.device, backend=asked.backend, model=asked.model)
    )
    run = session(question(settings))
    print(f"{run.subject.model.name}, {settings.backend} backend, {settings.dtype}")
    for batch, ctx, goal in CASES:
        point = Point(batch=batch, ctx=ctx)
        found = end_to_end(run.bench, clock_of(settings.device), point, asked.seconds)
        rates = {k: found[k]["tokens"] / found[k]["seconds"] for k in ("plain", "speculative")}
        per_round = found["speculative"]["tokens"] / found["speculative"]["steps"] / batch
        aim = f", goal {goal}: {'met' if found['speedup'] >= goal else 'missed'}" if goal else ""
        print(
            f"batch {batch:2}, {ctx:6} tokens: {rates['plain']:7.1f} tokens/s plain, "
            f"{rates['speculative']:7.1f} with {per_round:.2f} tokens a round, "
            f"{found['speedup']:.2f} times{aim}"
        )


if __name__ == "__main__":
    main()
