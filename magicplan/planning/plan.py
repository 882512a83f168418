"""`plan`: traffic, lengths and latency limits in; the fleet to buy and how to launch it out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.observed.observe import observe
from magicplan.planning.advice import advice
from magicplan.planning.candidates import (
    SPLIT,
    Choice,
    candidate,
    choices_of,
    explained,
    ranked,
    step_of,
)
from magicplan.planning.intervals import candidate_ends, intervals, with_ends
from magicplan.planning.launch import launch_commands
from magicplan.planning.mixed_fleet import with_mix
from magicplan.planning.plan_file import read_plan
from magicplan.planning.prices import prices_for
from magicplan.planning.request import PlanRequest, checked, request_from
from magicplan.planning.result import (
    Candidate,
    Interval,
    Plan,
    PriceUsed,
    Roofline,
    RooflineOp,
    Searched,
)
from magicplan.planning.schedule import curves, grid_prediction, planned_of, schedule_of
from magicplan.planning.search import fleet
from magicplan.planning.sensitivity import sensitivities
from magicplan.planning.sizing import HAIR
from magicplan.planning.trees import trees_left_out
from magicplan.roofline.timing import op_seconds
from magicplan.serving.load import Load, arrivals_of, load_of, traffic_used

WRITTEN_OUT = 120
"""Candidates that the result describes; the best of every GPU type is always among them."""


def plan(
    request: PlanRequest | Path | str | None = None,
    *,
    observed: Path | str | None = None,
    stated: Mapping[str, float] | None = None,
    **options: Any,
) -> Plan:
    """The cheapest fleet that serves a workload within its limits, and why the others lose.

    Takes a `PlanRequest`, the path of a plan file with fields that win over its own, or fields
    alone: `plan(model="llama-3.1-70b", requests_per_s=5, prompt=8192, output=400,
    slo={"ttft_p95_seconds": 2, "tpot_p95_seconds": 0.05})`. Where nothing meets the limits, the
    answer says so (`feasible`) and shows the nearest. `observed` is the result file of a benchmark
    to lay beside, `stated` what that leaves out (see `with_observed`). Raises UsageError for names,
    numbers and options that make no sense, SpecError for files.
    """
    if stated is not None and observed is None:
        raise UsageError("stated goes with observed")
    ask = _asked(request, options)
    started = time.perf_counter()
    load = load_of(ask)
    named = {hardware_specs.load(name).name: name for name in reversed(ask.gpus)}
    ask = replace(ask, gpus=tuple(n for n in ask.gpus if n in named.values()))  # aliases once
    gpus = [hardware_specs.load(name) for name in ask.gpus]
    prices = prices_for(gpus, ask.prices, needed=ask.objective == "cost")
    if ask.objective == "energy" and not any(gpu.tdp_watts for gpu in gpus):
        raise UsageError(
            f"objective energy: no TDP is known of {', '.join(gpu.name for gpu in gpus)}; expected "
            "a GPU with one, or objective cost or gpus"
        )
    found = fleet(ask, load)
    rejected = Counter(found.rejected)
    choices = ranked(ask, choices_of(ask, load, found, prices, rejected))
    if not choices:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
        raise UsageError(f"no GPU given can serve {ask.model} for this workload: {reasons}")
    shown = _shown(choices)
    ends = candidate_ends(ask, load, found, shown)
    candidates = [
        with_ends(ask, candidate(ask, load, choice), both)
        for choice, both in zip(shown, ends, strict=True)
    ]
    best = candidates[0]
    candidates = [best, *(explained(best, other, ask.objective) for other in candidates[1:])]
    seconds = time.perf_counter() - started
    searched = Searched(configurations=len(found.rows), cells=found.cells, seconds=seconds)
    sure = intervals(ask, load, shown[0], best, ends[0])
    reachable = {key: min(float(c.sized.figures[key][c.index]) for c in choices) for key in ask.slo}
    found_plan = replace(
        _answer(ask, load, shown[0], candidates, rejected, searched, prices, sure),
        reachable=reachable, verdict=_verdict(ask, best, sure, reachable),
    )  # fmt: skip
    if ask.available is not None:
        found_plan = with_mix(found_plan)
    return found_plan if observed is None else with_observed(found_plan, observed, stated)


def _asked(request: PlanRequest | Path | str | None, options: dict[str, Any]) -> PlanRequest:
    if request is None:
        return request_from(options)
    if isinstance(request, (Path, str)):
        return read_plan(request, options)
    if options:
        raise UsageError("plan takes a request or its fields, not both")
    return checked(request)


def with_observed(found: Plan, path: Path | str, stated: Mapping[str, float] | None = None) -> Plan:
    """The same plan beside a benchmark of one of its best candidate's replicas.

    `path` is a result file of vllm bench, SGLang bench_serving, AIPerf or GenAI-Perf, `stated` what
    it leaves out, such as {"prompt": 1024} (names: `observed_fields.STATABLE`).

    Name one GPU and one `tp` in the request to say which server was observed. Raises SpecError.
    """
    return replace(found, observed=observe(path, found.request, found.best, stated))


def _shown(choices: list[Choice]) -> list[Choice]:
    """The first ones, and the first of every GPU type, draft and arrangement."""
    kept: list[Choice] = []
    seen: set[tuple[str, str]] = set()
    for number, choice in enumerate(choices):
        name = choice.row.resolved.machine.accelerator.name
        keys = {("gpu", name), ("draft", choice.row.draft), ("layout", choice.layout)}
        if number < WRITTEN_OUT or keys - seen:
            kept.append(choice)
        seen |= keys
    return kept


def _answer(
    ask: PlanRequest,
    load: Load,
    choice: Choice,
    candidates: list[Candidate],
    rejected: Counter[str],
    searched: Searched,
    prices: dict[str, PriceUsed],
    sure: tuple[Interval, ...],
) -> Plan:
    best = candidates[0]
    model = choice.row.resolved.model
    planned = planned_of(choice, best)
    grid = grid_prediction(ask, choice, best, planned)
    longest = int((load.lengths.prompt + load.lengths.output).max())
    rate = float(choice.sized.state.rate[choice.index, 0]) * best.replicas
    peak = load.requests_per_s if load.users is None else rate
    return Plan(
        name=ask.name or f"{model.name} plan",
        model=model.name,
        parameters=model.parameters,
        feasible=best.meets,
        verdict="",
        traffic=traffic_used(load, peak),
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
        prices=tuple(prices.values()),
        advice=advice(ask, best, sure),
        assumptions=_assumptions(ask, load, choice, longest),
        calibration_basis=choice.row.resolved.machine.calibration.origin,
        request=ask,
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


def _verdict(
    ask: PlanRequest, best: Candidate, sure: tuple[Interval, ...], reachable: Mapping[str, float]
) -> str:
    """What to take, or what the nearest breaks; every limit with its prediction and interval."""
    of = {entry.figure: entry for entry in sure}
    limits = "".join(
        f"; {key} {of[key].value:.3g} of {limit:.3g}, 80 % {of[key].low:.3g} to {of[key].high:.3g}"
        for key, limit in ask.slo.items()
    )
    if best.meets:
        price = "" if math.isnan(best.cost_usd_per_hour) else (
            f" for {best.cost_usd_per_hour:.2f} USD an hour"
        )  # fmt: skip
        return f"{best.name}{price}{limits}"
    worst = max(best.violations, key=best.violations.__getitem__)
    least = reachable.get(worst, 0.0)
    reach = (
        f", which nothing searched brings below {least:.3g}, nor more replicas by more than "
        f"{HAIR - 1:.0%}"
    )
    return (
        f"nothing meets the limits; the nearest, {best.name}, breaks {worst} by "
        f"{best.violations[worst]:.2f} times"
        f"{reach if least > ask.slo.get(worst, math.inf) else ''}{limits}"
    )


def _roofline(choice: Choice) -> Roofline:
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
    others = [n for n in ask.gpus if hardware_specs.load(n).name != calibration.accelerator]
    own = ask.stack.endswith(".toml") or "/" in ask.stack
    if not own or not calibration.accelerator or not others:
        return []
    return [
        f"warning: {ask.stack} was fitted on {calibration.accelerator}; {', '.join(others)} "
        "compare with it by transfer, with wider intervals"
    ]


def _assumptions(ask: PlanRequest, load: Load, choice: Choice, longest: int) -> tuple[str, ...]:
    row, model = choice.row, choice.row.resolved.model
    lines = list(row.resolved.notes)
    if longest > model.max_ctx_tokens:
        lines.append(
            f"warning: requests of up to {longest} tokens exceed the {model.max_ctx_tokens} that "
            f"{model.name} was made for"
        )
    lines += _strangers(ask, row.resolved.machine.calibration)
    gamma, batch = int(choice.sized.state.gamma[choice.index, 0]), choice.sized.batch[choice.index]
    left_out = trees_left_out(row, gamma, float(batch))
    lines += [
        f"requests {arrivals_of(load)}; lengths: {load.source}",
        *([left_out] if left_out else []),
        f"a step feeds decode tokens first and prompt chunks up to {ask.batched_tokens} tokens "
        "behind them, as vLLM's scheduler does",
        f"replicas are loaded to at most {ask.max_utilisation:.0%} of saturation at the peak, and "
        "leave cache for 99.9 % of the time",
        "energy is not known: the GPU's datasheet states no TDP"
        if math.isnan(choice.watts)
        else "energy is an upper bound: every GPU at its TDP, host and cooling left out",
    ]
    if choice.price.indicative and not math.isnan(choice.price.usd_per_hour):
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
