"""The capacity question as asked: the sections of a plan file as records, every number checked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from magicplan.errors import FieldError, UsageError
from magicplan.fields import Span, is_number, made, number, refuse, table
from magicplan.serving.load import Traffic

DEFAULT_GPUS = (
    "h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200", "a100-sxm-80gb", "l40s",
    "rtx-pro-6000-server", "h100-nvl", "gh200-96gb", "mi300x", "a100-pcie-80gb",
)  # fmt: skip
"""What a plan looks at where no GPUs are named: data-centre parts with an indicative price."""
DEFAULT_DRAFTS = ("none", "auto")
METRICS = ("ttft", "tpot", "itl", "e2e")
STATISTICS = ("mean", "p50", "p95", "p99")
SLO_KEYS = tuple(f"{m}_{s}_seconds" for m in METRICS for s in STATISTICS)


def _acceptance(name: str, value: Any) -> str | Mapping[str, str]:
    """Acceptance as text, or a table of texts by draft; numbers become text."""

    def one(entry: Any) -> Any:
        return str(entry) if is_number(entry) else entry

    if isinstance(value, Mapping):
        return {str(draft): one(entry) for draft, entry in value.items()}
    found = one(value)
    return (
        found if isinstance(found, str) else refuse(name, value, "auto, 0.8, or a table by draft")
    )


def _passes(name: str, value: Any) -> float | str:
    return "auto" if value == "auto" else number(name, value, low=1, high=65)


def _prices(name: str, value: Any) -> str | Mapping[str, float]:
    """The path of a file of prices, or a table of them."""
    return value if isinstance(value, str) else table(name, value, "prices")


def _limits(name: str, value: Any) -> Mapping[str, float]:
    """Latency limits in seconds that do not contradict each other."""
    slo = table(name, value, "limits")
    for key, limit in slo.items():
        if key not in SLO_KEYS:
            raise FieldError(f"slo.{key}", f"is no limit: expected names such as {SLO_KEYS[2]}")
        number(f"slo.{key}", limit, low=1e-6, high=1e6)
    for metric in METRICS:
        ranked = [k for k in (f"{metric}_{p}_seconds" for p in STATISTICS[1:]) if k in slo]
        for low, high in itertools.pairwise(ranked):
            if slo[high] < slo[low]:
                raise FieldError(
                    f"slo.{high}",
                    f"{slo[high]:g} lies below slo.{low} {slo[low]:g}: a higher percentile cannot "
                    "be asked to be faster; drop the looser limit",
                )
    for statistic in STATISTICS:
        first, last = slo.get(f"ttft_{statistic}_seconds"), slo.get(f"e2e_{statistic}_seconds")
        if first is not None and last is not None and last < first:
            raise FieldError(
                f"slo.e2e_{statistic}_seconds",
                f"{last:g} lies below slo.ttft_{statistic}_seconds {first:g}: a whole answer "
                "cannot end before its first token may come",
            )
    return dict(slo)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchSpace:
    """What the plan may choose among."""

    gpus: tuple[str, ...] = DEFAULT_GPUS
    """Accelerator types."""
    tp: tuple[Annotated[int, Span(1, 1024)], ...] | None = None
    """Tensor parallel degrees to try; None tries all that split the heads inside a node."""
    pp: Annotated[int, Span(1, 1024)] | None = None
    """Pipeline stages; None tries them where no node holds the model."""
    ep: Annotated[int, Span(1, 4096)] | None = None
    """GPUs that whole experts are spread over; None tries none and as many as share them."""
    attention_dp: Annotated[int, Span(1, 1024)] | None = None
    """Groups with attention and sequences of their own; None tries one, and for mixtures of experts
    and latent attention also as many as GPUs, with `ep` as wide."""
    dtypes: tuple[str, ...] = ("bf16",)
    kv_dtypes: tuple[str, ...] = ("bf16",)
    drafts: tuple[str, ...] = DEFAULT_DRAFTS
    """`none`, a draft as `predict` takes it, with its cache view behind a blank as in
    "self streaming:512"; or `auto`: what the engines can run on this model."""
    acceptance: Annotated[str | Mapping[str, str], _acceptance] = "auto"
    """Acceptance as `predict` takes it, for every draft or by draft."""
    task: str | None = None
    """The task that published acceptance should match."""
    max_gamma: Annotated[int, Span(0, 64)] = 8
    """Longest draft considered, in tokens."""
    trees: bool | None = None
    """Whether drafts may also draft trees, as deep as `max_gamma`; None where the stack's engine
    runs trees of the draft."""
    disaggregation: Annotated[str, ("auto", "off", "only")] = "auto"
    """`auto` tries replicas that only prefill beside mixed ones, `off` does not, `only` insists."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineSettings:
    """How the serving engine is configured."""

    stack: str = "vllm"
    memory_fraction: Annotated[float, Span(0.01, 1)] = 0.92
    """Share of the memory that a GPU's driver reports which the engine may take."""
    batched_tokens: Annotated[int, Span(16, 2**20)] = 8192
    """Most tokens that one step feeds: decode tokens first, prompt chunks with what is left."""
    max_sequences: Annotated[int, Span(1, 2**16)] = 1024
    """Most requests that a replica runs at once."""
    verify_kv_passes: Annotated[float | str, _passes] = "auto"
    """How often verification reads the KV cache; `auto` is what the calibration knows."""
    max_utilisation: Annotated[float, Span(0.01, 0.99)] = 0.9
    """Most that the peak may take of the rate at which queues would grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Money:
    """What GPUs cost, how many there are, and what "best" means among plans within the limits."""

    objective: Annotated[str, ("cost", "gpus", "energy")] = "cost"
    """cost, gpus or energy."""
    prices: Annotated[str | Mapping[str, float], _prices] | None = None
    """A TOML of prices, or {accelerator: USD an hour}; None takes shipped, indicative ones."""
    max_gpus: Annotated[float, Span(0, 1e9, above=True)] | None = None
    budget_usd_per_hour: Annotated[float, Span(0, 1e9, above=True)] | None = None
    available: Mapping[str, int] | None = None
    """GPUs at hand by type: no plan may take more, and a mix of types is planned as well."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanRequest:
    """What a user asks, in the sections of a plan file."""

    name: str = ""
    """Title of the plan in reports."""
    model: str = "llama-3.1-8b"
    traffic: Traffic
    slo: Annotated[Mapping[str, float], _limits] = field(default_factory=dict)
    """Limits in seconds by `SLO_KEYS`, such as {"ttft_p95_seconds": 1.0}."""
    choices: SearchSpace = field(default_factory=SearchSpace)
    engine: EngineSettings = field(default_factory=EngineSettings)
    money: Money = field(default_factory=Money)

    def flat(self) -> dict[str, Any]:
        """Every field by its own name, as keywords and the JSON document have them."""
        found = {"model": self.model, "slo": self.slo, "name": self.name}
        for section in RECORDS:
            record = getattr(self, section)
            found |= {entry.name: getattr(record, entry.name) for entry in fields(record)}
        return found


RECORDS: dict[str, type[Any]] = {
    "traffic": Traffic, "choices": SearchSpace, "engine": EngineSettings, "money": Money,
}  # fmt: skip
SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("name", "model"),
    "traffic": tuple(entry.name for entry in fields(Traffic)),
    "slo": SLO_KEYS,
    **{
        section: tuple(entry.name for entry in fields(RECORDS[section]))
        for section in ("choices", "engine", "money")
    },
}
"""Fields of a plan by section of its file; "" is what stands before the first section."""
FIELDS = ("name", "model", "slo", *(name for record in RECORDS for name in SECTIONS[record]))
"""Keywords of `plan`."""


def request_from(options: Mapping[str, Any]) -> PlanRequest:
    """A request from flat keywords; single values where lists are meant will do.

    Types and ranges are checked, names and files are not looked at. Raises FieldError, and
    UsageError for a keyword that is no field.
    """
    if unknown := set(options) - set(FIELDS):
        raise UsageError(
            f"plan takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(FIELDS))}"
        )
    records = {
        section: made(record, {k: v for k, v in options.items() if k in SECTIONS[section]})
        for section, record in RECORDS.items()
    }
    top = {name: options[name] for name in ("name", "model", "slo") if name in options}
    return made(PlanRequest, top | records)
