"""The capacity question, as asked: traffic, lengths, latency limits, and what may be chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.planning.names import as_text, check_names
from magicplan.serving.traces import read_trace, refuse_longer

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
    prompt: Any = None
    """Tokens: a number, "uniform:LOW,HIGH", "lognormal:MEDIAN,P95", {"p50": 800, "p95": 4000}; a
    trace's own, or 1024 in and 256 out."""
    output: Any = None
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
    available: Mapping[str, int] | None = None
    """GPUs at hand by type: no plan may take more, and a mix of types is planned as well."""

    tp: tuple[int, ...] | None = None
    """Degrees to try; None tries all that split the heads inside a node."""
    dtypes: tuple[str, ...] = ("bf16",)
    kv_dtypes: tuple[str, ...] = ("bf16",)
    pp: int | None = None
    """Pipeline stages; None tries them where no node holds the model."""
    ep: int | None = None
    """GPUs that whole experts are spread over; None tries none and as many as share them."""
    attention_dp: int | None = None
    """Groups with attention and sequences of their own; None tries one, and for mixtures of experts
    and latent attention also as many as GPUs, with `ep` as wide."""
    drafts: tuple[str, ...] = DEFAULT_DRAFTS
    """`none`, a draft as in `--draft`, with its view behind a blank as in "self streaming:512"; or
    `auto`: what the engines can run on this model."""
    acceptance: str | Mapping[str, str] = "auto"
    """As in `--acceptance`, for every draft or by draft."""
    task: str | None = None
    max_gamma: int = 8
    trees: bool | None = None
    """Whether drafts may also draft trees, as deep as `max_gamma`; None where the stack's engine
    runs trees of the draft."""
    stack: str = "vllm"
    memory_fraction: float = 0.92
    batched_tokens: int = 8192
    """Most tokens that one step feeds: decode tokens first, prompt chunks with what is left."""
    max_sequences: int = 1024
    """Most requests that a replica runs at once."""
    disaggregation: str = "auto"
    """`auto` tries replicas that only prefill beside mixed ones, `off` does not, `only` insists."""
    verify_kv_passes: float | str = "auto"
    """How often verification reads the KV cache; `auto` is what the calibration knows."""
    prices: str | Mapping[str, float] | None = None
    """A TOML of prices, or {accelerator: USD an hour}; shipped ones are indicative."""
    objective: str = "cost"
    """cost, gpus or energy: what "best" means among plans that meet every limit."""
    name: str = ""
    """Title of the plan in reports."""


NAMES = ("gpus", "dtypes", "kv_dtypes", "drafts")
LISTS = (*NAMES, "tp")
CHOICES = {
    "objective": ("cost", "gpus", "energy"),
    "disaggregation": ("auto", "off", "only"),
}
NUMBERS = (
    "requests_per_s", "users", "tokens_per_day", "peak_factor", "think_seconds", "prefix_hit_rate",
    "shared_prefix_tokens", "growth",
)  # fmt: skip
"""Numbers of the traffic, whose ranges `load_of` looks at; the first four may be left out."""
WHOLE = {
    "batched_tokens": (16, 2**20), "max_sequences": (1, 2**16), "max_gamma": (0, 64),
}  # fmt: skip
DEGREES = {"pp": (1, 1024), "ep": (1, 4096), "attention_dp": (1, 1024)}
"""Of parallelism, that may be left open."""


def request_from(options: Mapping[str, Any]) -> PlanRequest:
    """A checked request from keyword arguments; single values where lists are meant will do.

    Raises UsageError for unknown names and for limits and options that contradict each other.
    """
    known = {entry.name for entry in fields(PlanRequest)}
    if unknown := set(options) - known:
        raise UsageError(f"plan takes no {', '.join(sorted(unknown))}; it takes {sorted(known)}")
    return checked(PlanRequest(**options))


def checked(ask: PlanRequest) -> PlanRequest:
    """The same request with lists as tuples, every number looked at and every name looked up.

    Raises UsageError that begins with the field, SpecError for files that names lead to.
    """
    _check_types(ask)
    lists = {name: _listed(name, getattr(ask, name)) for name in LISTS}
    ask = replace(ask, **lists, acceptance=as_text(ask.acceptance))
    for name, choices in CHOICES.items():
        if getattr(ask, name) not in choices:
            raise UsageError(f"{name} {getattr(ask, name)!r}: expected one of {', '.join(choices)}")
    _check_number("max_utilisation", ask.max_utilisation, low=0.01, high=0.99)
    _check_number("memory_fraction", ask.memory_fraction, low=0.01, high=1)
    if ask.verify_kv_passes != "auto":
        _check_number("verify_kv_passes", ask.verify_kv_passes, low=1, high=65)
    for name, (low, high) in WHOLE.items():
        _check_whole(name, getattr(ask, name), low=low, high=high)
    for name in ("max_gpus", "budget_usd_per_hour"):
        if getattr(ask, name) is not None:
            _check_number(name, getattr(ask, name), low=1e-9, high=1e9)
    for name, (low, high) in DEGREES.items():
        if getattr(ask, name) is not None:
            _check_whole(name, getattr(ask, name), low=low, high=high)
    if ask.disaggregation == "only" and ask.prefix_hit_rate == 1:
        raise UsageError("disaggregation only: with prefix_hit_rate 1 there is nothing to prefill")
    _check_limits(ask.slo)
    check_names(ask)
    if ask.trace is not None:
        model = model_specs.load(ask.model)
        refuse_longer(read_trace(Path(ask.trace)), model.max_ctx_tokens, model.name)
    return ask


def _check_types(ask: PlanRequest) -> None:
    for name in ("model", "stack", "name", "objective", "disaggregation"):
        if not isinstance(getattr(ask, name), str):
            raise UsageError(f"{name} {getattr(ask, name)!r}: expected text")
    if ask.task is not None and not isinstance(ask.task, str):
        raise UsageError(f"task {ask.task!r}: expected text")
    if ask.trace is not None and not isinstance(ask.trace, str | Path):
        raise UsageError(f"trace {ask.trace!r}: expected the path of a CSV")
    if ask.trees is not None and not isinstance(ask.trees, bool):
        raise UsageError(f"trees {ask.trees!r}: expected true or false")
    for name, what in (("slo", "limits"), ("available", "GPUs"), ("prices", "prices")):
        value = getattr(ask, name)
        path = name == "prices" and isinstance(value, str)
        missing = name != "slo" and value is None
        if not path and not missing and not isinstance(value, Mapping):
            raise UsageError(f"{name} {value!r}: expected a table of {what}")
    for name in NUMBERS:
        value = getattr(ask, name)
        if not _is_number(value) and not (value is None and name in NUMBERS[:4]):
            raise UsageError(f"{name} {value!r}: expected a number")


def _listed(name: str, value: Any) -> Any:
    """One value or several as a tuple without repetitions."""
    if value is None and name == "tp":
        return None
    what = "names" if name in NAMES else "degrees"
    if isinstance(value, str) or _is_number(value):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise UsageError(f"{name} {value!r}: expected a list of {what}")
    found = tuple(value)
    if not found:
        raise UsageError(f"{name} is empty: expected at least one")
    for entry in found:
        if name == "tp":
            _check_whole(name, entry, low=1, high=1024)
        elif not isinstance(entry, str):
            raise UsageError(f"{name} {entry!r}: expected a list of {what}, as text")
    return tuple(dict.fromkeys(found))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: Any, *, low: float, high: float) -> float:
    if not _is_number(value) or not low <= value <= high or not math.isfinite(value):
        raise UsageError(f"{name} {value!r}: expected a number from {low:g} to {high:g}")
    return float(value)


def _check_whole(name: str, value: Any, *, low: int, high: int) -> None:
    if _check_number(name, value, low=low, high=high) != int(value):
        raise UsageError(f"{name} {value!r}: expected a whole number")


def _check_limits(slo: Mapping[str, float]) -> None:
    for key, value in slo.items():
        if key not in SLO_KEYS:
            raise UsageError(f"slo.{key} is no limit: expected names such as {SLO_KEYS[2]}")
        _check_number(f"slo.{key}", value, low=1e-6, high=1e6)
    for metric in METRICS:
        ranked = [k for k in (f"{metric}_{p}_seconds" for p in STATISTICS[1:]) if k in slo]
        for low, high in itertools.pairwise(ranked):
            if slo[high] < slo[low]:
                raise UsageError(
                    f"slo.{high} {slo[high]:g} lies below slo.{low} {slo[low]:g}: a higher "
                    "percentile cannot be asked to be faster; drop the looser limit"
                )
    for statistic in STATISTICS:
        first, whole = slo.get(f"ttft_{statistic}_seconds"), slo.get(f"e2e_{statistic}_seconds")
        if first is not None and whole is not None and whole < first:
            raise UsageError(
                f"slo.e2e_{statistic}_seconds {whole:g} lies below slo.ttft_{statistic}_seconds "
                f"{first:g}: a whole answer cannot end before its first token may come"
            )
