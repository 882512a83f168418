"""The tables of h200_model.py, reprinted from its data alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.calibrate.kernel_fit import Errors
from magicplan.units import human_tokens
from magicplan.validate.compare import PointVerdict, RunComparison, compare
from magicplan.validate.run_file import RecordedRun, read

GOALS = {"decode": 4.0, "verify": 5.0, "draft": 8.0, "round": 5.0, "speedup": 4.0}
TRANSFER_GOALS = {"decode": 8.0}
REGRET_GOAL = 1.0
TOLERANCE = 0.10
SIDES = ("calibrated", "transfer", "naive")


def print_tables(path: Path) -> None:
    """Everything that the file knows."""
    run = read(path)
    if run.prediction is None:
        print("no prediction yet: call again with the same --out")
        return
    content = run.prediction["content"]
    if content["rehearsal"]:
        print("REHEARSAL on a CPU with tiny models: no number below is a measurement of a GPU.\n")
    device = run.header["device"]
    print(f"{device['name']}, driver {device.get('driver')}, torch {device['torch']}, triton "
          f"{device['triton']}, commit {device['commit']}, {device['started']}")  # fmt: skip
    print(f"prediction sha256 {run.prediction['sha256']}, calibrated on "
          f"{len(content['calibrated_on'])} other points, MAPE there "
          f"{content['fit_percent']['mape']:.1f} %")  # fmt: skip
    passes = ", ".join(f"{k}: {v:.3f}" for k, v in content["verify_kv_passes"].items())
    print(f"attention over that of one query token: {passes}\n")
    found = {name: compared(run, name) for name in content["suites"]}
    error_tables(found)
    coverage(found, content)
    regret(found)
    adaptive(found)
    largest(run, found)
    worst(found)


def compared(run: RecordedRun, suite: str) -> RunComparison:
    """One suite as a run of its own."""
    assert run.prediction is not None
    content = run.prediction["content"]
    inner = {**content, **content["suites"][suite]}
    return compare(
        RecordedRun(
            header=run.header,
            exactness=run.exactness,
            ceilings=run.ceilings,
            prediction={"content": inner, "sha256": run.prediction["sha256"]},
            points=[line for line in run.points if line["id"].startswith(f"{suite}: ")],
        ),
        TOLERANCE,
    )


def measured(c: RunComparison) -> list[PointVerdict]:
    return [p for p in c.points if p.measured]


def sides(c: RunComparison, p: PointVerdict) -> dict[str, dict[str, float]]:
    """What each prediction said of a point."""
    told = {line["id"]: line for line in c.content["points"]}
    return {"calibrated": p.predicted, "transfer": told[p.id]["transfer"], "naive": p.ideal}


def errors(c: RunComparison, side: str, name: str) -> Errors | None:
    """Errors of one quantity; a decode step that draft lengths share counts once."""
    rows = {}
    for p in measured(c):
        told = sides(c, p)[side][name]
        key = (p.batch, p.ctx_tokens) if name == "decode_seconds" else p.id
        if told:
            rows.setdefault(key, (told, p.measured[name]))
    return Errors.of(*np.asarray(list(rows.values())).T) if rows else None


def error_tables(found: dict[str, RunComparison]) -> None:
    print("Errors in %, MAPE / p95 / bias; the goals are those of the calibrated column")
    print(f"{'suite':14} {'quantity':9} {'n':>4} " + " ".join(f"{side:>22}" for side in SIDES))
    for suite, c in found.items():
        for quantity, goal in GOALS.items():
            name = quantity if quantity == "speedup" else f"{quantity}_seconds"
            cells, n = [], 0
            for side in SIDES:
                e = errors(c, side, name)
                if e is None:
                    continue
                n = e.rows
                cells.append(f"{e.mape:6.1f} / {e.p95:5.1f} / {e.bias:+6.1f}")
            if not cells:
                continue
            calibrated = errors(c, "calibrated", name)
            met = "met" if calibrated and calibrated.mape <= goal else "missed"
            print(f"{suite:14} {quantity:9} {n:4} " + " ".join(f"{cell:>22}" for cell in cells)
                  + f"   goal {goal:.0f}: {met}")  # fmt: skip
        moved = errors(c, "transfer", "decode_seconds")
        if moved:
            goal = TRANSFER_GOALS["decode"]
            print(f"{suite:14} transfer-only decode {moved.mape:.1f} %, goal {goal:.0f}: "
                  f"{'met' if moved.mape <= goal else 'missed'}")  # fmt: skip
    print()


def coverage(found: dict[str, RunComparison], content: dict[str, Any]) -> None:
    """Share of decode and verify steps inside the 80 % interval that was written before."""
    print("Steps inside their 80 % interval")
    for side, residual in (
        ("calibrated", content["calibration"]["step_residual"]),
        ("transfer", content["transfer"]["step_residual"]),
    ):
        inside = [
            residual["low"] <= p.measured[name] / sides(c, p)[side][name] <= residual["high"]
            for c in found.values()
            for p in measured(c)
            for name in ("decode_seconds", "verify_seconds")
        ]
        if inside:
            print(f"  {side:10} {100 * np.mean(inside):5.1f} % of {len(inside)} "
                  f"[{residual['low']:.2f}, {residual['high']:.2f}]")  # fmt: skip
    print()


def regret(found: dict[str, RunComparison]) -> None:
    """Throughput lost by the predicted draft length or tree against the measured best."""
    print("Regret of the predicted draft length or tree, % of the best measured throughput")
    everything = []
    for suite, c in found.items():
        lost = list(c.regrets.values())
        everything += lost
        if lost:
            print(
                f"  {suite:14} mean {np.mean(lost):5.2f}, worst {max(lost):5.2f} over {len(lost)}"
            )
    if everything:
        mean = np.mean(everything)
        print(f"  all            mean {mean:5.2f}, goal {REGRET_GOAL:.0f}: "
              f"{'met' if mean <= REGRET_GOAL else 'missed'}")  # fmt: skip
    print()


def throughput(c: RunComparison, p: PointVerdict) -> float:
    """Tokens a second of measured rounds; under a simulated law with its expected tokens."""
    law = c.content["acceptance_origin"].startswith("simulated")
    side = p.predicted if law else p.measured
    return p.batch * side["tokens_per_round"] / p.measured["round_seconds"]


def adaptive(found: dict[str, RunComparison]) -> None:
    """The tree chosen for each workload against one tree for all, chains, and no speculation."""
    for c in found.values():
        chosen = c.content.get("adaptive")
        cells: dict[tuple[int, int], list[PointVerdict]] = defaultdict(list)
        for p in measured(c):
            cells[p.batch, p.ctx_tokens].append(p)
        if not chosen or not cells:
            continue
        fixed_sizes = fixed(c, cells)
        print(
            "Measured tokens a second: no speculation, best chain, one fixed tree for all "
            f"(size {fixed_sizes}, the best on average), best fixed tree of each, adaptive tree"
        )
        print(f"{'workload':>12} {'none':>9} {'chain':>9} {'fixed':>9} {'best fixed':>10} "
              f"{'adaptive':>9}  adaptive over: none, chain, fixed")  # fmt: skip
        for (batch, ctx), points in cells.items():
            row = contest(c, points, chosen.get(f"{batch} x {ctx}"), fixed_sizes)
            ratios = [row["adaptive"] / row[name] for name in ("none", "chain", "fixed")]
            print(f"{batch:4} x {human_tokens(ctx):>5} {row['none']:9.0f} {row['chain']:9.0f} "
                  f"{row['fixed']:9.0f} {row['best fixed']:10.0f} {row['adaptive']:9.0f}  "
                  + ", ".join(f"{r:.3f}" for r in ratios) + f"  ({row['tree']})")  # fmt: skip
        print()


def contest(
    c: RunComparison, points: list[PointVerdict], chosen: str | None, size: int
) -> dict[str, Any]:
    """One workload's throughputs."""
    none = points[0].measured["baseline_tokens_per_s"]
    chains = {p.what["gamma"]: throughput(c, p) for p in points if "gamma" in p.what}
    trees = {p.id: (p.what["tree"]["size"], throughput(c, p)) for p in points if "tree" in p.what}
    fixed_trees = {p.what["tree"]["size"]: throughput(c, p) for p in points if is_fixed(c, p)}
    adaptive_size, rate = trees.get(chosen or "", (1, none))
    return {
        "none": none,
        "chain": max(chains.values()),
        "fixed": fixed_trees.get(size, float("nan")),
        "best fixed": max(fixed_trees.values(), default=float("nan")),
        "adaptive": rate,
        "tree": f"{adaptive_size} nodes" if chosen else "no speculation",
    }


def is_fixed(c: RunComparison, p: PointVerdict) -> bool:
    """Is this one of the trees that are the same for every workload?"""
    return "tree" in p.what and p.what["tree"]["parents"] in c.content["fixed"]


def fixed(c: RunComparison, cells: dict[tuple[int, int], list[PointVerdict]]) -> int:
    """The size whose fixed tree is best on average over the workloads, by relative throughput."""
    scores: dict[int, list[float]] = defaultdict(list)
    for points in cells.values():
        none = points[0].measured["baseline_tokens_per_s"]
        for p in points:
            if is_fixed(c, p):
                scores[p.what["tree"]["size"]].append(np.log(throughput(c, p) / none))
    return max(scores, key=lambda s: float(np.mean(scores[s])), default=0)


def largest(run: RecordedRun, found: dict[str, RunComparison]) -> None:
    """The largest batch: speedup by the wall clock, and decode's share of the memory rate."""
    lines = {line["id"]: line for line in run.points}
    ceiling = max(
        (run.ceilings or {})["read_bytes_per_s"], (run.ceilings or {})["copy_bytes_per_s"]
    )
    told: list[tuple[float, str]] = []
    for suite, c in found.items():
        bytes_of = c.content["step_bytes"]
        for p in measured(c):
            end = lines[p.id].get("end_to_end")
            if not end:
                continue
            moved = bytes_of["weights"] + bytes_of["kv_token"] * p.batch * p.ctx_tokens
            rate = moved / p.measured["decode_seconds"]
            depth = p.what["gamma"] if "gamma" in p.what else p.what["tree"]["depth"] - 1
            draft_over = p.measured["draft_seconds"] / depth / (bytes_of["weights"] / ceiling)
            told.append((end["speedup"],
                f"  {suite}: {p.batch} x {human_tokens(p.ctx_tokens)}, gamma {p.draft_length}: "
                f"{end['speedup']:.2f} times by the wall clock (rounds alone "
                f"{p.measured['speedup']:.2f}, predicted {p.predicted['speedup']:.2f}); decode at "
                f"{100 * rate / ceiling:.0f} % of measured memory rate; draft step "
                f"{draft_over:.2f} times its weights' read"))  # fmt: skip
    if told:
        print("Largest batch that fits, whole generations (goal: the best at least 2.0 times)")
        for _, line in told:
            print(line)
        best = max(told)[0]
        print(f"  best {best:.2f} times: {'met' if best >= 2 else 'missed'}\n")


def worst(found: dict[str, RunComparison], count: int = 8) -> None:
    """The rows that are furthest off, and what was skipped or impossible."""
    rows = [(abs(np.log(p.predicted[n] / p.measured[n])), p, n) for p, n in quantities(found)]
    print("Worst rows")
    for _, p, name in sorted(rows, key=lambda row: -row[0])[:count]:
        error = 100 * (p.predicted[name] / p.measured[name] - 1)
        print(f"  {p.id}: {name.removesuffix('_seconds')} {1e3 * p.measured[name]:.3f} ms, "
              f"predicted {error:+.1f} %")  # fmt: skip
    keep: Callable[[PointVerdict], bool] = lambda p: p.verdict in ("impossible", "skipped")  # noqa: E731
    for c in found.values():
        for p in filter(keep, c.points):
            print(f"  {p.verdict}: {p.id}: {p.reason}")


def quantities(found: dict[str, RunComparison]) -> Iterator[tuple[PointVerdict, str]]:
    for c in found.values():
        for p in measured(c):
            for name in ("decode_seconds", "draft_seconds", "verify_seconds", "round_seconds"):
                if p.predicted[name]:
                    yield p, name
