"""How to launch some replicas of a candidate that is not the plan's best."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from magicplan import hardware_specs
from magicplan.planning.fleet import fleet
from magicplan.planning.launch import launch_commands
from magicplan.planning.plan_choices import choices_of
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import Candidate, Launch, PriceUsed
from magicplan.planning.plan_schedule import grid_prediction, planned_of
from magicplan.planning.traffic_load import load_of


def launch_of(ask: PlanRequest, one: Candidate, replicas: int) -> tuple[Launch, ...]:
    """One command for each engine; the candidate is a mixed one of the answer to `ask`."""
    own = replace(
        ask,
        gpus=tuple(n for n in ask.gpus if hardware_specs.load(n).name == one.gpu)[:1],
        tp=(one.tp,), pp=one.pp, ep=one.ep, attention_dp=one.attention_dp, dtypes=(one.dtype,),
        kv_dtypes=(one.kv_dtype,), drafts=(one.draft,), disaggregation="off", available=None,
    )  # fmt: skip
    load = load_of(own)
    price = PriceUsed(gpu=one.gpu, usd_per_hour=math.nan, note="", indicative=False)
    choice = choices_of(own, load, fleet(own, load), {one.gpu: price}, Counter())[0]
    planned = planned_of(choice, one)
    grid = grid_prediction(own, choice, one, planned)
    longest = int((load.lengths.prompt + load.lengths.output).max())
    bears = one.capacity_requests_per_s / one.replicas
    note = (
        f"start {replicas} of these on {one.gpu}, behind a load balancer that gives each kind of "
        f"replica requests by what it bears: {bears:.3g} a second each of these"
    )
    return tuple(
        replace(found, notes=() if found.refused else (note, *found.notes))
        for found in launch_commands(own, replace(one, replicas=1), longest, grid, planned)
    )
