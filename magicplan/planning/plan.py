"""`plan`: traffic, lengths and latency limits in; the fleet to buy and how to launch it out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.planning.candidates import SizedChoice, candidate, explained, step_of, trees_left_out
from magicplan.planning.choose import FINALISTS, chosen, with_capacity
from magicplan.planning.intervals import candidate_ends, intervals, with_ends
from magicplan.planning.launch import launch_commands
from magicplan.planning.mixed_fleet import with_mix
from magicplan.planning.question import CapacityQuestion, question_of, read_plan
from magicplan.planning.request import PlanRequest, request_from
from magicplan.planning.result import (
    Candidate,
    Interval,
    Plan,
    Roofline,
    RooflineOp,
    Searched,
    TrafficUsed,
)
from magicplan.planning.schedule import curves, grid_prediction, planned_of, schedule_of
from magicplan.planning.search import fleet
from magicplan.planning.sensitivity import sensitivities
from magicplan.planning.sizing import BRIEF, FULL, SPLIT
from magicplan.planning.verdict import advice, plan_verdict
from magicplan.roofline.timing import op_seconds
from magicplan.serving.load import Load, arrivals_of

WITH_ENDS = 3
"""Candidates, the best first, whose latencies carry intervals."""


def plan(asked: CapacityQuestion | PlanRequest | Path | str | None = None, **options: Any) -> Plan:
    """The cheapest fleet that serves a workload within its limits, and why the others lose.

    Takes a question from `read_plan`, a `PlanRequest`, the path of a plan file with fields that win
    over its own, or fields alone. Where nothing meets the limits, the answer says so (`feasible`)
    and shows the nearest. Raises UsageError for names, numbers and options that make no sense,
    SpecError for files.
    """
    question = _question(asked, options)
    ask, load = question.request, question.load
    started = time.perf_counter()
    found = fleet(ask, load)
    rejected = Counter(found.rejected)
    choices = chosen(question, found, rejected)
    if not choices:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
        raise UsageError(f"no GPU given can serve {ask.model} for this workload: {reasons}")
    best_choice = with_capacity(ask, load, choices[0], FULL)
    near = [with_capacity(ask, load, choice, BRIEF) for choice in choices[1:FINALISTS]]
    shown = [best_choice, *near, *choices[FINALISTS:]]
    candidates = [candidate(ask, load, choice) for choice in shown]
    for place, ends in enumerate(candidate_ends(load, shown[:WITH_ENDS])):
        candidates[place] = with_ends(ask, shown[place], candidates[place], ends)
    best = candidates[0]
    candidates = [best, *(explained(best, other, ask.money.objective) for other in candidates[1:])]
    sure = intervals(ask, load, best_choice, best)
    seconds = time.perf_counter() - started
    searched = Searched(configurations=len(found.rows), cells=found.cells, seconds=seconds)
    reachable = {key: min(c.sized.figure(key) for c in choices) for key in ask.slo}
    found_plan = replace(
        _answer(question, best_choice, candidates, rejected, searched, sure),
        reachable=reachable, verdict=plan_verdict(best, ask.slo, sure, reachable),
    )  # fmt: skip
    return found_plan if ask.money.available is None else with_mix(found_plan)


def _question(
    asked: CapacityQuestion | PlanRequest | Path | str | None, options: dict[str, Any]
) -> CapacityQuestion:
    """The question, whichever way it was asked."""
    if asked is None:
        return question_of(request_from(options))
    if isinstance(asked, (Path, str)):
        return read_plan(asked, options)
    if options:
        raise UsageError("plan takes a question or its fields, not both")
    return asked if isinstance(asked, CapacityQuestion) else question_of(asked)


def _answer(
    question: CapacityQuestion,
    choice: SizedChoice,
    candidates: list[Candidate],
    rejected: Counter[str],
    searched: Searched,
    sure: tuple[Interval, ...],
) -> Plan:
    ask, load, best = question.request, question.load, candidates[0]
    model = choice.row.resolved.model
    planned = planned_of(choice, best)
    grid = grid_prediction(ask, choice, best, planned)
    longest = int((load.lengths.prompt + load.lengths.output).max())
    rate = choice.sized.trial.rate * best.replicas
    peak = load.requests_per_s if load.users is None else rate
    return Plan(
        name=ask.name or f"{model.name} plan",
        model=model.name,
        parameters=model.parameters,
        feasible=best.meets,
        verdict="",
        traffic=_traffic_used(load, peak),
        slo=dict(ask.slo),
        best=best,
        candidates=tuple(candidates),
        pareto_cost_latency=pareto(candidates, lambda c: c.usd_per_million_tokens),
        pareto_throughput_latency=pareto(candidates, lambda c: -c.tokens_per_s_per_gpu),
        rejected=dict(rejected.most_common()),
        searched=searched,
        sensitivity=sensitivities(ask, load, choice),
        schedule=schedule_of(grid, choice, best, planned) if grid else None,
        launch=launch_commands(ask, best, longest, grid, planned),
        roofline=_roofline(choice),
        curves=curves(choice, best),
        intervals=sure,
        prices=tuple(question.prices.values()),
        advice=advice(ask, best, sure),
        assumptions=_assumptions(ask, load, choice, longest),
        calibration_basis=choice.row.resolved.machine.calibration.origin,
        question=question,
    )


def _traffic_used(load: Load, peak_rate: float) -> TrafficUsed:
    """The workload as the result states it."""
    prompt, output = load.lengths.prompt, load.lengths.output
    return TrafficUsed(
        mean_requests_per_s=peak_rate / load.peak_over_mean,
        peak_requests_per_s=peak_rate,
        prompt_mean_tokens=float(prompt.mean()),
        prompt_p50_tokens=float(np.percentile(prompt, 50)),
        prompt_p95_tokens=float(np.percentile(prompt, 95)),
        output_mean_tokens=float(output.mean()),
        output_p50_tokens=float(np.percentile(output, 50)),
        output_p95_tokens=float(np.percentile(output, 95)),
        prefix_hit_rate=load.prefix_hit_rate,
        arrival_cv2=load.arrival_cv2,
        source=load.source,
    )


def pareto(candidates: Sequence[Candidate], cost: Any) -> tuple[int, ...]:
    """Indices that nothing beats in both `cost` and p95 time per token, the fastest last; over
    those that meet the limits, or over all where none does."""
    able = [i for i, c in enumerate(candidates) if c.meets] or list(range(len(candidates)))
    ranked = sorted(able, key=lambda i: (cost(candidates[i]), _tpot(candidates[i])))
    front, fastest = [], math.inf
    for i in ranked:
        if not math.isnan(cost(candidates[i])) and _tpot(candidates[i]) < fastest:
            front.append(i)
            fastest = _tpot(candidates[i])
    return tuple(front)


def _tpot(c: Candidate) -> float:
    return c.latency.tpot.p95_seconds


def _roofline(choice: SizedChoice) -> Roofline:
    machine = choice.row.resolved.machine
    _, ops, _ = step_of(choice)

    def total(value: Any, count: Any) -> float:
        return float(np.max(np.asarray(value) * np.asarray(count)))

    return Roofline(
        memory_bytes_per_s=machine.bytes_per_s,
        flops_per_s=dict(machine.accelerator.dense_flops_per_s),
        ops=tuple(
            RooflineOp(
                name=op.name,
                kind=op.kind,
                dtype=op.dtype,
                flops=total(op.flops, op.count),
                bytes=total(op.bytes, op.count),
                seconds=total(op_seconds(op, machine), op.count),
            )
            for op in ops
            if op.kind != "collective"  # moves nothing through the GPU's own memory
        ),
    )


def _strangers(ask: PlanRequest, calibration: Calibration) -> list[str]:
    """GPUs that a calibration of the user's own was not fitted on, though they are compared."""
    others = [n for n in ask.choices.gpus if hardware_specs.load(n).name != calibration.accelerator]
    own = ask.engine.stack.endswith(".toml") or "/" in ask.engine.stack
    if not own or not calibration.accelerator or not others:
        return []
    return [
        f"warning: {ask.engine.stack} was fitted on {calibration.accelerator}; {', '.join(others)} "
        "compare with it by transfer, with wider intervals"
    ]


def _assumptions(
    ask: PlanRequest, load: Load, choice: SizedChoice, longest: int
) -> tuple[str, ...]:
    row, model = choice.row, choice.row.resolved.model
    lines = list(row.resolved.notes)
    if longest > model.max_ctx_tokens:
        lines.append(
            f"warning: requests of up to {longest} tokens exceed the {model.max_ctx_tokens} that "
            f"{model.name} was made for"
        )
    if not ask.slo:
        lines.append(
            "warning: no limit was given, so latency decides nothing; state one, such as ttft_p95 "
            "of 1 s or tpot_p95 of 50 ms, with slo"
        )
    lines += _strangers(ask, row.resolved.machine.calibration)
    gamma, batch = choice.sized.kind.gamma, choice.sized.batch
    left_out = trees_left_out(row, gamma, float(batch))
    lines += [
        f"requests {arrivals_of(load)}; lengths: {load.source}",
        *([left_out] if left_out else []),
        f"a step feeds decode tokens first and prompt chunks up to "
        f"{ask.engine.batched_tokens} tokens behind them, as vLLM's scheduler does",
        f"replicas are loaded to at most {ask.engine.max_utilisation:.0%} of saturation at the "
        "peak",
        "latencies are of a simulation of one replica's share of the requests, spread at random",
        "energy is not known: the GPU's datasheet states no TDP"
        if math.isnan(choice.watts)
        else "energy is an upper bound: every GPU at its TDP, host and cooling left out",
    ]
    if math.isnan(choice.price.usd_per_hour):
        lines.append(
            f"no on-demand price ships for {choice.price.gpu}: planned by GPU count; state prices "
            "to plan by cost"
        )
    elif choice.price.indicative:
        lines.append(f"price indicative: {choice.price.note}; state your own with prices")
    if row.spec.acceptance is not None:
        lines.append(f"acceptance: {row.spec.acceptance.origin}")
    if load.shared_prefix_tokens:
        lines.append("the shared prefix is held once a replica, and read once a step (cascade)")
    elif load.prefix_hit_rate:
        lines.append("prefix hits save prompt computation; cache is counted as if none were shared")
    if choice.layout == SPLIT:
        lines.append("caches move from prefill to decode replicas at each GPU's PCIe rate")
    return tuple(lines)
