"""Timing a step on a CPU or a GPU: every sample kept, medians with a bootstrap interval.

On a GPU a step is captured in a CUDA graph and its replays lie between two events. On a CPU wall
time stands beside the thread's own time: the gap between them is what neighbours took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

DISTURBED = 1.1
"""Wall over thread time, above which a step was disturbed by neighbours."""
STEADY = 0.02
"""Two medians in a row within this share of each other end the warm-up."""
WARM_UP = 3
"""Runs of a step behind one median of its warm-up."""
RESAMPLES = 1000
Step = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianInterval:
    """A median and the ends of its 95 % interval, seconds."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Samples:
    """Times of one step, seconds.

    `own` is what the thread itself ran: on a CPU with one thread it is judged, because a neighbour
    that took the core is no property of the decoder. Empty on a GPU and with more threads.
    """

    wall: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def add(self, one: tuple[float, float | None]) -> None:
        """Adds one run's wall time and the thread's own time, seconds."""
        self.wall.append(one[0])
        if one[1] is not None:
            self.own.append(one[1])

    @property
    def judged(self) -> list[float]:
        """The samples that are judged, seconds: the thread's own times where they were taken, else
        wall times."""
        return self.own or self.wall

    @property
    def disturbance(self) -> float:
        """Median of wall over own time; 1 where there is none."""
        if not self.own:
            return 1.0
        return float(np.median(np.asarray(self.wall) / np.maximum(self.own, 1e-9)))

    def as_dict(self) -> dict[str, list[float]]:
        """Every sample in seconds, rounded to a tenth of a microsecond."""
        kept = {"wall": self.wall} | ({"own": self.own} if self.own else {})
        return {name: [round(value, 7) for value in values] for name, values in kept.items()}


def interval(samples: list[float], seed: int = 0) -> MedianInterval:
    """The median and its bootstrap 95 % interval (percentile method)."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size < 3 or values.min() == values.max():
        return MedianInterval(median=float(np.median(values)), low=values.min(), high=values.max())
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        np.median,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return MedianInterval(
        median=float(np.median(values)), low=float(found.low), high=float(found.high)
    )


class Clock(Protocol):
    """A way of timing one run of a step on a device."""

    def prepared(self, step: Step) -> Step:
        """The step in the form that is timed: itself, or a replay of its graph."""

    def time(self, step: Step) -> tuple[float, float | None]:
        """Wall and thread seconds of one run; no thread time on a GPU."""

    def agreed(self, decision: Any) -> Any:
        """What rank 0 decides: steps of several ranks wait for each other."""


Agree = Callable[[Any], Any]


def _own(decision: Any) -> Any:
    """A process alone does as it decides."""
    return decision


class CpuClock:
    """`perf_counter` around a call, and `thread_time` where one thread does all the work."""

    def __init__(self, threads: int, agreed: Agree = _own) -> None:
        self.alone, self.agreed = threads == 1 and agreed is _own, agreed

    def prepared(self, step: Step) -> Step:
        """The step itself: a CPU needs no preparation."""
        return step

    def time(self, step: Step) -> tuple[float, float | None]:
        """The seconds of one call of the step."""
        wall, cpu = time.perf_counter(), time.thread_time()
        step()
        own = time.thread_time() - cpu
        return time.perf_counter() - wall, own if self.alone else None


class CudaClock:
    """Events around the replay of a CUDA graph, or around the launches themselves."""

    def __init__(self, *, graphs: bool = True, agreed: Agree = _own) -> None:
        import torch

        self.torch, self.graphs, self.agreed = torch, graphs, agreed
        self._pool = torch.cuda.graph_pool_handle() if graphs else None

    def prepared(self, step: Step) -> Step:
        """Captured after three runs on a side stream, as graph capture asks.

        Graphs share one pool of memory: no replay needs what another one left behind.
        """
        if not self.graphs:
            return step
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        cuda.current_stream().wait_stream(side)
        graph: Any = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool):
            step()
        replay: Step = graph.replay
        return replay

    def time(self, step: Step) -> tuple[float, float | None]:
        """Seconds between two events around one replay."""
        before, after = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        step()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3, None


def clock_of(device: str, *, graphs: bool = True, agreed: Agree = _own) -> Clock:
    """The clock of a device, `cpu` (with torch's present threads) or `cuda`."""
    if device != "cpu":
        return CudaClock(graphs=graphs, agreed=agreed)
    import torch

    return CpuClock(torch.get_num_threads(), agreed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long a set of steps is measured: at least `least` runs of each, then until `seconds` or
    `most` runs are spent."""

    least: int = 5
    most: int = 30
    seconds: float = 3.0


def warm_up(clock: Clock, step: Step, effort: Effort) -> None:
    """Run a step until two medians in a row agree within 2 %, or its share of time is spent."""
    end = time.perf_counter() + effort.seconds / 4
    before = np.inf
    while True:
        runs = Samples()
        for _ in range(WARM_UP):
            runs.add(clock.time(step))
        now = float(np.median(runs.judged))
        if clock.agreed(abs(now / before - 1) < STEADY or time.perf_counter() > end):
            return
        before = now


def alternate(
    clock: Clock,
    steps: dict[str, Step],
    effort: Effort,
    after: Callable[[str], None] = lambda _: None,
) -> dict[str, Samples]:
    """Time steps in turn, A B A B, so that a drift of the machine meets all of them alike.

    `after` hears the name of a step once it was timed, and `""` when all are warm.
    """
    for step in steps.values():
        warm_up(clock, step, Effort(seconds=effort.seconds / len(steps)))
    after("")
    samples = {name: Samples() for name in steps}
    end = time.perf_counter() + effort.seconds
    for run in range(effort.most):
        if run >= effort.least and clock.agreed(time.perf_counter() > end):
            break
        for name, step in steps.items():
            samples[name].add(clock.time(step))
            after(name)
    return samples
