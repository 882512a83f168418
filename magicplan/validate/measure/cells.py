"""Measuring a real decoder: its steps, its rounds, and what they yield. Knows no prediction."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Protocol, TypeVar

from magicplan.errors import DoesNotFit
from magicplan.units import human_bytes
from magicplan.validate.measure.ceilings import Probe
from magicplan.validate.measure.clock import Clock, Effort, Samples, Step, alternate
from magicplan.validate.measure.environment import memory_bytes, watched
from magicplan.validate.measure.grid import DEFAULT_GAMMA, CalibrationPoint, Point

DRIFT = 1.15
"""The probe's time over its best, above which the machine has become slower."""
STRETCH = 16
"""Steps between two looks of the host at what a generation has yielded."""
ALLOCATOR_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""Words in the errors that the allocators of a GPU and of a CPU raise when memory runs out."""
Line = dict[str, Any]
T = TypeVar("T")


class Loaded(Protocol):
    """A decoder whose caches hold one (batch, ctx), ready to be timed."""

    def target(self, query_tokens: int) -> Step:
        """One pass of the target over so many tokens a sequence; nothing is committed."""

    def verify(self, point: Point) -> Step:
        """One verification: a target pass over a round's chain or tree; nothing is committed."""

    def draft(self, point: Point) -> Step:
        """All draft passes of a round; nothing is committed."""

    def round(self, point: Point) -> Step:
        """A whole round: draft, verify, accept, commit."""

    def plain(self, point: Point) -> Step:
        """A decode step that commits, on the text of the point's rounds."""

    def rewind(self, point: Point) -> int:
        """The point's text anew; how many tokens a sequence may then commit at most."""

    def emitted(self, point: Point) -> int:
        """Tokens that this point's rounds committed since they were last asked for."""


class DecoderSteps(Protocol):
    """A model and a draft on a device, which load workloads to be timed."""

    device: str

    @property
    def simulated(self) -> bool:
        """Whether a stated acceptance law decides what is accepted, whatever the caches hold."""

    def load(self, batch: int, ctx: int, points: Sequence[Point]) -> Loaded:
        """Allocate and fill the caches for these rounds at this length."""

    def needed_bytes(self, batch: int, ctx: int, points: Sequence[Point]) -> float:
        """The bytes that `load` and the steps will allocate beside the weights."""


def calibrate_at(
    bench: DecoderSteps, clock: Clock, at: CalibrationPoint, effort: Effort, probe: Probe
) -> Line:
    """One calibration point: seconds of the target at every width, of a draft step, of a round.

    Raises DoesNotFit, with the largest batch that fits, before or while memory is allocated.
    """
    chains = [Point(batch=at.batch, ctx=at.ctx, gamma=t - 1) for t in at.query_tokens if t > 1]
    what = f"calibration at batch {at.batch}, {at.ctx} tokens"
    if refusal := clock.agreed(does_not_fit(bench, chains)):
        raise DoesNotFit(f"{what} {refusal}; take a smaller --model")
    line = _unless_out_of_memory(bench, lambda: _calibrated(bench, clock, at, effort))
    if line is None:
        raise DoesNotFit(f"{what} ran {_out_of_memory(bench, chains)}; take a smaller --model")
    return line | _drifted(probe, line["flags"])


def _calibrated(bench: DecoderSteps, clock: Clock, at: CalibrationPoint, effort: Effort) -> Line:
    point = Point(batch=at.batch, ctx=at.ctx, gamma=DEFAULT_GAMMA)
    loaded = bench.load(at.batch, at.ctx, [point])
    steps = {f"target {t}": clock.prepared(loaded.target(t)) for t in at.query_tokens}
    steps |= {
        "draft": clock.prepared(loaded.draft(point)),
        "verify": clock.prepared(loaded.verify(point)),
        "round": clock.prepared(loaded.round(point)),
    }
    with watched(bench.device) as watch:
        samples = alternate(clock, steps, effort)
    medians = {name: median(found.judged) for name, found in samples.items()}

    def record(kind: str, query_tokens: int, seconds: float, **more: float) -> Line:
        where = {"kind": kind, "batch": at.batch, "ctx_tokens": at.ctx}
        return where | {"query_tokens": query_tokens, "seconds": seconds} | more

    records = [record("target", t, medians[f"target {t}"]) for t in at.query_tokens]
    records.append(record("draft", 1, medians["draft"] / point.gamma))
    parts = {f"{name}_seconds": medians[name] for name in ("draft", "verify")}
    records.append(record("round", point.query_tokens, medians["round"], **parts))
    return {
        "id": at.id,
        "batch": at.batch,
        "ctx_tokens": at.ctx,
        "records": records,
        "samples": {name: found.as_dict() for name, found in samples.items()},
        "clocks": watch.as_dict(),
        "flags": [watch.flag] if watch.flag else [],
    }


def measure_cell(
    bench: DecoderSteps, clock: Clock, points: Sequence[Point], effort: Effort, probe: Probe
) -> list[Line]:
    """All points of one (batch, ctx): decode, drafts, verification and rounds in turn.

    A cell that does not fit is skipped, with what it needs, before anything is allocated; one that
    runs out of memory all the same is skipped then.
    """
    if refusal := clock.agreed(does_not_fit(bench, points)):
        return [_skipped(point, refusal) for point in points]
    lines = _unless_out_of_memory(bench, lambda: _measured(bench, clock, points, effort, probe))
    if lines is None:
        why = _out_of_memory(bench, points)
        return [_skipped(point, why) for point in points]
    return lines


def is_out_of_memory(problem: BaseException) -> bool:
    """Is this an allocator's refusal? torch has an error for a GPU's and only words for a CPU's."""
    words = str(problem).lower()
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and any(said in words for said in ALLOCATOR_WORDS)
    )


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raises DoesNotFit, one sentence, where an allocator refuses inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise DoesNotFit(f"{what} ran out of memory; take a smaller --model") from None


def _unless_out_of_memory(bench: DecoderSteps, action: Callable[[], T]) -> T | None:
    """What the action gives, None where memory ran out; its caches are released either way."""
    try:
        return action()
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        return None
    finally:
        _release(bench)


def _out_of_memory(bench: DecoderSteps, points: Sequence[Point]) -> str:
    """After the fact: predicted, free now that all is released, and the largest batch that fits."""
    batch, ctx = points[0].batch, points[0].ctx
    needed, free = bench.needed_bytes(batch, ctx, points), memory_bytes(bench.device)
    return (
        f"out of memory (predicted {human_bytes(needed)}, now free {human_bytes(free)}); "
        f"{_largest_batch(bench, points, batch - 1, free)}"
    )


def _drifted(probe: Probe, flags: list[str]) -> Line:
    """The memory's rate now, the best so far, and the flags with what they say."""
    drift = probe.drift()
    if drift > DRIFT:
        flags = [*flags, f"memory became {drift:.2f} times slower around this point"]
    return {"drift": round(drift, 3), "read_bytes_per_s": probe.best_bytes_per_s, "flags": flags}


def _release(bench: DecoderSteps) -> None:
    """Give the memory of the last cell's caches and graphs back."""
    gc.collect()
    if bench.device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _groups(bench: DecoderSteps, steps: dict[str, Step]) -> list[dict[str, Step]]:
    """Steps that may alternate. Where caches decide what is accepted, rounds come first: the other
    steps write what no round has committed."""
    if bench.simulated:
        return [steps]
    rounds = {name: step for name, step in steps.items() if name.startswith("round")}
    return [rounds, {name: step for name, step in steps.items() if name not in rounds}]


def does_not_fit(bench: DecoderSteps, points: Sequence[Point]) -> str:
    """Needed, free, and the largest batch that fits; '' where all of it fits."""
    batch, ctx = points[0].batch, points[0].ctx
    free = memory_bytes(bench.device)
    needed = bench.needed_bytes(batch, ctx, points)
    if needed <= free:
        return ""
    largest = _largest_batch(bench, points, batch, free)
    return f"needs {human_bytes(needed)}, {human_bytes(free)} are free; {largest}"


def _largest_batch(bench: DecoderSteps, points: Sequence[Point], most: int, free: float) -> str:
    """A sentence that names the largest batch up to `most` that is predicted to fit."""
    while most and bench.needed_bytes(most, points[0].ctx, points) > free:
        most -= 1
    return f"the largest batch at this context is {most}" if most else "no batch fits here"


def _skipped(point: Point, why: str) -> Line:
    return {"id": point.id, "batch": point.batch, "ctx_tokens": point.ctx, "skipped": why}


def _measured(
    bench: DecoderSteps, clock: Clock, points: Sequence[Point], effort: Effort, probe: Probe
) -> list[Line]:
    loaded = bench.load(points[0].batch, points[0].ctx, points)
    steps = {"decode": clock.prepared(loaded.target(1))}
    for point in points:
        for kind in ("draft", "verify", "round"):
            step: Step = getattr(loaded, kind)(point)
            steps[f"{kind} {point.id}"] = clock.prepared(step)
    emitted: dict[str, list[int]] = {f"round {point.id}": [] for point in points}
    by_round = {f"round {point.id}": point for point in points}

    def after(name: str) -> None:
        if not name:
            for point in points:
                loaded.emitted(point)  # what the warm-up committed
        elif name in emitted:
            emitted[name].append(loaded.emitted(by_round[name]))

    with watched(bench.device) as watch:
        samples: dict[str, Samples] = {}
        for together in _groups(bench, steps):
            samples |= alternate(clock, together, effort, after)
    seen = _drifted(probe, [watch.flag] if watch.flag else [])
    return [
        {
            "id": point.id,
            "batch": point.batch,
            "ctx_tokens": point.ctx,
            "samples": {"decode": samples["decode"].as_dict()}
            | {k: samples[f"{k} {point.id}"].as_dict() for k in ("draft", "verify", "round")},
            "emitted_tokens": emitted[f"round {point.id}"],
            "clocks": watch.as_dict(),
        }
        | seen
        for point in points
    ]


def end_to_end(bench: DecoderSteps, clock: Clock, point: Point, seconds: float) -> Line:
    """Wall clock of whole generations, with and without speculation, prefill excluded.

    Steps follow each other without a look at what they yield, in stretches that alternate between
    the two sides, until each has taken `seconds`. Tokens are those committed by all sequences.
    """
    loaded = bench.load(point.batch, point.ctx, [point])
    sides = {
        "plain": (loaded.plain(point), 1),
        "speculative": (loaded.round(point), point.depth + 1),
    }
    ready = {name: clock.prepared(step) for name, (step, _) in sides.items()}
    found: Line = {name: {"seconds": 0.0, "tokens": 0, "steps": 0} for name in sides}
    while clock.agreed(min(side["seconds"] for side in found.values()) < seconds):
        for name, (_, most) in sides.items():
            steps = min(max(loaded.rewind(point) // most, 1), STRETCH)
            loaded.emitted(point)
            start = time.perf_counter()
            for _ in range(steps):
                ready[name]()
            synchronise(bench.device)
            found[name]["seconds"] += time.perf_counter() - start
            found[name]["tokens"] += loaded.emitted(point)
            found[name]["steps"] += steps
    rate = {name: found[name]["tokens"] / found[name]["seconds"] for name in sides}
    return found | {"speedup": rate["speculative"] / rate["plain"]}


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
