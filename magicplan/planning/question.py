"""A capacity question resolved once: names looked up, files read, contradictions refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from magicplan import hardware_specs, model_specs
from magicplan.errors import FieldError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.model_specs.shape import ModelShape
from magicplan.planning.names import check_names, looked_up, stock_of
from magicplan.planning.prices import PriceUsed, prices_for
from magicplan.planning.request import PlanRequest
from magicplan.prediction.draft_names import draft_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.roofline.memory import splits_evenly
from magicplan.serving.load import Load, load_of
from magicplan.serving.traces import refuse_longer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What `plan` answers: a request, and everything that its names and files stand for."""

    request: PlanRequest
    """As asked; a GPU that was named twice stands in it once."""
    model: ModelShape
    gpus: tuple[Accelerator, ...]
    load: Load
    prices: Mapping[str, PriceUsed]
    """Price of a GPU-hour by accelerator."""
    stock: Mapping[str, int] | None
    """GPUs at hand by accelerator; None where the request does not say."""


def question_of(ask: PlanRequest) -> Question:
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
    return Question(
        request=ask,
        model=model,
        gpus=accelerators,
        load=load,
        prices=prices_for(accelerators, ask.money.prices, needed=goal == "cost"),
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
