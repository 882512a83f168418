"""A capacity question, resolved once, from a plan file or from keywords.

Names are looked up, files read, contradictions refused; what is wrong is named by field, and in a
plan file by line. Prices are a user's own, else the median of on-demand offers that ships.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from magicplan import hardware_specs, model_specs
from magicplan.errors import FieldError, SpecError, UsageError
from magicplan.fields import Span, Table, read_toml
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.model_specs.shape import ModelShape
from magicplan.planning.request import (
    SECTIONS,
    PlanRequest,
    check_names,
    looked_up,
    request_from,
    stock_of,
)
from magicplan.prediction.draft_names import draft_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.roofline.memory import splits_evenly
from magicplan.serving.load import Load, load_of
from magicplan.serving.traces import refuse_longer

PRICE_TABLE = "usd_per_hour"
Price = Annotated[float, Span(0, 10_000.0, above=True)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceUsed:
    """What one GPU-hour was taken to cost."""

    gpu: str
    usd_per_hour: float
    """NaN where no price is known."""
    note: str
    indicative: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapacityQuestion:
    """What `plan` answers: a request, and everything that its names and files stand for."""

    request: PlanRequest
    """The request as asked, with every GPU in it once; without any price the objective cost is that
    of GPU counts."""
    model: ModelShape
    gpus: tuple[Accelerator, ...]
    load: Load
    prices: Mapping[str, PriceUsed]
    """Price of a GPU-hour by accelerator."""
    stock: Mapping[str, int] | None
    """GPUs at hand by accelerator; None where the request does not say."""


def question_of(ask: PlanRequest) -> CapacityQuestion:
    """A question from a request. Raises FieldError for what makes no sense together or for this
    model, SpecError for files that the request leads to."""
    model = looked_up("model", model_specs.load, ask.model)
    gpus = {looked_up("gpus", hardware_specs.load, n).name: n for n in reversed(ask.choices.gpus)}
    once = tuple(name for name in ask.choices.gpus if name in gpus.values())
    ask = replace(ask, choices=replace(ask.choices, gpus=once))
    accelerators = tuple(hardware_specs.load(name) for name in once)
    check_names(ask, accelerators[0])
    if ask.choices.disaggregation == "only" and ask.traffic.prefix_hit_rate == 1:
        raise FieldError(
            "disaggregation", "only: with $prefix_hit_rate 1 there is nothing to prefill"
        )
    _check_draft(ask, model)
    _check_degrees(ask, model)
    load = load_of(ask.traffic)
    if load.trace is not None:
        refuse_longer(load.trace, model.max_ctx_tokens, model.name)
    goal, stock = ask.money.objective, ask.money.available
    if goal == "energy" and not any(gpu.tdp_watts for gpu in accelerators):
        raise FieldError(
            "objective",
            f"energy: no TDP is known of {', '.join(gpu.name for gpu in accelerators)}; expected a "
            "GPU with one, or cost or gpus",
        )
    prices = prices_for(accelerators, ask.money.prices, needed=goal == "cost")
    money = replace(ask.money, objective=objective_with(prices, goal))
    return CapacityQuestion(
        request=replace(ask, money=money),
        model=model,
        gpus=accelerators,
        load=load,
        prices=prices,
        stock=None if stock is None else stock_of(stock),
    )


def _check_draft(ask: PlanRequest, model: ModelShape) -> None:
    """Refuse degrees and a single draft that this model cannot have."""
    question = Request(
        gpu=ask.choices.gpus[0], model=ask.model, stack=ask.engine.stack, draft="none",
        ep=ask.choices.ep or 1, attention_dp=ask.choices.attention_dp or 1,
    )  # fmt: skip
    resolve(question)
    if len(ask.choices.drafts) == 1 and ask.choices.drafts[0] not in ("none", "auto"):
        name, _, view = ask.choices.drafts[0].partition(" ")
        drafting = replace(question, draft=name, draft_kv=view or None)
        looked_up("drafts", lambda _: draft_of(drafting, model), name)


def _check_degrees(ask: PlanRequest, model: ModelShape) -> None:
    """Refuse degrees of parallelism that do not divide this model."""
    degrees = ask.choices
    if degrees.tp is not None:
        split = [tp for tp in degrees.tp if splits_evenly(model, tp)]
        if not split:
            raise FieldError(
                "tp",
                f"{', '.join(map(str, degrees.tp))}: splits neither the {model.q_heads} heads nor "
                f"the {model.kv_heads} KV heads of {model.name} evenly",
            )
        dp = degrees.attention_dp or degrees.ep
        if degrees.ep and dp and all(tp * dp % degrees.ep for tp in split):
            raise FieldError("ep", f"{degrees.ep}: divides no $tp asked for times $attention_dp")
    if degrees.pp is not None and degrees.pp > model.layers:
        raise FieldError("pp", f"{degrees.pp}: {model.name} has {model.layers} layers")


def prices_for(
    gpus: Sequence[Accelerator], stated: str | Mapping[str, float] | None, *, needed: bool
) -> dict[str, PriceUsed]:
    """A price for every accelerator: the one stated, else the one that ships, else NaN.

    `stated` is the path of a TOML with a table `usd_per_hour`, or its content; it may price as few
    accelerators as it likes. Where no accelerator has a price, none is `needed`: the plan then goes
    by GPU count (`objective_with`). Raises SpecError naming file, line and field, FieldError for a
    table, and where prices are needed and only some accelerators have one.
    """
    prices = {a.name: _shipped(a) for a in gpus}
    if stated is not None:
        own = _own(stated)
        for name in own.data:
            gpu, usd = _priced(own, str(name)), own.get(name, Price)
            if gpu in prices:
                note = own.file or "prices"
                prices[gpu] = PriceUsed(gpu=gpu, usd_per_hour=usd, note=note, indicative=False)
    unknown = [a for a in gpus if math.isnan(prices[a.name].usd_per_hour)]
    if needed and unknown and len(unknown) < len(gpus):
        told = ", ".join(map(_named, unknown))
        raise FieldError(
            "prices",
            f": no on-demand price ships for {told}; state $prices, leave those GPUs out, or "
            "choose $objective gpus",
        )
    return prices


def objective_with(prices: Mapping[str, PriceUsed], asked: str) -> str:
    """The objective of a plan: without any price the fewest GPUs stand for the least cost."""
    unpriced = all(math.isnan(price.usd_per_hour) for price in prices.values())
    return "gpus" if asked == "cost" and unpriced else asked


def _named(a: Accelerator) -> str:
    """An accelerator with what else is known of its price."""
    return f"{a.name} ({'; '.join(o.text for o in a.offers)})" if a.offers else a.name


def _priced(own: Table, name: str) -> str:
    """The accelerator that a user's price is of."""
    try:
        return hardware_specs.load(name).name
    except SpecError:
        raise
    except UsageError as problem:
        own.fail(name, f": {problem}")


def _own(stated: str | Mapping[str, float]) -> Table:
    """A user's own prices."""
    if not isinstance(stated, str):
        return Table(data=stated, path="prices")
    own = read_toml(Path(stated)).table(PRICE_TABLE, {})
    if not own.data:
        raise SpecError(stated, f"has no table [{PRICE_TABLE}] of prices such as h100-sxm = 2.5")
    return own


def _shipped(a: Accelerator) -> PriceUsed:
    """The price that ships, NaN where there is none."""
    return PriceUsed(
        gpu=a.name,
        usd_per_hour=math.nan if a.price_usd_per_hour is None else a.price_usd_per_hour,
        note=a.price_note or "no on-demand price ships",
        indicative=True,
    )


TEMPLATE = Path(__file__).parent / "plan_template.toml"
PATHS = ("trace", "prices")
"""Fields that may hold a path, which is relative to the plan file."""


def template() -> str:
    """The commented file that `magicplan plan --init` writes."""
    return TEMPLATE.read_text(encoding="utf-8")


def read_plan(path: Path | str, over: Mapping[str, Any] | None = None) -> CapacityQuestion:
    """The question of a TOML file, resolved: `plan` answers it without reading anything again.

    Paths in the file are relative to it. `over` replaces fields of the file, limits of `slo` one by
    one. Raises SpecError naming the file, the line and the field, or another file that it leads to;
    FieldError for what `over` brought.
    """
    path, given = Path(path), dict(over or {})
    document = read_toml(path)
    options = _options(document)
    for name in PATHS:
        if isinstance(options.get(name), str):
            options[name] = str(path.parent / options[name])
    limits, slo = given.pop("slo", {}), options.get("slo", {})
    try:
        return question_of(request_from(options | {"slo": slo | limits} | given))
    except FieldError as problem:
        if problem.field.removeprefix("slo.") in limits or _top(problem.field) in given:
            raise
        raise _in_file(document, problem) from None


def _top(field: str) -> str:
    return field.partition(".")[0]


def _in_file(document: Table, problem: FieldError) -> Exception:
    """An error of a field with the line where the file has it."""
    top = _top(problem.field)
    section = next((s for s, names in SECTIONS.items() if s and top in names), "")
    return document.placed(problem, f"{section}.{problem.field}" if section else problem.field)


def _options(document: Table) -> dict[str, Any]:
    """Keywords of a request from the sections of a file. Raises SpecError for unknown fields."""
    found: dict[str, Any] = {}
    for key, value in document.data.items():
        section = key if isinstance(value, Mapping) and key in SECTIONS else ""
        entries = value if section else {key: value}
        for name in entries:
            if name not in SECTIONS[section]:
                label = f"{section}.{name}" if section else name
                document.fail(label, f"is unknown; {_home(section, name)}")
        if section == "slo":
            found["slo"] = dict(value)
        else:
            found |= entries
    return found


def _home(section: str, name: str) -> str:
    """A hint for an unknown field: the section it belongs into, or what is known in its own."""
    if name and name in SECTIONS:
        return f"expected a section [{name}] of its own"
    home = next((s for s, names in SECTIONS.items() if name in names), None)
    return f"it belongs into [{home}]" if home else _known(section, name)


def _known(section: str, name: str) -> str:
    known = SECTIONS[section]
    titles = () if section else tuple(SECTIONS)
    near = difflib.get_close_matches(name, (*known, *titles), n=3)
    offer = f"did you mean {', '.join(near)}? " if near else ""
    if not section:
        sections = ", ".join(f"[{title}]" for title in SECTIONS if title)
        return f"{offer}expected {', '.join(known)}, or sections {sections}"
    return f"{offer}known there: {', '.join(known)}"
