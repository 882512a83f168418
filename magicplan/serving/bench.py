"""`bench`: what a load generator would report of one given server, and how much load it bears."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from magicplan import model_specs
from magicplan.errors import DoesNotFit, UsageError
from magicplan.prediction.request import Request
from magicplan.roofline.deployment import Array
from magicplan.serving.benchmark_run import STEADY, Expected, MeasuredServer, Run, expect, server_of
from magicplan.serving.lengths import independent
from magicplan.serving.load_test import (
    ROUTINGS,
    Draws,
    Routing,
    drawn,
    saturation,
    simulate,
    stable,
)
from magicplan.serving.outcome import METRICS, STATISTICS, SimulationOutcome, statistic_of, timeline
from magicplan.serving.traces import read_trace

SCHEMA = "magicplan.bench/1"
NAMES = {"mean": "mean", "p50": "median", "p95": "p95", "p99": "p99"}
"""Statistics in the words of `vllm bench serve`."""
PREFIXES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
SEEDS = 2
"""Further draws of the same load, for the interval of a percentile."""
POINTS = 120
"""Number of points in time that a timeline is drawn from."""
LARGEST_TP = 64
REQUESTS = STEADY
"""Number of requests simulated at each step of the search for the largest load."""
CLOSE = 1.02
STEADILY = 0.97
"""Share of the rate at saturation up to which a steady state is reported."""
LOOSER = 2.0
"""Times by which a setting is loosened, to see whether it is what stops the server."""
Limits = Mapping[str, float]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Goodput:
    """The largest load at which every limit holds."""

    request_rate: float
    """Requests a second; NaN (null) where not even an idle server keeps the limits."""
    concurrency: float
    """Requests in flight at that rate, mean over time; or the largest number always in flight."""
    stopped_by: str
    """The limit that a larger load breaks first; "throughput" where the queue grows without one."""
    lifts: Mapping[str, float]
    """What would lift it: times the load that is borne with a setting loosened, or steps faster."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What a load generator would report, in the names and units of `vllm bench serve`."""

    expected: Expected
    run: Run
    gpus: int
    load: Mapping[str, Any]
    figures: Mapping[str, float]
    """Predicted figures by name, such as `mean_ttft_ms`; rates are per second."""
    intervals: Mapping[str, Interval]
    """80 % intervals of figures, from the calibration's steps and from chance."""
    goodput: Goodput | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `magicplan bench --json`."""
        setup, ask = self.expected.server.setup, self.run.ask
        server = {
            "accelerator": self.expected.resolved.machine.accelerator.name, "gpus": self.gpus,
            "tp": ask.tp, "pp": ask.pp or 1, "ep": ask.ep, "attention_dp": ask.attention_dp,
            "replicas": self.run.replicas, "routing": self.run.routing, "stack": ask.stack,
            "model": self.expected.resolved.model.name,
            "formats": {
                "weights": self.expected.resolved.layout.dtype,
                "kv": self.expected.resolved.layout.kv_dtype,
            },
            "draft": ask.draft if setup.server.gamma else "none", "gamma": setup.server.gamma,
        }  # fmt: skip
        good = self.goodput and {
            "request_rate": _null(self.goodput.request_rate),
            "concurrency": _null(self.goodput.concurrency),
            "stopped_by": self.goodput.stopped_by,
            "lifts": dict(self.goodput.lifts),
        }
        return {
            "schema": SCHEMA, "server": server, "load": dict(self.load), **self.figures,
            "intervals": {k: {"low": low, "high": high}
                          for k, (low, high) in self.intervals.items()},
            "goodput": good, "notes": list(self.notes), "timeline": self._timeline(),
        }  # fmt: skip

    def _timeline(self) -> dict[str, list[float]]:
        lines = timeline(self.expected.outcome, POINTS)
        capacity = self.expected.server.setup.server.capacity_tokens * self.run.replicas
        held = lines.pop("held_tokens")
        return lines | {"kv_cache_share": [tokens / capacity for tokens in held]}


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def bench(
    gpu: str, *, model: str = "llama-3.1-8b", gpus: int | None = None, replicas: int | None = None,
    tp: int | None = None, routing: Routing = "random", concurrency: float | None = None,
    request_rate: float | None = None, num_prompts: int | None = None, prompt: Any = None,
    output: Any = None, trace: str | Path | None = None, prefix_hit_rate: float = 0.0,
    burstiness: float = 1.0, batched_tokens: int = 8192, max_sequences: int = 1024, seed: int = 0,
    slo: Limits | None = None, itl: str = "vllm", draft: str = "none", **engine: Any,
) -> Bench:  # fmt: skip
    """What a load generator would report of `replicas` of a model on `gpus` GPUs.

    The load is a number of requests always in flight (`concurrency`), a mean rate (`request_rate`,
    with gaps as `vllm bench serve --burstiness` draws them), or both; `num_prompts` makes it a
    finite run whose ramp and drain count, and alone sends everything at once. `prompt` and `output`
    are lengths as in a plan; a `trace` brings its own and its rate. `slo` asks the inverse: the
    largest load that keeps every limit, such as {"ttft_p95_seconds": 1}. `engine` are further
    options of `predict`, such as dtype, kv_dtype, pp, ep, stack, acceptance, gamma.

    Raises UsageError for options that contradict each other, DoesNotFit, SpecError for files.
    """
    _check(
        routing=routing, itl=itl, concurrency=concurrency, request_rate=request_rate,
        num_prompts=num_prompts, replicas=replicas, tp=tp, gpus=gpus, burstiness=burstiness,
    )  # fmt: skip
    gamma = engine.pop("gamma", "auto")
    try:
        ask = Request(gpu=gpu, model=model, draft=draft, **engine)
    except TypeError as problem:
        raise UsageError(f"bench takes no {str(problem).rpartition(' ')[2]}") from None
    cv2 = 1 / burstiness if math.isfinite(burstiness) else 0.0
    if trace is not None:
        if prompt is not None or output is not None:
            raise UsageError("prompt and output contradict trace, which brings its own lengths")
        recorded = read_trace(Path(trace))
        lengths, cv2 = recorded.lengths, recorded.arrival_cv2
        if request_rate is None and concurrency is None:
            request_rate = recorded.requests_per_s
    else:
        lengths = independent(1024 if prompt is None else prompt, 256 if output is None else output)
    if request_rate is None and concurrency is None and num_prompts is None and slo is None:
        raise UsageError("no load: state concurrency, request_rate, num_prompts, trace or slo")
    longest = float((lengths.prompt + lengths.output).max())
    limit = model_specs.load(model).max_ctx_tokens
    if longest > limit:
        raise UsageError(f"requests of {longest:.0f} tokens exceed the {limit} of {model}")
    run = Run(
        ask=ask, lengths=lengths, concurrency=concurrency, requests_per_s=request_rate,
        arrival_cv2=cv2, prompts=num_prompts, batched_tokens=batched_tokens,
        max_sequences=max_sequences, prefix_hit_rate=prefix_hit_rate,
        gamma=None if gamma == "auto" else int(gamma), routing=routing, seed=seed,
    )  # fmt: skip
    if concurrency is None and request_rate is None:
        run = replace(run, concurrency=float(num_prompts or 1))
    run, per_replica = _placed(run, gpus, replicas, tp)
    limits = _limits(slo or {})
    if limits and concurrency is None and request_rate is None and num_prompts is None:
        return _inverse(run, limits, per_replica, itl)
    expected = expect(run)
    good = goodput(expected.server, run, limits) if limits else None
    return _bench(expected, run, good, per_replica, itl)


def _check(*, routing: str, itl: str, **numbers: float | None) -> None:
    if routing not in ROUTINGS:
        raise UsageError(f"routing {routing!r}: expected one of {', '.join(ROUTINGS)}")
    if itl not in ("vllm", "sglang"):
        raise UsageError(f"itl {itl!r}: expected vllm or sglang")
    for name, value in numbers.items():
        whole = name in ("num_prompts", "replicas", "tp", "gpus")
        wrong = value is not None and (
            isinstance(value, bool) or not value > 0 or (value > 1e7 and math.isfinite(value))
            or (whole and value != int(value))
        )  # fmt: skip
        if wrong:
            raise UsageError(
                f"{name} {value}: expected a {'whole ' if whole else ''}number above 0"
            )


def _limits(slo: Limits) -> dict[str, float]:
    known = [f"{m}_{s}_seconds" for m in METRICS for s in STATISTICS]
    for key, limit in slo.items():
        if key not in known:
            raise UsageError(f"slo {key}: expected names such as {known[2]}")
        if isinstance(limit, bool) or not 1e-6 <= limit <= 1e6:
            raise UsageError(f"slo {key} {limit}: expected seconds from 1e-06 to 1e+06")
    return dict(slo)


def _placed(run: Run, gpus: int | None, replicas: int | None, tp: int | None) -> tuple[Run, int]:
    """The run with degrees and replicas filled in, and the GPUs of one replica."""
    others = (run.ask.pp or 1) * run.ask.attention_dp
    degrees = (
        [tp] if tp else [2**n for n in range(LARGEST_TP.bit_length()) if not gpus or 2**n <= gpus]
    )
    refused: DoesNotFit | UsageError | None = None
    for degree in degrees:
        each = degree * others
        if gpus and replicas and gpus != each * replicas:
            refused = UsageError(
                f"{gpus} GPUs are not {replicas} replicas of {each}: state gpus, or replicas and tp"
            )
            continue
        if gpus and gpus % each:
            refused = UsageError(f"{gpus} GPUs are no whole number of replicas of {each}")
            continue
        count = replicas or (gpus // each if gpus else 1)
        placed = replace(run, ask=replace(run.ask, tp=degree), replicas=count)
        try:
            server_of(placed)
        except (DoesNotFit, UsageError) as problem:
            refused = problem
            if tp:
                raise
            continue
        return placed, each
    raise refused or UsageError("no tensor parallel degree splits this model")


def _inverse(run: Run, limits: Limits, per_replica: int, itl: str) -> Bench:
    """The report at the largest load that keeps the limits."""
    server = server_of(run)
    good = goodput(server, replace(run, concurrency=None), limits)
    rate = good.request_rate
    at = replace(run, concurrency=1.0, requests_per_s=None)
    if rate > 0:
        at = replace(run, concurrency=None, requests_per_s=rate)
    return _bench(expect(at, server=server), at, good, per_replica, itl)


def goodput(server: MeasuredServer, run: Run, limits: Limits) -> Goodput:
    """The largest load, by bisection with the same requests; what stops a larger one, and what
    would lift it, each found by loosening it and simulating again."""
    found = _largest(server, run, limits)
    if found is None:
        return Goodput(
            request_rate=math.nan, concurrency=math.nan, lifts={},
            stopped_by=_worst(_trial(server, run, limits, _idle(run)), limits),
        )  # fmt: skip
    load, outcome, beyond = found
    stopped = _worst(beyond, limits)
    lifts = {}
    for name, looser in _looser(server):
        more = _largest(looser, run, limits, first=load)
        if more is not None and more[0] > load * 1.05:
            lifts[name] = more[0] / load
    closed = run.concurrency is not None and run.requests_per_s is None
    decoding = outcome.decoding * run.replicas * server.setup.stages
    return Goodput(
        request_rate=outcome.request_rate if closed else load,
        concurrency=load if closed else decoding, stopped_by=stopped, lifts=lifts,
    )  # fmt: skip


def _looser(server: MeasuredServer) -> Iterator[tuple[str, MeasuredServer]]:
    own = server.setup.server
    for name, changed in (
        ("kv_cache", replace(own, capacity_tokens=own.capacity_tokens * LOOSER)),
        ("max_sequences", replace(own, max_sequences=int(own.max_sequences * LOOSER))),
        ("batched_tokens", replace(own, budget_tokens=int(own.budget_tokens * LOOSER))),
        ("smaller batched_tokens", replace(own, budget_tokens=int(own.budget_tokens / LOOSER / 2))),
    ):
        yield name, replace(server, setup=replace(server.setup, server=changed))
    yield "steps 20 % faster", replace(server, setup=server.setup.slower(0.8))


def _idle(run: Run) -> float:
    return 1.0 if run.concurrency is not None and run.requests_per_s is None else 1e-3


def _largest(
    server: MeasuredServer, run: Run, limits: Limits, first: float = 1.0
) -> tuple[float, SimulationOutcome, SimulationOutcome] | None:
    """The largest load that keeps, its outcome, and that of a larger one; None where none does."""
    closed = run.concurrency is not None and run.requests_per_s is None
    # a finite trial also keeps rates at which queues would grow without end
    bears = math.inf if closed else STEADILY * saturation(server.setup) * run.replicas
    low, kept = _idle(run), _trial(server, run, limits, _idle(run))
    if not _keeps(kept, limits):
        return None
    high = max(first, low * 2)
    beyond = _trial(server, run, limits, high)
    while high <= bears and _keeps(beyond, limits):
        low, kept, high = high, beyond, high * 2
        beyond = _trial(server, run, limits, high)
    while high / low > CLOSE and not (closed and high - low <= 1):
        middle = math.floor(math.sqrt(low * high)) if closed else math.sqrt(low * high)
        middle = max(middle, low + 1) if closed else middle
        one = _trial(server, run, limits, middle)
        if middle <= bears and _keeps(one, limits):
            low, kept = middle, one
        else:
            high, beyond = middle, one
    return low, kept, beyond


def _trial(server: MeasuredServer, run: Run, limits: Limits, load: float) -> SimulationOutcome:
    closed = run.concurrency is not None and run.requests_per_s is None
    count = max(REQUESTS, int(4 * load)) if closed else REQUESTS
    return simulate(
        server.setup, _draws(server, count, run.seed), routing=run.routing, replicas=run.replicas,
        requests_per_s=math.inf if closed else load, users=int(load) if closed else None,
    )  # fmt: skip


def _draws(server: MeasuredServer, count: int, seed: int) -> Draws:
    return drawn(server.setup.load, count, seed)


def _keeps(outcome: SimulationOutcome, limits: Limits) -> bool:
    return stable(outcome) and all(outcome.figure(k) <= v for k, v in limits.items())


def _worst(outcome: SimulationOutcome, limits: Limits) -> str:
    ratios = {key: outcome.figure(key) / limit for key, limit in limits.items()}
    worst = max(ratios, key=ratios.__getitem__)
    return worst if ratios[worst] > 1 else "throughput"


def _bench(expected: Expected, run: Run, good: Goodput | None, per_replica: int, itl: str) -> Bench:
    figures = _figures(expected, itl)
    return Bench(
        expected=expected, run=run, gpus=per_replica * run.replicas, load=_load(run),
        figures=figures, intervals=_intervals(expected, run, figures, itl), goodput=good,
        notes=tuple(_notes(expected, run)),
    )  # fmt: skip


def _load(run: Run) -> dict[str, Any]:
    return {
        "concurrency": run.concurrency, "request_rate": run.requests_per_s,
        "num_prompts": run.prompts, "burstiness_cv2": run.arrival_cv2,
        "input_mean_tokens": float(run.lengths.prompt.mean()),
        "output_mean_tokens": float(run.lengths.output.mean()),
        "prefix_hit_rate": run.prefix_hit_rate, "seed": run.seed,
    }  # fmt: skip


def _figures(expected: Expected, itl: str) -> dict[str, float]:
    outcome, setup = expected.outcome, expected.server.setup
    seconds = outcome.end - outcome.begin
    prompts = float(sum(r.prompt for r in outcome.requests))
    capacity = setup.server.capacity_tokens
    figures = {
        "duration": seconds,
        "completed": float(len(outcome.requests)),
        "total_input_tokens": prompts,
        "total_output_tokens": outcome.output_tokens,
        "request_throughput": expected.requests_per_s,
        "output_throughput": expected.output_tokens_per_s,
        "total_token_throughput": expected.output_tokens_per_s + prompts / seconds,
    }
    for metric in METRICS:
        values = _metric(outcome, metric, itl)
        for statistic in STATISTICS:
            name = f"{NAMES[statistic]}_{PREFIXES[metric]}_ms"
            figures[name] = 1e3 * statistic_of(values, statistic)
        figures[f"std_{PREFIXES[metric]}_ms"] = 1e3 * float(values.std()) if values.size else 0.0
    return figures | {
        "preemptions": float(sum(r.preempted for r in outcome.requests)),
        "kv_cache_share": outcome.cache_mean_tokens / capacity,
        "kv_cache_most_share": outcome.cache_most_tokens / capacity,
        "busy_share": outcome.busy_share,
        "decoding_per_replica": outcome.decoding * setup.stages,
        "step_ms": 1e3 * outcome.step_seconds,
        "prompt_step_share": outcome.prompt_step_share,
        "tokens_per_chunk": tokens_per_chunk(outcome),
    }


def tokens_per_chunk(outcome: SimulationOutcome) -> float:
    """Mean tokens of a streamed chunk behind the first."""
    chunks = sum(r.rounds for r in outcome.requests)
    return sum(r.output - 1 for r in outcome.requests) / chunks if chunks else 1.0


def _metric(outcome: SimulationOutcome, metric: str, itl: str) -> Array:
    values: Array = getattr(outcome, metric)
    if metric == "itl" and itl == "sglang":
        return np.asarray(values / tokens_per_chunk(outcome))
    return values


def _intervals(
    expected: Expected, run: Run, figures: Mapping[str, float], itl: str
) -> dict[str, Interval]:
    """80 %: the same run with all steps at either end of the calibration's interval, and with other
    draws; distances add in quadrature of logarithms."""
    residual = expected.resolved.machine.calibration.step_residual
    slow = [
        _figures(_again(expected, run, factor, run.seed), itl)
        for factor in (residual.low, residual.high)
    ]
    draws = [_figures(_again(expected, run, 1.0, run.seed + 1 + s), itl) for s in range(SEEDS)]
    found = {}
    for name, value in figures.items():
        if not (name.endswith(("_ms", "_throughput")) and value > 0):
            continue
        logs = [math.log(max(s[name], 1e-12) / value) for s in slow]
        chance = 1.2816 * float(np.sqrt(np.mean([
            math.log(max(d[name], 1e-12) / value) ** 2 for d in draws
        ])))  # fmt: skip
        low, high = min(*logs, 0.0), max(*logs, 0.0)
        found[name] = (value * math.exp(-math.hypot(low, chance)),
                       value * math.exp(math.hypot(high, chance)))  # fmt: skip
    return found


def _again(expected: Expected, run: Run, slower: float, seed: int) -> Expected:
    """The expectation of a run again, with steps `slower` by a factor and draws of another seed; at
    the slow end its queue may grow, and its latencies are those of as many requests."""
    server = expected.server
    if slower != 1:
        server = replace(server, setup=server.setup.slower(slower))
    return expect(replace(run, seed=seed), server=server, growing=True)


def _notes(expected: Expected, run: Run) -> Iterator[str]:
    yield from expected.resolved.notes
    if run.routing == "random" and run.replicas > 1:
        yield "requests are spread over replicas at random; see --routing"
    if not stable(expected.outcome):
        count = len(expected.outcome.requests)
        yield f"not stable within {count} requests: the queue still grew, so latencies do, too"
