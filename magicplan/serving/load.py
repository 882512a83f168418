"""Traffic as the serving model sees it: how many requests, and what each of them asks for."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from magicplan.errors import FieldError
from magicplan.fields import Span, refuse
from magicplan.roofline.deployment import Array
from magicplan.serving.lengths import Lengths, independent
from magicplan.serving.traces import Trace, read_trace

NODE_EDGES = (0.0, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.94, 0.96, 0.98, 0.99, 1.0)
"""Prompts are grouped by length between these shares; finer where percentiles are read."""
CTX_NODES = 8
SECONDS_PER_DAY = 86_400.0
BURSTY_CV2 = 1.2
"""Squared variation of gaps from which arrivals are called bursty: that of a few hundred random
ones stays below."""


def _path(name: str, value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else refuse(name, value, "the path of a CSV")


Positive = Annotated[float, Span(0, 1e15, above=True)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """The traffic that a user states, by exactly one of `requests_per_s`, `users`,
    `tokens_per_day` and `trace`."""

    requests_per_s: Positive | None = None
    """Mean rate of random arrivals."""
    users: Positive | None = None
    """People who send a request, read the answer for `think_seconds`, and send the next."""
    think_seconds: Annotated[float, Span(0, 1e7)] = 0.0
    tokens_per_day: Positive | None = None
    """Output tokens of a whole day, spread evenly before the peak factor."""
    trace: Annotated[str, _path] | None = None
    """A CSV of arrivals: time, prompt tokens, output tokens. It brings its own lengths and rate."""
    prompt: Any = None
    """Tokens: a number, "uniform:LOW,HIGH", "lognormal:MEDIAN,P95", {"p50": 800, "p95": 4000}; None
    is a trace's own, or 1024."""
    output: Any = None
    """Tokens, stated as in `prompt`; None is a trace's own, or 256."""
    prefix_hit_rate: Annotated[float, Span(0, 1)] = 0.0
    """Share of prompt tokens whose KV is found in the prefix cache."""
    shared_prefix_tokens: Annotated[float, Span(0, 2.0**24)] = 0.0
    """Leading tokens that all requests share, held once a replica."""
    peak_factor: Annotated[float, Span(1, 1000)] | None = None
    """Busiest minutes over the mean; None is 1 for a stated rate, and a trace's busiest minute."""
    growth: Annotated[float, Span(-0.99, 1000)] = 0.0
    """Share by which traffic is to grow while the plan holds: 0.5 plans for 1.5 times."""


STATED = ("requests_per_s", "users", "tokens_per_day", "trace")
"""Fields of `Traffic` of which exactly one is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """Everything that serving depends on besides the machine.

    Either `requests_per_s` arrive at random (`users` is None), or `users` take turns of a request
    and `think_seconds`; both at the peak.
    """

    requests_per_s: float
    """Requests per second at the peak; NaN for users, whose rate depends on latency."""
    peak_over_mean: float
    users: float | None
    think_seconds: float
    arrival_cv2: float
    lengths: Lengths
    prefix_hit_rate: float
    shared_prefix_tokens: float
    source: str
    trace: Trace | None = None
    """The recording that the traffic was taken from."""

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


def load_of(traffic: Traffic) -> Load:
    """The load that a traffic makes. Raises FieldError for contradictions, SpecError for a bad
    trace."""
    given = [name for name in STATED if getattr(traffic, name) is not None]
    expected = f"expected exactly one of {', '.join(STATED)}"
    if not given:
        raise FieldError("traffic", f"is stated by nothing: {expected}")
    if len(given) > 1:
        others = " and ".join(f"${name}" for name in given[1:])
        raise FieldError(given[0], f"and {others} state the traffic: {expected}")
    if traffic.think_seconds and traffic.users is None:
        raise FieldError("think_seconds", "goes with $users: state users, or leave it out")
    return _recorded(traffic) if traffic.trace is not None else _stated(traffic)


def _recorded(traffic: Traffic) -> Load:
    """The load of a trace."""
    stated = [name for name in ("prompt", "output") if getattr(traffic, name) is not None]
    if stated:
        others = "".join(f"and ${name} " for name in stated[1:])
        verb = "contradict" if others else "contradicts"
        problem = f"{others}{verb} $trace, which brings its own lengths"
        raise FieldError(stated[0], problem)
    trace = read_trace(Path(str(traffic.trace)))
    peak = trace.peak_factor if traffic.peak_factor is None else traffic.peak_factor
    load = _load(traffic, trace.lengths, trace.requests_per_s, peak)
    return replace(
        load,
        arrival_cv2=trace.arrival_cv2,
        source=f"{trace.requests} arrivals of {trace.path}, peak {peak:.2f} times the mean",
        trace=trace,
    )


def _stated(traffic: Traffic) -> Load:
    """The load of a stated rate, number of users, or number of tokens a day."""
    lengths = independent(
        PROMPT_TOKENS if traffic.prompt is None else traffic.prompt,
        OUTPUT_TOKENS if traffic.output is None else traffic.output,
    )
    if traffic.tokens_per_day is not None:
        rate = traffic.tokens_per_day / SECONDS_PER_DAY / float(lengths.output.mean())
    else:
        rate = traffic.requests_per_s or math.nan
    return _load(traffic, lengths, rate, traffic.peak_factor or 1.0)


def _load(traffic: Traffic, lengths: Lengths, rate: float, peak: float) -> Load:
    if traffic.shared_prefix_tokens >= float(lengths.prompt.max()):
        raise FieldError(
            "shared_prefix_tokens",
            f"{traffic.shared_prefix_tokens:g}: no prompt is longer than that",
        )
    if not (lengths.output > 1).any():
        raise FieldError("output", ": every request ends with its first token, so nothing decodes")
    grown = 1 + traffic.growth
    return Load(
        requests_per_s=rate * peak * grown,
        peak_over_mean=peak,
        users=None if traffic.users is None else traffic.users * peak * grown,
        think_seconds=traffic.think_seconds,
        arrival_cv2=1.0,
        lengths=lengths,
        prefix_hit_rate=traffic.prefix_hit_rate,
        shared_prefix_tokens=traffic.shared_prefix_tokens,
        source=_source(traffic),
    )


PROMPT_TOKENS, OUTPUT_TOKENS = 1024, 256
"""Lengths of requests where none are stated: those that load generators send by default."""


def _source(traffic: Traffic) -> str:
    """A clause on the origin of lengths: as stated, or which are assumed and how many tokens."""
    assumed = [
        f"{name} of {tokens} tokens (assumed)"
        for name, tokens, stated in (
            ("prompts", PROMPT_TOKENS, traffic.prompt),
            ("outputs", OUTPUT_TOKENS, traffic.output),
        )
        if stated is None
    ]
    return " and ".join(assumed) or "as stated"


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
