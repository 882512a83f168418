"""Traffic as the serving model sees it: how many requests, and what each of them asks for."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import TrafficUsed
from magicplan.roofline.deployment import Array
from magicplan.serving.lengths import Lengths, independent
from magicplan.serving.traces import read_trace

NODE_EDGES = (0.0, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.94, 0.96, 0.98, 0.99, 1.0)
"""Prompts are grouped by length between these shares; finer where percentiles are read."""
CTX_NODES = 8
SECONDS_PER_DAY = 86_400.0
BURSTY_CV2 = 1.2
"""Squared variation of gaps from which arrivals are called bursty: that of a few hundred random
ones stays below."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """Everything that serving depends on besides the machine.

    Either `requests_per_s` arrive at random (`users` is None), or `users` take turns of a request
    and `think_seconds`; both at the peak.
    """

    requests_per_s: float
    """At the peak; NaN for users, whose rate depends on latency."""
    peak_over_mean: float
    users: float | None
    think_seconds: float
    arrival_cv2: float
    lengths: Lengths
    prefix_hit_rate: float
    shared_prefix_tokens: float
    source: str

    @cached_property
    def cached(self) -> Array:
        """Prompt tokens found in the prefix cache, [n]; one token at least is always computed."""
        prompt = self.lengths.prompt
        found = np.maximum(prompt * self.prefix_hit_rate, self.shared_prefix_tokens)
        return np.asarray(np.minimum(np.floor(found), prompt - 1))

    @property
    def replaces(self) -> bool:
        """Whether every answer is followed by the next request at once: a fixed concurrency."""
        return self.users is not None and not self.think_seconds

    @cached_property
    def decoded(self) -> Array:
        """Tokens that decoding steps emit, [n]: the prefill emits the first."""
        return np.asarray(self.lengths.output - 1)

    @cached_property
    def groups(self) -> PromptGroups:
        """Requests grouped by prompt tokens to compute."""
        new = self.lengths.prompt - self.cached
        order = np.argsort(new, kind="stable")
        edges = np.unique(np.rint(np.asarray(NODE_EDGES) * new.size).astype(np.int64))
        group = np.empty(new.size, dtype=np.int64)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            group[order[first:last]] = number
        counts = np.bincount(group)
        return PromptGroups(
            new=np.bincount(group, new) / counts,
            cached=np.bincount(group, self.cached) / counts,
            share=counts / new.size,
            group=group,
        )

    def contexts(self) -> Array:
        """Contexts of requests caught decoding, [`CTX_NODES`], equally likely.

        A request is caught in proportion to its decoding steps, at any of them: longer outputs
        weigh more (length bias), and its cache holds the prompt and half its output on average.
        """
        position = (np.arange(CTX_NODES) + 0.5) / CTX_NODES
        ctx = (self.lengths.prompt[:, None] + self.decoded[:, None] * position).ravel()
        weight = np.repeat(np.maximum(self.decoded, 1e-9), CTX_NODES)
        order = np.argsort(ctx, kind="stable")
        ctx, weight = ctx[order], weight[order] / weight.sum()
        edges = np.linspace(0.0, 1.0, CTX_NODES + 1)
        reached = np.concatenate([[0.0], np.cumsum(weight)])
        total = np.interp(edges, reached, np.concatenate([[0.0], np.cumsum(weight * ctx)]))
        return np.asarray(np.diff(total) * CTX_NODES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptGroups:
    """Prompts by tokens to compute: means and shares [k], and the group of each request [n]."""

    new: Array
    cached: Array
    share: Array
    group: np.ndarray[tuple[int], np.dtype[np.int64]]


def load_of(ask: PlanRequest) -> Load:
    """The load of a request. Raises UsageError for contradictions, SpecError for a bad trace."""
    stated = {
        "requests_per_s": ask.requests_per_s,
        "users": ask.users,
        "tokens_per_day": ask.tokens_per_day,
        "trace": ask.trace,
    }
    given = [name for name, value in stated.items() if value is not None]
    if len(given) != 1:
        raise UsageError(
            f"traffic is stated by {' and '.join(given) or 'nothing'}: expected exactly one of "
            f"{', '.join(stated)}"
        )
    for name in ("requests_per_s", "users", "tokens_per_day"):
        if stated[name] is not None:
            check(name, stated[name], low=1e-9, high=1e15)
    check("think_seconds", ask.think_seconds, low=0, high=1e7)
    check("prefix_hit_rate", ask.prefix_hit_rate, low=0, high=1)
    check("shared_prefix_tokens", ask.shared_prefix_tokens, low=0, high=2.0**24)
    check("growth", ask.growth, low=-0.99, high=1000)
    if ask.think_seconds and ask.users is None:
        raise UsageError("think_seconds goes with users: state users, or leave it out")
    if ask.peak_factor is not None:
        check("peak_factor", ask.peak_factor, low=1, high=1000)
    return _from_trace(ask) if ask.trace is not None else _stated(ask)


def check(name: str, value: object, *, low: float, high: float) -> float:
    """A number in [low, high]. Raises UsageError naming the field."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not low <= number <= high:
        raise UsageError(f"{name} {value}: expected a number from {low:g} to {high:g}")
    return number


def _from_trace(ask: PlanRequest) -> Load:
    if ask.prompt is not None or ask.output is not None:
        raise UsageError("prompt and output contradict trace, which brings its own lengths")
    trace = read_trace(Path(str(ask.trace)))
    peak = trace.peak_factor if ask.peak_factor is None else ask.peak_factor
    load = _load(ask, trace.lengths, trace.requests_per_s, peak)
    return replace(
        load,
        arrival_cv2=trace.arrival_cv2,
        source=f"{trace.requests} arrivals of {trace.path}, peak {peak:.2f} times the mean",
    )


def _stated(ask: PlanRequest) -> Load:
    lengths = independent(
        1024 if ask.prompt is None else ask.prompt, 256 if ask.output is None else ask.output
    )
    if ask.tokens_per_day is not None:
        rate = float(ask.tokens_per_day) / SECONDS_PER_DAY / float(lengths.output.mean())
    else:
        rate = float(ask.requests_per_s or math.nan)
    return _load(ask, lengths, rate, ask.peak_factor or 1.0)


def _load(ask: PlanRequest, lengths: Lengths, rate: float, peak: float) -> Load:
    if ask.shared_prefix_tokens >= float(lengths.prompt.max()):
        raise UsageError(
            f"shared_prefix_tokens {ask.shared_prefix_tokens:g}: no prompt is longer than that"
        )
    if not (lengths.output > 1).any():
        raise UsageError("output: every request ends with its first token, so nothing decodes")
    grown = 1 + ask.growth
    return Load(
        requests_per_s=rate * peak * grown,
        peak_over_mean=peak,
        users=None if ask.users is None else float(ask.users) * peak * grown,
        think_seconds=float(ask.think_seconds),
        arrival_cv2=1.0,
        lengths=lengths,
        prefix_hit_rate=float(ask.prefix_hit_rate),
        shared_prefix_tokens=float(ask.shared_prefix_tokens),
        source="as stated",
    )


def arrivals_of(load: Load) -> str:
    """How requests come, in words. What a fleet makes of bursts, `serving.spread_cv2` says."""
    if load.users is not None:
        return "come from users in turns"
    if load.arrival_cv2 <= BURSTY_CV2:
        return "arrive at random (Poisson)"
    return (
        f"arrive in bursts: gaps vary by {load.arrival_cv2:.3g} times the square of their mean, "
        f"taken as bursts of {(1 + load.arrival_cv2) / 2:.3g} requests on average that come at "
        "once, the worst of what gaps alone can tell, and are spread over replicas at random"
    )


def traffic_used(load: Load, peak_rate: float) -> TrafficUsed:
    """The workload as the result states it."""
    prompt, output = load.lengths.prompt, load.lengths.output
    return TrafficUsed(
        mean_requests_per_s=peak_rate / load.peak_over_mean,
        peak_requests_per_s=peak_rate,
        prompt_mean_tokens=float(prompt.mean()),
        prompt_p50_tokens=float(np.percentile(prompt, 50)),
        prompt_p95_tokens=float(np.percentile(prompt, 95)),
        output_mean_tokens=float(output.mean()),
        output_p50_tokens=float(np.percentile(output, 50)),
        output_p95_tokens=float(np.percentile(output, 95)),
        prefix_hit_rate=load.prefix_hit_rate,
        arrival_cv2=load.arrival_cv2,
        source=load.source,
    )
