"""How good are our decisions on published sweeps of draft lengths, and on which side of 1 are they?

Every row of FOLDER/{magicdec,speculation}.csv that states a measured speedup is predicted. Regret:
throughput lost by the draft length we choose against the best measured one, for every setting that
was measured at several lengths; not to speculate is among the choices. Sign: rows whose measured
and predicted speedup lie on the same side of 1, of those at least 2 % away from it. With the accept
length that each row states (timing alone decides), with the shipped acceptance tables, with the
sweep's shortest chain carried on at one rate, and for the naive roofline. Rows that state their
parts (decode, draft and verification times) are swept by these: every other length costs as many
draft steps, a verification between decode and the row's, and the row's own overhead. Skips without
the tables.

    python benchmarks/draft_length.py FOLDER
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.replay import published
from magicplan.replay.outcomes import Outcome, regrets, replay, sign_accuracy
from magicplan.replay.published import Case
from magicplan.roofline.acceptance import tokens_per_round

FILES = ("magicdec.csv", "speculation.csv")
LONGEST = 8


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


def of_parts(cases: Iterable[Case]) -> list[float]:
    """Percent of throughput that our draft length loses by each row's own measured parts."""
    lost = []
    gammas = np.arange(LONGEST + 1)
    for case in cases:
        if not (case.step_seconds and case.draft_seconds and case.verify_seconds and case.speedup):
            continue
        asked = resolve(Request(**case.ask))
        own = int(case.ask["gamma"])
        budget = asked.draft.budget_tokens if asked.draft else None
        tokens = tokens_per_round(asked.acceptance.survival(LONGEST, asked.ctx, budget)).reshape(-1)
        taken = tokens[own] * case.step_seconds / case.speedup
        parts = own * case.draft_seconds + case.verify_seconds
        wider = (case.verify_seconds - case.step_seconds) / own
        seconds = case.step_seconds + gammas * (case.draft_seconds + wider)
        rates = tokens / (seconds + np.where(gammas > 0, taken - parts, 0.0))
        free = {k: v for k, v in case.ask.items() if k not in ("gamma", "max_gamma")}
        chosen = answer(resolve(Request(**free, max_gamma=LONGEST))).best.gamma
        lost.append(100 * float(1 - rates[int(chosen)] / rates.max()))
    return lost


def report(name: str, outcomes: list[Outcome]) -> None:
    share, rows = sign_accuracy(outcomes)
    lost = [*regrets(outcomes).values()]
    signs = f"sign right in {share:5.1f} % of {rows} rows" if rows else ""
    print(f"{name:44} {regret(lost, 'sweeps')}   {signs}")


def regret(lost: list[float], what: str) -> str:
    if not lost:
        return f"no {what} of several lengths"
    none = 100 * float(np.mean([value < 0.05 for value in lost]))
    return (
        f"regret over {len(lost):2} {what}: median {np.median(lost):4.1f} %, "
        f"worst {max(lost):4.1f} %, none in {none:3.0f} %"
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
    print(f"{len(outcomes)} outcomes of {len(cases)} rows with a speedup, {len(refused)} refused:")
    for reason, count in Counter(r.reason for r in refused).most_common():
        print(f"  {count} x {reason}")
    report("each row's own accept length", outcomes)
    known, _ = replay(carried(cases))
    report("--acceptance auto, with the task named", replay(shipped(cases))[0])
    report("acceptance of the shortest chain, carried on", known)
    report("naive roofline, each row's own accept length", naive(outcomes))
    print(f"{'each row swept by its own measured parts':44} {regret(of_parts(cases), 'rows')}")
    by_file: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_file[outcome.case.source.split(":")[0]].append(outcome)
    for name, rows in by_file.items():
        report(f"  of which {name}", rows)


if __name__ == "__main__":
    main()
