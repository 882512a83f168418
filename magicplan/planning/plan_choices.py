"""Every configuration of a search, sized for the load in every arrangement asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from magicplan.engine_specs.capabilities import Engine, Wanted, engine_of, refusal
from magicplan.planning.fleet import Configuration, Fleet
from magicplan.planning.plan_candidates import MIXED, SPLIT, Choice
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import PriceUsed
from magicplan.planning.sizing import HAIR, Sized, size_mixed, size_split
from magicplan.planning.traffic_load import Load


def choices_of(
    ask: PlanRequest,
    load: Load,
    found: Fleet,
    prices: Mapping[str, PriceUsed],
    rejected: Counter[str],
) -> list[Choice]:
    """Every configuration that can serve at all, in every arrangement asked for."""
    sized: list[tuple[str, Sized]] = []
    if ask.disaggregation != "only":
        mixed = size_mixed(load, found.states, ask.slo, ask.max_utilisation)
        sized.append((MIXED, mixed))
    if ask.disaggregation != "off":
        split = size_split(load, found.states, found.pools, ask.slo, ask.max_utilisation)
        sized.append((SPLIT, split))
    choices, engine = [], engine_of(ask.stack)
    for layout, one in sized:
        for index, row in enumerate(found.rows):
            reason = _left_out(row, one, index) or _unlaunchable(engine, row, one, index, layout)
            if reason:
                rejected[reason] += 1
                continue
            name = row.resolved.machine.accelerator.name
            choices.append(
                Choice(row=row, index=index, sized=one, layout=layout, price=prices[name])
            )
    return choices


def ranked(ask: PlanRequest, choices: list[Choice]) -> list[Choice]:
    """Best first. Where nothing meets the limits, a hair nearer is worth no larger fleet."""
    least = min((choice.broken(ask) for choice in choices), default=1.0)
    near = HAIR * least if least > 1 else 1.0
    return sorted(choices, key=lambda choice: choice.rank(ask, near))


def _left_out(row: Configuration, sized: Sized, index: int) -> str:
    """Why a configuration is no candidate, "" if it is one."""
    if not sized.runs[index]:
        return "does not hold the model and requests of this length, or cannot keep up with prompts"
    if row.draft != "none" and sized.state.gamma[index, 0] == 0:
        return "its draft does not pay at the planned batch"
    return ""


def _unlaunchable(
    engine: Engine | None, row: Configuration, sized: Sized, index: int, layout: str
) -> str:
    """Why the stack's engine cannot start it, "" if it can, or if no table speaks of the stack."""
    if engine is None:
        return ""
    drafts = bool(sized.state.gamma[index, 0])
    wanted = Wanted(
        model=row.resolved.model, kv_dtype=row.replica.layout.kv_dtype, pp=row.pp, tp=row.tp,
        ep=row.ep, attention_dp=row.attention_dp, split=layout == SPLIT,
        draft=row.spec.draft if drafts else None,
    )  # fmt: skip
    return refusal(engine, wanted)
