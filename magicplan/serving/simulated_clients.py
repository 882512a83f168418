"""Who asks a simulated server, for what, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magicplan.serving.replica import Replica

TURNAROUND = 1e-4
"""Seconds from the end of an answer to its client's next request: the next step has begun."""


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way."""

    prompt: int
    output: int
    todo: int
    """Prompt tokens still to compute."""
    asked: int
    """Output tokens asked for: `output` shrinks when a preempted request starts over."""
    counted: bool
    """Its latency is measured."""
    arrived: float = 0.0
    ended: float = math.nan
    emitted: int = 0
    first: float = math.nan
    last: float = math.nan
    """When its latest token came."""
    ready: bool = False
    """Its prompt is computed: it decodes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Clients:
    """Who asks, and what was answered."""

    env: Any
    jobs: Iterator[Job]
    entry_seconds: float
    """Of a request at the host, before it can be scheduled."""
    submit: Callable[[Job], None] = lambda _: None
    pause: Callable[[], float] | None = None
    """Of users until their next request; None where requests arrive by themselves."""
    asked: list[Job] = field(default_factory=list)
    unfinished: int = 0
    """Of those waited for, which are the first that ask."""

    def ask(self, after: float = 0.0) -> None:
        """The next request."""
        job = next(self.jobs)
        job.arrived = self.env.now + after
        self.asked.append(job)
        event = self.env.timeout(after + self.entry_seconds, job)
        event.callbacks.append(lambda e: self.submit(e.value))

    def finished(self, job: Job) -> None:
        """An answer has ended."""
        job.ended = self.env.now
        self.unfinished -= job.counted
        if self.pause is not None:
            self.ask(self.pause())

    def arrive(self, waits: Iterator[float]) -> Generator[Any, Any, None]:
        """One request after the other."""
        for wait in waits:
            yield self.env.timeout(wait)
            self.ask()


def jobs_of(r: Replica, counted: int, rng: np.random.Generator) -> Iterator[Job]:
    """All requests of the sample in random order, again and again; the first `counted` count."""
    lengths, number = r.load.lengths, itertools.count()
    while True:
        for at in rng.permutation(lengths.prompt.size):
            prompt, output = int(lengths.prompt[at]), int(lengths.output[at])
            yield Job(
                prompt=prompt, output=output, todo=prompt - int(r.load.cached[at]), asked=output,
                counted=next(number) < counted,
            )  # fmt: skip


def waits_of(r: Replica, count: int, rng: np.random.Generator) -> Iterator[float]:
    """Times between random arrivals; where they come in bursts, these are of geometric size and
    come at once, as many as make the squared variation of the gaps `arrival_cv2`. Drawn from equal
    strata, so that a short run has the rate it should."""
    rate, burst = r.load.requests_per_s, max((1 + r.load.arrival_cv2) / 2, 1.0)
    while True:
        strata = [(rng.permutation(count) + rng.random(count)) / count for _ in range(2)]
        gaps = -np.log1p(-strata[1]) * burst / rate
        yield from np.where(strata[0] < 1 / burst, gaps, 0.0).tolist()


def pauses_of(think_seconds: float, rng: np.random.Generator) -> Callable[[], float]:
    """Seconds from the end of an answer to the same user's next request."""
    if not think_seconds:
        return lambda: TURNAROUND
    return lambda: float(rng.exponential(think_seconds))
