"""The answer to a capacity question, in the names and units of its JSON: SI, unit in the name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from magicplan.planning.question import CapacityQuestion, PriceUsed
from magicplan.planning.request import PlanRequest
from magicplan.prediction.result import plain

SCHEMA = "magicplan.plan/1"
MIXED_SCHEMA = "magicplan.mixed_fleet/1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantiles:
    """One latency over all requests (ITL: over all tokens)."""

    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latencies:
    """Time to first token, time per output token, gaps between tokens, whole request."""

    ttft: Quantiles
    tpot: Quantiles
    itl: Quantiles
    """Gaps between streamed chunks, as `vllm bench serve` counts them: under speculation a chunk is
    a round's tokens."""
    e2e: Quantiles
    itl_cv: float
    """Standard deviation over mean of the gaps: how bursty the stream is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepBreakdown:
    """Mean seconds of one engine step of a decoding replica, and what it spends them on.

    The five kinds make up the target's own pass; `step_seconds` is their sum plus drafting, round
    overhead and the prompt chunks that ride along.
    """

    step_seconds: float
    linear_seconds: float
    attention_seconds: float
    collective_seconds: float
    elementwise_seconds: float
    host_seconds: float
    draft_seconds: float
    overhead_seconds: float
    prefill_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryBars:
    """Bytes of one GPU at the planned load; they add up to `available`."""

    weights_bytes: float
    kv_bytes: float
    draft_bytes: float
    workspace_bytes: float
    free_bytes: float
    available_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeUsed:
    """A draft tree, and what it gains over a chain of the same draft at the planned batch."""

    size: int
    """Nodes, the root included: what a verification pass sees."""
    depth: int
    """Levels, the root's included."""
    beam: int
    """Nodes that an engine without topologies expands at every level: SGLang's topk."""
    parents: tuple[int, ...]
    """Parent of every node, breadth first; -1 for the root."""
    chain_gamma: int
    """Length of the best chain."""
    gain: float
    """Tokens a second over the best chain's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One fleet: GPUs, layout, formats, speculation; what it does at the peak, and what it costs.

    `meets` says whether every limit holds; `binding` names the limit that stops it from serving
    more (or that it breaks), `why_not` compares it with the best in one sentence ("" for the best).
    """

    name: str
    gpu: str
    gpus: int
    layout: str
    """mixed, or disaggregated."""
    replicas: int
    """Replicas that decode."""
    prefill_replicas: int
    """Replicas that only prefill; 0 in a mixed layout."""
    tp: int
    pp: int
    ep: int
    attention_dp: int
    dtype: str
    kv_dtype: str
    stack: str
    calibration: str
    draft: str
    gamma: int
    """Tokens drafted a round: of a chain its length, of a tree its nodes without the root."""
    tree: TreeUsed | None = None
    """The tree that is drafted; None for a chain, or for no draft."""
    tokens_per_round: float
    speedup: float
    """Decode throughput against no speculation, same replica, same batch."""

    batch_per_replica: float
    """Requests decoding at once, on average."""
    max_batch_per_replica: int
    """Largest number of requests of this workload that a replica can hold or may run."""
    ctx_tokens: float
    """Mean context of the requests that decode."""
    step: StepBreakdown
    latency: Latencies
    tokens_per_s: float
    """Output tokens of the whole fleet at the peak."""
    tokens_per_s_per_gpu: float
    capacity_requests_per_s: float
    """Highest rate of requests at which every limit still holds."""
    headroom: float
    """Capacity over peak traffic, minus 1."""
    utilisation: float
    """Peak traffic over the rate at which queues would grow without end."""
    preemption_probability: float
    """Share of requests that lose their cache to others and are computed anew."""
    kv_cache_share: float
    """Share of a replica's KV cache that is held, mean over time."""
    cost_usd_per_hour: float
    """NaN (null) where the GPU has no price."""
    usd_per_million_tokens: float
    """USD per million output tokens, at mean traffic."""
    energy_joules_per_token: float
    """Largest energy per output token, at mean traffic with every GPU at its TDP."""
    memory: MemoryBars
    bound: str
    """weights, kv, compute, overhead or communication: what a decode step spends most on."""
    meets: bool
    binding: str
    violations: Mapping[str, float]
    """Limits that are broken, and by what factor."""
    why_not: str = ""
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """80 % intervals of p95 latencies, latencies with a limit, and capacity: step times at either
    end of the calibration's interval, replicas and traffic held. Infinite (null): without end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrafficUsed:
    """The workload that the plan serves."""

    mean_requests_per_s: float
    peak_requests_per_s: float
    """Mean times peak factor times growth: what the fleet is sized for."""
    prompt_mean_tokens: float
    prompt_p50_tokens: float
    prompt_p95_tokens: float
    output_mean_tokens: float
    output_p50_tokens: float
    output_p95_tokens: float
    prefix_hit_rate: float
    arrival_cv2: float
    """Squared coefficient of variation of the gaps between arrivals; 1 is Poisson."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensitivity:
    """The best plan's GPUs, formats and draft under another assumption, replicas chosen anew."""

    what: str
    """traffic, acceptance, prompt, output, prefix_hit_rate, step_time, "ttft limit" and so on."""
    change: str
    factor: float
    meets: bool
    gpus: int
    cost_usd_per_hour: float
    usd_per_million_tokens: float
    gpus_low: float = math.nan
    """GPUs at either end of the step time's 80 % interval, of the plan as it is; NaN (null) for
    other assumptions, and where none would do."""
    gpus_high: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ThresholdUsed:
    """One draft length for a range of batches and contexts, both ends included."""

    batch_lo: int
    batch_hi: int
    ctx_lo: int
    ctx_hi: int
    gamma: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeRule:
    """One tree, chain or no draft for a range of batches and contexts, both ends included."""

    batch_lo: int
    batch_hi: int
    ctx_lo: int
    ctx_hi: int
    size: int
    """Nodes, the root included; 1 is off."""
    depth: int
    """Levels, the root's included; as many as nodes in a chain."""
    beam: int
    parents: tuple[int, ...]
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """Draft length over batch x context of one replica of the best plan."""

    draft: str
    batches: tuple[int, ...]
    ctx_tokens: tuple[int, ...]
    gammas: tuple[tuple[int, ...], ...]
    """[batch][ctx]; 0 is off."""
    speedups: tuple[tuple[float, ...], ...]
    """[batch][ctx]; NaN (null) where the cell does not fit."""
    break_even_ctx_tokens: tuple[float, ...]
    """Context, by batch, from which speculation pays; NaN if it pays everywhere or nowhere."""
    thresholds: tuple[ThresholdUsed, ...]
    tree_sizes: tuple[tuple[int, ...], ...] = ()
    """[batch][ctx] nodes of the best tree, root included; 1 is off, () where the draft has none."""
    tree_depths: tuple[tuple[int, ...], ...] = ()
    tree_speedups: tuple[tuple[float, ...], ...] = ()
    speedups_low: tuple[tuple[float, ...], ...] = ()
    """[batch][ctx] 80 % intervals of `speedups`, from acceptance and timing."""
    speedups_high: tuple[tuple[float, ...], ...] = ()
    tree_rules: tuple[TreeRule, ...] = ()
    """Trees by ranges of batch and context; empty where the stack's engine runs none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Launch:
    """A command to paste, and what it could not express."""

    engine: str
    role: str
    """serve, prefill, decode, or router, before the two of them."""
    command: str
    notes: tuple[str, ...]
    file_name: str = ""
    """Name of a file that the command reads; `file_text` is its content."""
    file_text: str = ""
    refused: str = ""
    """Why the engine cannot start the plan, and what can; `command` is empty then."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RooflineOp:
    """One op of the best plan's decode step on one GPU, all its runs together."""

    name: str
    kind: str
    dtype: str
    flops: float
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Roofline:
    """Peaks of the best plan's GPU, and the ops of its decode step."""

    memory_bytes_per_s: float
    flops_per_s: Mapping[str, float]
    ops: tuple[RooflineOp, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Step breakdown of the best plan's replica along one axis (batch or ctx_tokens)."""

    axis: str
    values: tuple[float, ...]
    linear_seconds: tuple[float, ...]
    attention_seconds: tuple[float, ...]
    collective_seconds: tuple[float, ...]
    elementwise_seconds: tuple[float, ...]
    host_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interval:
    """An 80 % interval on a figure of the best plan, and what it rests on."""

    figure: str
    low: float
    value: float
    high: float
    """Infinite (null) where a queue has no end, or where no number of replicas would do."""
    basis: str
    """How the ends were found."""
    causes: tuple[str, ...] = ()
    """What was put to its own ends, and where those are from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedFigure:
    """One figure of a running server beside the prediction for it."""

    figure: str
    unit: str
    observed: float
    predicted: float
    error: float
    """Predicted over observed, minus 1."""
    refitted: float
    """The prediction after the host constants were fitted to this run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """A benchmark run of a real server beside the prediction for the same run."""

    file: str
    tool: str
    server: str = ""
    """The candidate whose replica was predicted for the same run."""
    concurrency: float
    figures: tuple[ObservedFigure, ...]
    calibration_toml: str
    """A calibration with host constants fitted to this run, for `--stack PATH`; it names its GPU,
    and warns on another."""
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """How much was looked at."""

    configurations: int
    """GPU type x layout x formats x draft."""
    cells: int
    """Configurations x batch x draft length or tree evaluated."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetPart:
    """Some replicas of one kind, for one workload."""

    workload: str
    gpu: str
    replicas: int
    gpus: int
    tp: int
    pp: int
    dtype: str
    kv_dtype: str
    draft: str
    gamma: int
    tree: TreeUsed | None = None
    requests_per_s: float
    """What these replicas bear within the limits."""
    cost_usd_per_hour: float
    ep: int = 1
    attention_dp: int = 1
    launch: tuple[Launch, ...] = ()
    """How to start one of them, by engine."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixedFleet:
    """The cheapest mix of kinds of replicas, or the reason why there is none."""

    feasible: bool
    verdict: str
    parts: tuple[FleetPart, ...]
    gpus: Mapping[str, int]
    cost_usd_per_hour: float
    alone_usd_per_hour: float
    """What the plans cost one by one, each of one kind of replica; NaN where one has none."""
    cost_low_usd_per_hour: float = math.nan
    """80 % interval: the mix found anew where every replica bears either end of its capacity."""
    cost_high_usd_per_hour: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """The fleet's JSON."""
        return {"schema": MIXED_SCHEMA, **_document(self)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The whole answer. Where nothing meets the limits, `feasible` is False and `best` is the
    nearest candidate, whose `violations` and `binding` say by how much and where it fails. Where
    `answer` is "mixed", `mixed` is the fleet to rent and `launch` starts its parts; `best` and all
    that belongs to it is then the best of a single kind of replica, for comparison."""

    name: str
    model: str
    parameters: int
    feasible: bool
    verdict: str
    answer: str = "best"
    """What to rent: `best`, or `mixed`."""
    traffic: TrafficUsed
    slo: Mapping[str, float]
    best: Candidate
    candidates: tuple[Candidate, ...]
    """Best first: one for each GPU type x layout x formats x draft; those that fail come last."""
    pareto_cost_latency: tuple[int, ...]
    """Indices of candidates that nothing beats in both cost and p95 time per output token."""
    pareto_throughput_latency: tuple[int, ...]
    """Indices that nothing beats in both tokens/s/GPU and p95 time per output token."""
    rejected: Mapping[str, int]
    """Configurations that never became candidates, counted by reason."""
    searched: Searched
    sensitivity: tuple[Sensitivity, ...]
    schedule: Schedule | None
    """Draft lengths over batch and context; None where speculation was not asked about."""
    launch: tuple[Launch, ...]
    roofline: Roofline
    curves: tuple[Curve, ...]
    intervals: tuple[Interval, ...]
    prices: tuple[PriceUsed, ...]
    assumptions: tuple[str, ...]
    calibration_basis: str
    reachable: Mapping[str, float] = field(default_factory=dict)
    """Lowest figure of anything searched, by limit; more replicas bring 5 % more at most where it
    lies beyond the limit."""
    advice: tuple[str, ...] = ()
    """A sentence on every limit that the plan breaks, or that its interval passes."""
    observed: Observation | None = None
    mixed: MixedFleet | None = None
    """The cheapest mix within the GPUs at hand, where the request says what is at hand."""
    question: CapacityQuestion = field(repr=False)

    @property
    def request(self) -> PlanRequest:
        """What was asked."""
        return self.question.request

    def to_dict(self) -> dict[str, Any]:
        """The plan's JSON: plain numbers and lists, null for what is absent."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "question"}
        return {"schema": SCHEMA, **_document(told | {"request": self.request.flat()})}


def _document(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _document(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _document(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_document(entry) for entry in value]
    return plain(value)
