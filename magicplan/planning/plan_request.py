"""The capacity question, as asked: traffic, lengths, latency limits, and what may be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_GPUS = (
    "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "a100-sxm-80gb", "l40s",
    "rtx-pro-6000-server", "h100-nvl", "gh200-96gb", "mi300x", "a100-pcie-80gb",
)  # fmt: skip
"""What a plan looks at where no GPUs are named: data-centre parts with an indicative price."""
DEFAULT_DRAFTS = ("none", "auto")
METRICS = ("ttft", "tpot", "itl", "e2e")
STATISTICS = ("mean", "p50", "p95", "p99")
SLO_KEYS = tuple(f"{m}_{s}_seconds" for m in METRICS for s in STATISTICS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanRequest:
    """What a user asks. Exactly one of `requests_per_s`, `users`, `tokens_per_day` and `trace`
    states the traffic; a trace also brings its own lengths."""

    model: str = "llama-3.1-8b"
    gpus: tuple[str, ...] = DEFAULT_GPUS
    """Accelerator types to choose from."""

    requests_per_s: float | None = None
    users: float | None = None
    """People who send a request, read the answer for `think_seconds`, and send the next."""
    think_seconds: float = 0.0
    tokens_per_day: float | None = None
    """Output tokens of a whole day, spread evenly before the peak factor."""
    trace: str | None = None
    """CSV of arrivals: time, prompt tokens, output tokens. Brings its own lengths and rate."""
    prompt: Any = 1024
    """Tokens: a number, "uniform:LOW,HIGH", "lognormal:MEDIAN,P95", {"p50": 800, "p95": 4000}."""
    output: Any = 256
    prefix_hit_rate: float = 0.0
    """Share of prompt tokens whose KV is found in the prefix cache."""
    shared_prefix_tokens: float = 0.0
    """Leading tokens that all requests share: held once a replica."""
    peak_factor: float | None = None
    """Busiest minutes over the mean; None is 1 for a stated rate, and a trace's busiest minute."""
    growth: float = 0.0
    """Share by which traffic is to grow while the plan holds: 0.5 plans for 1.5 times."""

    slo: Mapping[str, float] = field(default_factory=dict)
    """Limits in seconds by `SLO_KEYS`, such as {"ttft_p95_seconds": 1.0}."""
    max_utilisation: float = 0.9
    """Of the rate at which queues would grow without end, at the peak."""
    max_gpus: int | None = None
    budget_usd_per_hour: float | None = None

    tp: tuple[int, ...] | None = None
    """Degrees to try; None tries all that split the heads inside a node."""
    dtypes: tuple[str, ...] = ("bf16",)
    kv_dtypes: tuple[str, ...] = ("bf16",)
    pp: int | None = None
    """Pipeline stages; None tries them where no node holds the model."""
    ep: int = 1
    attention_dp: int = 1
    drafts: tuple[str, ...] = DEFAULT_DRAFTS
    """`none`, a draft as in `--draft`, with its view behind a blank as in "self streaming:512"; or
    `auto`: what the engines can run on this model."""
    acceptance: str | Mapping[str, str] = "auto"
    """As in `--acceptance`, for every draft or by draft."""
    task: str | None = None
    max_gamma: int = 8
    stack: str = "vllm"
    memory_fraction: float = 0.92
    batched_tokens: int = 8192
    """Most tokens that one step feeds: decode tokens first, prompt chunks with what is left."""
    max_sequences: int = 1024
    """Most requests that a replica runs at once."""
    disaggregation: str = "auto"
    """`auto` tries replicas that only prefill beside mixed ones, `off` does not, `only` insists."""
    verify_kv_passes: float = 1.0
    prices: str | Mapping[str, float] | None = None
    """A TOML of prices, or {accelerator: USD an hour}; shipped ones are indicative."""
    objective: str = "cost"
    """cost, gpus or energy: what "best" means among plans that meet every limit."""
    name: str = ""
    """Title of the plan in reports."""
