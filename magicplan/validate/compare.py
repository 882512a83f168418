"""Measured beside predicted: errors in percent, regret of the chosen draft length, verdicts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.calibrate.kernel_fit import Errors
from magicplan.errors import MagicplanError, SpecError, UsageError
from magicplan.hardware_specs.spread import combined_spread
from magicplan.validate.forecast import TIMES, rates
from magicplan.validate.measure.clock import DISTURBED, Samples, interval
from magicplan.validate.run_file import Line, RecordedRun, read

DRAFT_ROOM = 1.5
"""A draft step is short and mostly overhead: it may miss by this many tolerances."""
QUANTITIES = ("decode", "draft", "verify", "round", "speedup")
Z95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class PointVerdict:
    """One point: what was measured, what was predicted, and whether they agree."""

    id: str
    batch: int
    ctx_tokens: int
    what: dict[str, Any]
    """Either `gamma`, the draft length in tokens, or `tree`, the drafted tree."""
    measured: dict[str, float]
    predicted: dict[str, float]
    ideal: dict[str, float]
    verdict: str
    """One of pass, fail, impossible (faster than the naive roofline) and skipped."""
    reason: str
    flags: tuple[str, ...] = ()

    @property
    def draft_length(self) -> str:
        """The drafted chain's length or tree's size, as tables name it."""
        tree = self.what.get("tree")
        return f"tree {tree['size']}" if tree else str(self.what["gamma"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """The verdicts and errors of a whole run against its prediction."""

    run: RecordedRun
    tolerance: float
    points: tuple[PointVerdict, ...]
    errors: dict[str, Errors]
    """Errors of the calibrated prediction by quantity; empty where nothing was measured."""
    ideal_errors: dict[str, Errors]
    regret_percent: float | None
    regrets: dict[str, float] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """The prediction that was written before the measurement."""
        assert self.run.prediction is not None
        found: dict[str, Any] = self.run.prediction["content"]
        return found

    @property
    def digest(self) -> str:
        """The SHA-256 of the prediction, as hexadecimal digits."""
        return str((self.run.prediction or {})["sha256"])

    def count(self, verdict: str) -> int:
        """The number of points with that verdict."""
        return sum(point.verdict == verdict for point in self.points)

    @property
    def judged(self) -> int:
        """The number of points with a verdict other than skipped."""
        return len(self.points) - self.count("skipped")

    @property
    def undecided(self) -> int:
        """Points that were measured but too disturbed to be judged."""
        return sum(point.verdict == "skipped" and bool(point.measured) for point in self.points)

    @property
    def passed(self) -> bool:
        """The output is exact, nothing failed, and no more was undecided than was judged."""
        exact = self.run.exactness is not None and bool(self.run.exactness["greedy_equal"])
        all_passed = self.count("pass") == self.judged > 0
        return exact and all_passed and self.undecided <= self.judged


def compare_file(path: Path, tolerance: float | None = None) -> RunComparison:
    """Judge a stored run, within its own tolerance if none is given. Raises SpecError for a file
    that no run wrote so, UsageError for a run without prediction."""
    run = read(path)
    try:
        return compare(run, run.tolerance if tolerance is None else tolerance)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        if isinstance(problem, MagicplanError):
            raise
        what = f"{type(problem).__name__}: {problem}"
        raise SpecError(path, f"a field is missing or of another kind ({what})") from None


def compare(run: RecordedRun, tolerance: float) -> RunComparison:
    """Judge a run. `tolerance` is relative; raises UsageError for a run without prediction.

    A point fails only if the whole 95 % interval of a measured median lies outside the tolerance.
    """
    if run.prediction is None:
        raise UsageError(
            "the run stopped before its prediction was written; run it to the end first"
        )
    known = {line["id"]: line for line in run.points}
    raised = _raised(run)
    points = tuple(
        _judge(told, known.get(told["id"]), tolerance, raised)
        for told in run.prediction["content"]["points"]
    )
    measured = [p for p in points if p.measured]
    regrets = _regrets(measured, run.prediction["content"]["acceptance_origin"])
    return RunComparison(
        run=run,
        tolerance=tolerance,
        points=points,
        errors=_errors(measured, "predicted"),
        ideal_errors=_errors(measured, "ideal"),
        regret_percent=float(np.mean(list(regrets.values()))) if regrets else None,
        regrets=regrets,
    )


def _raised(run: RecordedRun) -> float:
    """How much faster memory was read during the run than the peak that the floors rest on.

    A datasheet's peak is never exceeded; one measured beside a neighbour may be.
    """
    believed: float = (run.prediction or {})["content"]["accelerator"]["memory_bytes_per_s"]
    return max([1.0, *(float(line.get("read_bytes_per_s", 0)) / believed for line in run.points)])


def _judge(
    told: dict[str, Any], line: Line | None, tolerance: float, raised: float
) -> PointVerdict:
    what: dict[str, Any] = {name: told[name] for name in ("gamma", "tree") if name in told}
    measured, flags = ({}, ()) if line is None else _measured(line)
    if line is None:
        verdict, reason = "skipped", "not measured: the run was stopped before this point"
    elif "skipped" in line:
        verdict, reason = "skipped", str(line["skipped"])
    else:
        verdict, reason = _verdict(told, measured, flags, tolerance, raised)
    return PointVerdict(
        id=told["id"],
        batch=told["batch"],
        ctx_tokens=told["ctx_tokens"],
        what=what,
        measured=measured,
        predicted=told["predicted"],
        ideal=told["ideal"],
        verdict=verdict,
        reason=reason,
        flags=tuple(flags),
    )


def _measured(line: Line) -> tuple[dict[str, float], tuple[str, ...]]:
    """Medians and intervals of a point's samples; nothing for a skipped one."""
    if "skipped" in line:
        return {}, ()
    times: dict[str, float] = {}
    ends: dict[str, float] = {}
    worst = 1.0
    for name in TIMES:
        samples = line["samples"][name.removesuffix("_seconds")]
        kept = Samples(wall=samples["wall"], own=samples.get("own", []))
        found = interval(kept.judged)
        times[name] = found.median
        ends |= {f"{name}_low": found.low, f"{name}_high": found.high}
        worst = max(worst, kept.disturbance)
    emitted = np.asarray(line["emitted_tokens"], dtype=np.float64) / line["batch"]
    found_rates = rates(line["batch"], times, float(emitted.mean()))
    spread = _speedup_spread(times | ends, emitted, line["batch"])
    ends["speedup_low"] = found_rates["speedup"] / spread
    ends["speedup_high"] = found_rates["speedup"] * spread
    flags = list(line.get("flags", ()))
    if worst > DISTURBED:
        flags.append(f"disturbed: wall time {worst:.2f} times the thread's own")
    return found_rates | ends, tuple(flags)


def _speedup_spread(t: dict[str, float], emitted: Any, batch: int) -> float:
    """The factor from a speedup to the ends of its 95 % interval, from three independent causes:
    the round's seconds, the decode step's seconds, and the tokens that were drawn."""

    def spread(name: str) -> float:
        low, high = t.get(f"{name}_low", t[name]), t.get(f"{name}_high", t[name])
        return float(np.sqrt(high / low))

    drawn = Z95 * emitted.std() / np.sqrt(max(len(emitted), 1)) / emitted.mean()
    return float(combined_spread(spread("round_seconds"), spread("decode_seconds"), np.exp(drawn)))


def _verdict(
    told: dict[str, Any],
    measured: dict[str, float],
    flags: tuple[str, ...],
    tolerance: float,
    raised: float,
) -> tuple[str, str]:
    """A point's verdict and its reason: those of the worst of its quantities."""
    floors = {name: floor / raised for name, floor in told["floor"].items()}
    for name, floor in floors.items():
        if measured.get(f"{name}_high", floor) < floor:
            return "impossible", (
                f"{_short(name)} took {1e3 * measured[name]:.3g} ms, less than the "
                f"{1e3 * floor:.3g} ms that this device's own peaks allow"
            )
    problems = []
    for name in TIMES:
        room = room_of(name, tolerance)
        predicted = told["predicted"][name]
        if not predicted or f"{name}_low" not in measured:
            continue
        most, least = (
            predicted / measured[f"{name}_low"] - 1,
            predicted / measured[f"{name}_high"] - 1,
        )
        if least > room or most < -room:
            error = 100 * (predicted / measured[name] - 1)
            problems.append(f"{_short(name)} predicted {abs(error):.0f} % too "
                            f"{'long' if error > 0 else 'short'}")  # fmt: skip
    disturbed = [flag for flag in flags if flag.startswith("disturbed")]
    if problems and disturbed:
        return "skipped", f"{disturbed[0]}, and {problems[0]}: not judged"
    return ("fail", "; ".join(problems)) if problems else ("pass", "")


def room_of(name: str, tolerance: float) -> float:
    """Relative error that a time of `TIMES` may have."""
    return tolerance * (DRAFT_ROOM if name == "draft_seconds" else 1.0)


def rule(tolerance: float) -> str:
    """The rule by which points pass, as one sentence."""
    rooms: dict[float, list[str]] = defaultdict(list)
    for name in TIMES:
        rooms[room_of(name, tolerance)].append(_short(name))
    return " and ".join(
        f"{', '.join(names)} within {100 * room:.3g} %" for room, names in sorted(rooms.items())
    )


def _short(name: str) -> str:
    return name.removesuffix("_seconds")


def _errors(points: list[PointVerdict], side: str) -> dict[str, Errors]:
    """Errors by quantity, where a decode step that several draft lengths share counts once."""
    found = {}
    for quantity in QUANTITIES:
        name = quantity if quantity == "speedup" else f"{quantity}_seconds"
        rows: dict[Any, tuple[float, float]] = {}
        for p in points:
            told = getattr(p, side)[name]
            if told and p.measured[name]:
                key = (p.batch, p.ctx_tokens) if quantity == "decode" else p.id
                rows.setdefault(key, (told, p.measured[name]))
        if rows:
            predicted, measured = np.asarray(list(rows.values())).T
            found[quantity] = Errors.of(predicted, measured)
    return found


def _regrets(points: list[PointVerdict], origin: str) -> dict[str, float]:
    """Percent of throughput lost by the predicted draft length, for every cell with a sweep.

    Not to speculate is a choice too. Under simulated acceptance the law is known, so that measured
    times meet its expected tokens; drawn ones would add their own chance to every length.
    """
    cells: dict[tuple[int, int], list[PointVerdict]] = defaultdict(list)
    for point in points:
        cells[point.batch, point.ctx_tokens].append(point)
    found = {}
    for (batch, ctx), sweep in cells.items():
        if len(sweep) < 2:
            continue
        plain = (
            sweep[0].predicted["baseline_tokens_per_s"],
            sweep[0].measured["baseline_tokens_per_s"],
        )
        choices = [plain]
        for p in sweep:
            side = p.predicted if origin.startswith("simulated") else p.measured
            real = batch * side["tokens_per_round"] / p.measured["round_seconds"]
            choices.append((p.predicted["tokens_per_s"], real))
        predicted, real_rates = np.asarray(choices).T
        lost = 1 - real_rates[predicted.argmax()] / real_rates.max()
        found[f"batch {batch}, {ctx} tokens"] = float(100 * lost)
    return found


def summary(c: RunComparison) -> dict[str, Any]:
    """The contract's numbers, percent; null where nothing was measured."""
    found: dict[str, Any] = {}
    for quantity in QUANTITIES:
        errors = c.errors.get(quantity)
        for name in ("mape", "p95", "bias"):
            found[f"{quantity}_{name}"] = getattr(errors, name) if errors else None
        ideal = c.ideal_errors.get(quantity)
        for name in ("mape", "bias"):
            found[f"{quantity}_ideal_{name}"] = getattr(ideal, name) if ideal else None
    return found | {
        "gamma_regret": c.regret_percent,
        "points": len(c.points),
        "skipped": c.count("skipped"),
        "passed": c.count("pass"),
        "failed": c.count("fail"),
        "impossible": c.count("impossible"),
        "tolerance_percent": 100 * c.tolerance,
        "verdict": "pass" if c.passed else "fail",
    }
