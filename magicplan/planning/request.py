"""The capacity question as asked: the sections of a plan file as records, every number checked.

Names are looked up here too: a typo is an error with near matches, not another plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any

from magicplan import hardware_specs, model_specs
from magicplan.acceptance_specs.entry import entries, methods
from magicplan.acceptance_specs.files import parse_acceptance
from magicplan.engine_specs.capabilities import refuse_trees
from magicplan.errors import FieldError, SpecError, UnknownName, UsageError
from magicplan.fields import Span, as_hinted, is_number, made, number, refuse, table, text, whole
from magicplan.hardware_specs import spelling
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.prediction.draft_names import parse_view
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, BYTES_PER_WEIGHT
from magicplan.roofline.drafts import DRAFTS, VIEWS
from magicplan.serving.load import Traffic
from magicplan.units import parse_seconds

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
    slo = {
        key: _seconds(f"slo.{key}", limit) for key, limit in table(name, value, "limits").items()
    }
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
    return slo


def _seconds(name: str, limit: Any) -> Any:
    """A limit that is a text, such as "500ms", in seconds; all else is left to be checked."""
    return parse_seconds(limit, option=name) if isinstance(limit, str) else limit


def _weights(name: str, value: Any) -> tuple[str, ...]:
    """Weight formats in our spelling, each once."""
    return tuple(
        dict.fromkeys(map(spelling.weight_format, as_hinted(name, value, tuple[str, ...])))
    )


def _kv_formats(name: str, value: Any) -> tuple[str, ...]:
    """Formats of the KV cache in our spelling, each once."""
    return tuple(dict.fromkeys(map(spelling.kv_format, as_hinted(name, value, tuple[str, ...]))))


def _stack(name: str, value: Any) -> str:
    """A stack in our spelling."""
    return spelling.stack(text(name, value))


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
    dtypes: Annotated[tuple[str, ...], _weights] = ("bf16",)
    kv_dtypes: Annotated[tuple[str, ...], _kv_formats] = ("bf16",)
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

    stack: Annotated[str, _stack] = "vllm"
    memory_fraction: Annotated[float, Span(0.01, 1)] = 0.92
    """Share of the memory that a GPU's driver reports which the engine may take."""
    batched_tokens: Annotated[int, Span(16, 2**20)] = 8192
    """Largest number of tokens that one step feeds: decode tokens first, then prompt chunks."""
    max_sequences: Annotated[int, Span(1, 2**16)] = 1024
    """Largest number of requests that a replica runs at once."""
    verify_kv_passes: Annotated[float | str, _passes] = "auto"
    """How often verification reads the KV cache; `auto` is what the calibration knows."""
    max_utilisation: Annotated[float, Span(0.01, 0.99)] = 0.9
    """Largest share that the peak may take of the rate at which queues grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Money:
    """What GPUs cost, how many there are, and what "best" means among plans within the limits."""

    objective: Annotated[str, ("cost", "gpus", "energy")] = "cost"
    """cost, gpus or energy."""
    prices: Annotated[str | Mapping[str, float], _prices] | None = None
    """A TOML of prices, or {accelerator: USD an hour}; shipped, indicative ones for the others."""
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


WORKLOADS = (
    "chat", "code", "math", "reasoning", "retrieval", "rag", "agents", "summarization",
    "translation",
)  # fmt: skip
"""Tasks that users have and no table names: acceptance is then stretched, and says so."""


def check_names(ask: PlanRequest, gpu: Accelerator) -> None:
    """Look up every name besides the model and the GPUs, of which `gpu` is the first.

    Raises FieldError, SpecError for a file.
    """
    choices, stack = ask.choices, ask.engine.stack
    looked_up("stack", lambda name: calibration_for(gpu, name), stack)
    if choices.trees:
        refuse_trees(stack)
    for name in choices.dtypes:
        _one_of("dtypes", name, ("auto", *BYTES_PER_WEIGHT))
    for name in choices.kv_dtypes:
        _one_of("kv_dtypes", name, ("auto", *BYTES_PER_KV_NUMBER))
    for name in choices.drafts:
        if name not in ("none", "auto"):
            looked_up("drafts", _check_draft, name)
    asked = choices.task
    if asked is not None and not any(asked.lower() in task.lower() for task in tasks()):
        hint = f"known: {', '.join(tasks())}; leave it out, or state acceptance"
        raise FieldError("task", f": {UnknownName('task', asked, tasks(), hint)}")
    if isinstance(choices.acceptance, str):
        _check_acceptance("acceptance", choices.acceptance)
    else:
        for name, text in choices.acceptance.items():
            looked_up(f"acceptance.{name}", _check_draft, name)
            _check_acceptance(f"acceptance.{name}", text)


def stock_of(available: Mapping[str, int]) -> dict[str, int]:
    """GPUs at hand by accelerator. Raises FieldError for unknown names and bad counts."""
    found = {}
    for name, count in available.items():
        field = f"available.{name}"
        accelerator = looked_up(field, hardware_specs.load, name)
        found[accelerator.name] = whole(field, count, low=0, high=10**6)
    return found


def looked_up(field: str, find: Callable[[str], Any], name: str) -> Any:
    """What `find` makes of a name. Raises its errors as a FieldError of the field, and those of
    files as they are."""
    try:
        return find(name)
    except SpecError:
        raise
    except UsageError as problem:
        raise FieldError(field, f": {problem}") from None


@cache
def tasks() -> tuple[str, ...]:
    """Every task that acceptance was measured on, and `WORKLOADS`."""
    measured = {entry.task for method in methods() for entry in entries(method)}
    return (*WORKLOADS, *sorted(measured - {"not recorded"}, key=str.lower))


def _one_of(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        problem = UnknownName("format", name, known, f"expected one of {', '.join(known)}")
        raise FieldError(field, f": {problem}")


def _check_draft(text: str) -> None:
    """A way of drafting or a smaller model, with its view behind a blank."""
    name, _, view = text.partition(" ")
    way, _, rest = name.partition(":")
    if way not in DRAFTS:
        _check_small(name)
    elif rest:
        small, _, inner = rest.partition(":")
        if not (DRAFTS[way].small or DRAFTS[way].takes_small):
            raise UsageError(
                f"{name!r}: {way} takes no smaller model; a view of the cache stands behind a "
                "blank, as in 'self streaming:512'"
            )
        if inner and not (inner.isdigit() and 1 <= int(inner) <= 16):
            raise UsageError(f"{name!r}: expected 1 to 16 inner tokens after the model")
        if small:
            _check_small(small)
    if view and view not in VIEWS:  # a kind alone is every budget
        parse_view(view)


def _check_small(name: str) -> None:
    try:
        model_specs.load(name)
    except UnknownName:
        known = ("none", "auto", *DRAFTS, *model_specs.names())
        hint = f"expected {', '.join(DRAFTS)}, a smaller model, or a path to its config.json"
        raise UnknownName("draft", name, known, hint) from None


def _check_acceptance(field: str, text: Any) -> None:
    if not isinstance(text, str):
        raise FieldError(field, f"{text!r}: expected auto, or text such as 0.8")
    if text != "auto":
        looked_up(field, parse_acceptance, text)
