"""Which configurations are simulated, which are sized with care, and which is taken.

Arithmetic bounds what each could bear, so the least it could cost is known. Configurations are
simulated in that order until no other could cost less than the best found; then the best few are
sized anew with more requests. At least one of every GPU type, draft and arrangement is simulated,
to say why it loses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from magicplan.engine_specs.capabilities import EngineVersion, ReplicaKind, engine_of, refusal
from magicplan.planning.candidates import SizedChoice
from magicplan.planning.question import CapacityQuestion, PriceUsed
from magicplan.planning.request import PlanRequest
from magicplan.planning.search import Configuration, Search
from magicplan.planning.sizing import (
    BRIEF,
    DRAWS,
    FULL,
    HAIR,
    MIXED,
    SPLIT,
    Kind,
    borne,
    kind_of,
    size,
    suffices,
)
from magicplan.serving.load import Load
from magicplan.serving.screen import KIND

FINALISTS = 4
MOST_BRIEF = 24
"""Configurations simulated where none can be ruled out."""
NEAR_BEST = 1.25
"""Times the best cost that a configuration may need and still be sized, to be compared; what needs
more by one brief simulation is dropped, unless it is the first of its GPU type, draft or
arrangement."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lead:
    """A configuration in one arrangement, and the least that it could cost."""

    row: Configuration
    layout: str
    price: PriceUsed
    stock: int
    gpus: int
    goal: float
    """The objective, for as many GPUs as bounds ask for."""
    least: float
    """Factor by which it would break a limit even when idle."""

    @property
    def replicas(self) -> int:
        """Replicas that bounds ask for, pools together."""
        return self.gpus // self.row.gpus_per_replica

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """What the choice stands for in a comparison: its GPU, its draft and its layout."""
        name = self.row.resolved.machine.accelerator.name
        return frozenset({("gpu", name), ("draft", self.row.draft), ("layout", self.layout)})


def chosen(question: CapacityQuestion, found: Search, rejected: Counter[str]) -> list[SizedChoice]:
    """Simulated configurations, best first; what was left out is counted by its reason."""
    ask, load = question.request, question.load
    leads = sorted(
        _leads(question, found, rejected),
        key=lambda lead: (max(lead.least / KIND, 1.0), lead.goal, lead.gpus, lead.layout == SPLIT),
    )
    brief: list[SizedChoice] = []
    seen: set[tuple[str, str]] = set()
    best = math.inf
    for lead in leads:
        able = lead.least <= KIND or len(brief) < FINALISTS
        rival = able and lead.goal <= best and len(brief) < MOST_BRIEF
        if not rival and lead.keys <= seen:
            rejected["its bounds already cost more than the best, or break a limit"] += 1
            continue
        kind = kind_of(lead.row, lead.layout, load, ask.engine.stack)
        if kind is None:
            rejected["its draft does not pay at the planned batch"] += 1
            continue
        near = lead.replicas
        if lead.keys <= seen and math.isfinite(best):
            near = max(math.floor(NEAR_BEST * best / lead.goal * lead.replicas), near)
            if not suffices(kind, load, ask.slo, ask.engine.max_utilisation, BRIEF, near):
                rejected["as many replicas as the best costs do not keep the limits"] += 1
                continue
        choice = _simulated(ask, load, lead, kind, near)
        seen |= lead.keys
        brief.append(choice)
        if not choice.violations(ask):
            best = min(best, choice.rank(ask)[1])
    return _with_care(ask, load, ranked(ask, brief))


def _with_care(ask: PlanRequest, load: Load, choices: list[SizedChoice]) -> list[SizedChoice]:
    """Choices best first, the best and those that might beat it sized with more requests."""
    careful: list[SizedChoice] = []

    def again(one: SizedChoice) -> None:
        careful.append(_sized(ask, load, one))
        choices[choices.index(one)] = careful[-1]

    rivals = choices[:FINALISTS]
    while choices[0] not in careful:
        again(choices[0])
        choices = ranked(ask, choices)
    for one in rivals:
        if one in choices and one not in careful and _may_win(ask, load, choices[0], one):
            again(one)
            choices = ranked(ask, choices)
    return choices


def _may_win(ask: PlanRequest, load: Load, best: SizedChoice, other: SizedChoice) -> bool:
    """Whether a choice sized by brief trials might beat the best: as many of its replicas as cost
    less are tried once with more requests. Where the best breaks limits, whatever is near might."""
    (broken, goal), (others, its) = (c.rank(ask, HAIR)[:2] for c in (best, other))
    if broken > HAIR:
        return others <= broken * NEAR_BEST
    if its > goal * NEAR_BEST or not 0 < its < math.inf:
        return its <= goal
    replicas = other.sized.replicas + other.sized.prefill_replicas
    fewer = math.ceil(goal / its * replicas - 1e-9) - 1
    kind = other.sized.kind
    return fewer > 0 and suffices(kind, load, ask.slo, ask.engine.max_utilisation, FULL, fewer)


def ranked(ask: PlanRequest, choices: list[SizedChoice]) -> list[SizedChoice]:
    """Best first. Where nothing meets the limits, a hair nearer is worth no larger fleet."""
    least = min((choice.broken(ask) for choice in choices), default=1.0)
    near = HAIR * least if least > 1 else 1.0
    return sorted(choices, key=lambda choice: choice.rank(ask, near))


def with_capacity(ask: PlanRequest, load: Load, choice: SizedChoice, requests: int) -> SizedChoice:
    """The choice with the load that its fleet bears within every limit."""
    most = borne(choice.sized, load, ask.engine.max_utilisation, requests)
    return replace(choice, sized=replace(choice.sized, capacity=most))


def _leads(question: CapacityQuestion, found: Search, rejected: Counter[str]) -> Iterator[Lead]:
    ask, load = question.request, question.load
    engine = engine_of(ask.engine.stack)
    layouts = {"auto": (MIXED, SPLIT), "off": (MIXED,), "only": (SPLIT,)}[
        ask.choices.disaggregation
    ]
    for row in found.rows:
        for layout in layouts:
            replicas = _fewest(ask, load, row, layout)
            reason = "" if replicas else (
                "does not hold the model and requests of this length, or cannot keep up with "
                "prompts"
            )  # fmt: skip
            if reason := reason or _unlaunchable(engine, row, layout):
                rejected[reason] += 1
                continue
            gpus = replicas * row.gpus_per_replica
            accelerator = row.resolved.machine.accelerator
            price = question.prices[accelerator.name]
            goal = {
                "cost": gpus * price.usd_per_hour,
                "gpus": float(gpus),
                "energy": gpus * (accelerator.tdp_watts or math.inf),
            }[ask.money.objective]
            yield Lead(
                row=row, layout=layout, price=price, gpus=gpus,
                stock=(question.stock or {}).get(accelerator.name, 0),
                goal=math.inf if math.isnan(goal) else goal,
                least=float(row.bounds.least[row.layout]),
            )  # fmt: skip


def _fewest(ask: PlanRequest, load: Load, row: Configuration, layout: str) -> int:
    """Replicas that bounds ask for; 0 where it serves nothing."""
    i, bounds = row.layout, row.bounds
    rate = float((bounds.rate if layout == MIXED else bounds.decode_rate)[i])
    prompts = float(bounds.prefill_rate[i])
    if not rate or not prompts:
        return 0
    if load.users is not None:
        together = rate * load.think_seconds + float(bounds.batch[i]) + 1
        decode = math.ceil(load.users / together)
        pool = max(math.ceil(decode * rate / prompts), 1)
    else:
        decode = math.ceil(load.requests_per_s / (rate * ask.engine.max_utilisation) - 1e-9)
        pool = math.ceil(load.requests_per_s / (prompts * ask.engine.max_utilisation) - 1e-9)
    return max(decode, 1) + (max(pool, 1) if layout == SPLIT else 0)


def _unlaunchable(engine: EngineVersion | None, row: Configuration, layout: str) -> str:
    """Why the stack's engine cannot start it, "" if it can, or if no table speaks of the stack."""
    if engine is None:
        return ""
    wanted = ReplicaKind(
        model=row.resolved.model, kv_dtype=row.replica.layout.kv_dtype, pp=row.pp, tp=row.tp,
        ep=row.ep, attention_dp=row.attention_dp, split=layout == SPLIT, draft=row.spec.draft,
    )  # fmt: skip
    return refusal(engine, wanted)


def _simulated(ask: PlanRequest, load: Load, lead: Lead, kind: Kind, near: int) -> SizedChoice:
    sized = size(kind, load, ask.slo, ask.engine.max_utilisation, BRIEF, near=near)
    return SizedChoice(row=lead.row, sized=sized, layout=lead.layout, price=lead.price,
                  stock=lead.stock)  # fmt: skip


def _sized(ask: PlanRequest, load: Load, choice: SizedChoice) -> SizedChoice:
    """A choice sized with `FULL` requests, beginning at the replicas that few requests took."""
    near = choice.sized.replicas
    kind = replace(choice.sized.kind, careful=True)
    sized = size(kind, load, ask.slo, ask.engine.max_utilisation, FULL, near=near, draws=DRAWS)
    return replace(choice, sized=sized)
