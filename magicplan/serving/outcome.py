"""What a load generator reports of simulated engines: latencies, gaps, rates, cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.requests import SimulatedRequest
from magicplan.serving.simulation import Engine, Gap, Run

METRICS = ("ttft", "tpot", "itl", "e2e")
STATISTICS = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulationOutcome:
    """The requests that count, and what the engines did while those were under way.

    Times in seconds. `itl` counts a gap a streamed chunk, as `vllm bench serve` does: with
    speculation that is a round, so mean ITL is mean TPOT times the tokens a chunk.
    """

    requests: tuple[SimulatedRequest, ...]
    gaps: tuple[Gap, ...]
    begin: float
    end: float
    busy_share: float
    """Share of the time in which an engine was running steps."""
    decoding: float
    """Requests of one engine that decode, mean over time."""
    step_seconds: float
    """Mean step in which anybody decodes."""
    prompt_step_share: float
    """Share of steps that carry prompt chunks."""
    cache_mean_tokens: float
    cache_most_tokens: float
    steps: int
    runs: tuple[Run, ...]
    """What every engine did, in order of time."""
    output_tokens: float
    """Decoded and prefilled between begin and end, all engines together."""
    backlog: tuple[int, int]
    """Requests under way when the middle and when the last of all came."""

    def _of(self, name: str) -> Array:
        return np.asarray([getattr(r, name) for r in self.requests], dtype=np.float64)

    @cached_property
    def ttft(self) -> Array:
        """Arrival to first token, [request]."""
        return self._of("first") - self._of("arrived")

    @cached_property
    def e2e(self) -> Array:
        """Arrival to last token, [request]."""
        return self._of("ended") - self._of("arrived")

    @cached_property
    def tpot(self) -> Array:
        """Seconds a token behind the first, over requests that have one."""
        outputs = self._of("output")
        some = outputs > 1
        return np.asarray(((self.e2e - self.ttft)[some]) / (outputs[some] - 1))

    @cached_property
    def itl(self) -> Array:
        """Seconds between streamed chunks, of all answers together."""
        return gaps_of([g for g in self.gaps if self.begin < g[0] <= self.end])

    @property
    def request_rate(self) -> float:
        """Requests a second from the first arrival to the last token, or arrivals a second."""
        return len(self.requests) / (self.end - self.begin)

    @property
    def preempted_share(self) -> float:
        """Share of requests that were preempted at least once."""
        return float((self._of("preempted") > 0).mean())

    @property
    def hit_share(self) -> float:
        """Share of prompt tokens that were found cached."""
        return float(self._of("found").sum() / self._of("prompt").sum())

    @cached_property
    def _figures(self) -> dict[str, float]:
        return {}

    def figure(self, key: str) -> float:
        """A figure by its name in limits, such as `ttft_p95_seconds`."""
        if key not in self._figures:
            metric, statistic, _ = key.split("_")
            self._figures[key] = statistic_of(getattr(self, metric), statistic)
        return self._figures[key]


def statistic_of(values: Array, statistic: str) -> float:
    """Mean or percentile; 0 of nothing (no request has a second token)."""
    if not values.size:
        return 0.0
    if statistic == "mean":
        return float(values.mean())
    return float(np.percentile(values, float(statistic[1:])))


def outcome_of(
    requests: Sequence[SimulatedRequest], engines: Sequence[Engine], *, whole: bool = False
) -> SimulationOutcome:
    """What is counted of a simulation whose requests came in this order.

    A `whole` run counts everybody, ramp and drain included. Otherwise those are left out that came
    before the first answer had ended (the server was filling), and a tenth at the end, behind whom
    nobody comes.
    """
    counted, begin, end = _counted(requests, whole=whole)
    runs = np.asarray([run for e in engines for run in e.runs if begin < run[1] <= end])
    runs = runs if runs.size else np.zeros((1, 7))
    start, ended, steps, held_before, held_after, decoding, prompt = runs.T
    seconds, span = ended - start, max(end - begin, 1e-12) * len(engines)
    decodes = decoding > 0
    held = (held_before + held_after) / 2
    gaps = tuple(g for e in engines for g in e.gaps)
    return SimulationOutcome(
        requests=tuple(counted), gaps=gaps, begin=begin, end=end,
        busy_share=float(seconds.sum() / span),
        decoding=float((seconds * decoding).sum() / span),
        step_seconds=float(seconds[decodes].sum() / max(steps[decodes].sum(), 1.0)),
        prompt_step_share=float(steps[prompt > 0].sum() / max(steps.sum(), 1.0)),
        cache_mean_tokens=float((seconds * held).sum() / span),
        cache_most_tokens=float(held_after.max()),
        steps=int(steps.sum()),
        runs=tuple(sorted(run for e in engines for run in e.runs)),
        output_tokens=float(sum(r.output for r in counted)),
        backlog=(_under_way(requests, len(requests) // 2), _under_way(requests, -1)),
    )  # fmt: skip


def _under_way(requests: Sequence[SimulatedRequest], place: int) -> int:
    """Requests that had come and were not answered when one of them came."""
    now = requests[place].arrived
    return sum(r.arrived <= now < r.ended for r in requests)


def _counted(
    requests: Sequence[SimulatedRequest], *, whole: bool
) -> tuple[list[SimulatedRequest], float, float]:
    if whole:
        done = [r for r in requests if not math.isnan(r.ended)]
        return done, min(r.arrived for r in done), max(r.ended for r in done)
    filled = min(r.ended for r in requests if not math.isnan(r.ended))
    first = next(
        i for i, r in enumerate(requests) if r.arrived >= filled or i == len(requests) // 3
    )
    last = max(int(len(requests) * 0.9), first + 1)
    kept = [r for r in requests[first:last] if not math.isnan(r.ended)]
    end = requests[last].arrived if last < len(requests) else max(r.ended for r in kept)
    return kept, requests[first].arrived, end


def timeline(outcome: SimulationOutcome, points: int) -> dict[str, list[float]]:
    """Requests decoding, prompt tokens a second and cache tokens held, all engines together, at
    even times of the run."""
    begin, end, _, before, after, decoding, prompt = np.asarray(outcome.runs).T
    edges = np.linspace(begin.min(), end.max(), points + 1)
    width = edges[1] - edges[0]

    def mean_of(values: Array) -> list[float]:
        """Integrals of steps over each bin, over its width."""
        marks = np.unique(np.concatenate([edges, begin, end]))
        change = np.zeros(marks.size)
        np.add.at(change, np.searchsorted(marks, begin), values)
        np.add.at(change, np.searchsorted(marks, end), -values)
        whole = np.concatenate([[0.0], np.cumsum(np.cumsum(change)[:-1] * np.diff(marks))])
        return list(np.diff(np.interp(edges, marks, whole)) / width)

    return {
        "seconds": list((edges[:-1] + edges[1:]) / 2),
        "decoding": mean_of(decoding),
        "prompt_tokens_per_s": list(np.histogram(end, bins=edges, weights=prompt)[0] / width),
        "held_tokens": mean_of((before + after) / 2),
    }


def gaps_of(gaps: Sequence[Gap]) -> Array:
    """Every gap between chunks of an answer, in seconds."""
    if not gaps:
        return np.zeros(0)
    _, first, last, steps, answers = np.asarray(gaps).T
    count = steps.astype(np.int64)
    begin = np.repeat(np.cumsum(count) - count, count)
    place = np.arange(count.sum()) - begin
    slope = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), 0.0)
    values = np.repeat(first, count) + place * np.repeat(slope, count)
    return np.repeat(values, np.repeat(answers.astype(np.int64), count))
