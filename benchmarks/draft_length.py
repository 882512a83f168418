"""How good are our decisions on published sweeps of draft lengths, and on which side of 1 are they?

Every row of FOLDER/{magicdec,speculation}.csv that states a measured speedup is predicted. Regret:
throughput lost by the draft length we choose against the best measured one, for every setting that
was measured at several lengths; not to speculate is among the choices. Sign: rows whose measured
and predicted speedup lie on the same side of 1, of those at least 2 % away from it. With the accept
length that each row states (timing alone decides), with the shipped acceptance tables, with the
sweep's shortest chain carried on at one rate, and for the naive roofline. Skips without the tables.

    python benchmarks/draft_length.py FOLDER
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from magicplan.validate import published
from magicplan.validate.published import Case
from magicplan.validate.replay import Outcome, regrets, replay, sign_accuracy

FILES = ("magicdec.csv", "speculation.csv")


def carried(cases: Iterable[Case]) -> list[Case]:
    """The same rows, each with the acceptance of its sweep's shortest chain: what a planner knows
    before it has tried the others."""
    sweeps: dict[tuple[str, ...], list[Case]] = defaultdict(list)
    for case in cases:
        if case.sweep and case.speedup:
            sweeps[case.sweep].append(case)
    found = []
    for rows in sweeps.values():
        shortest = min(rows, key=lambda case: int(case.ask["gamma"]))
        known = {"acceptance": shortest.ask["acceptance"]}
        found += [replace(case, ask=case.ask | known) for case in rows]
    return found


def shipped(cases: Iterable[Case]) -> list[Case]:
    """The same rows with the acceptance that `auto` picks for their task."""
    return [
        replace(case, ask=case.ask | {"acceptance": "auto", "task": case.sweep[4] or None})
        for case in cases
        if case.speedup and case.engine != "MagicDec"
    ]


def report(name: str, outcomes: list[Outcome]) -> None:
    lost = sorted(regrets(outcomes).values())
    share, rows = sign_accuracy(outcomes)
    median, worst = (float(np.median(lost)), max(lost)) if lost else (float("nan"),) * 2
    best = 100 * float(np.mean([value < 0.05 for value in lost])) if lost else float("nan")
    print(
        f"{name:44} regret over {len(lost):2} sweeps: median {median:4.1f} %, "
        f"worst {worst:4.1f} %, none in {best:3.0f} %   sign right in {share:5.1f} % of {rows} rows"
    )


def naive(outcomes: list[Outcome]) -> list[Outcome]:
    return [replace(o, predicted=o.naive) for o in outcomes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, nargs="?")
    folder = parser.parse_args().folder
    files = [folder / name for name in FILES if folder and (folder / name).is_file()]
    if not files:
        print("skipped: give a folder with magicdec.csv or speculation.csv")
        return
    cases = [case for case in published.read(files).cases if case.speedup]
    outcomes, refused = replay(cases)
    print(f"{len(outcomes)} outcomes of {len(cases)} rows with a speedup, {len(refused)} refused")
    report("each row's own accept length", outcomes)
    known, _ = replay(carried(cases))
    report("--acceptance auto, with the task named", replay(shipped(cases))[0])
    report("acceptance of the shortest chain, carried on", known)
    report("naive roofline, each row's own accept length", naive(outcomes))
    by_file: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_file[outcome.case.source.split(":")[0]].append(outcome)
    for name, rows in by_file.items():
        report(f"  of which {name}", rows)


if __name__ == "__main__":
    main()
