"""A running server beside its prediction: what differs, the host constants that explain it, and
what to change."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from magicplan import model_specs
from magicplan.errors import SpecError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.model_specs.load import short_name
from magicplan.planning.fleet import acceptance_of
from magicplan.planning.observed_fields import ObservedRun
from magicplan.planning.observed_files import read_observed
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import Candidate, Observation, ObservedFigure
from magicplan.planning.request import Request
from magicplan.planning.serving_run import Expected, Run, expect
from magicplan.roofline.timing import Machine

LONGEST_HOST = 0.5
"""Seconds of host time a step beyond which no fit looks."""
CLOSE = 0.15
"""Relative difference that calls for no advice."""


def observe(
    path: Path, ask: PlanRequest, server: Candidate, stated: Mapping[str, float] | None = None
) -> Observation:
    """A benchmark of one replica of `server`, as the plan describes it, beside its prediction.

    `stated` adds facts that the tool does not write, such as {"prompt": 1024}. Gaps between tokens
    are left out under speculation: tools measure them between chunks, not tokens. Raises SpecError,
    also for a run of another model.
    """
    seen = read_observed(path, stated)
    same = _same_model(ask, seen)
    run = _run(ask, server, seen)
    before = expect(run)
    loaded = float(before.state.batch[0, 0]) if seen.concurrency is None else seen.concurrency
    machine = _fitted(run, before, seen)
    after = expect(run, machine)
    predicted, refitted = _figures(before), _figures(after)
    figures = tuple(
        ObservedFigure(
            figure=name,
            unit="seconds" if name.endswith("seconds") else name.rpartition("_per_")[0] + "/s",
            observed=value,
            predicted=predicted[name],
            error=predicted[name] / value - 1,
            refitted=refitted[name],
        )
        for name, value in seen.figures.items()
        if name in predicted and value > 0 and not (server.gamma and name.startswith("itl"))
    )
    return Observation(
        file=str(path),
        tool=seen.tool,
        server=server.name,
        concurrency=loaded,
        figures=figures,
        calibration_toml=calibration_toml(machine.calibration),
        advice=(*_doubts(ask, seen, same), *_advice(ask, server, seen, before, machine)),
    )


def _same_model(ask: PlanRequest, seen: ObservedRun) -> bool:
    """Whether the file names the plan's model; False where its name could stand for any, such as an
    alias or a folder. Raises SpecError for another model."""
    ours, theirs = model_specs.load(ask.model), short_name(seen.model.rstrip("/"))
    if not theirs or _letters(short_name(ours.name)) in _letters(theirs):
        return True
    a_path = seen.model[0] in "./~" or seen.model.count("/") > 1
    if theirs in model_specs.names() and not a_path:
        found = model_specs.load(theirs)
        if (found.layers, found.parameters) == (ours.layers, ours.parameters):
            return True
    elif a_path or "/" not in seen.model or ask.model not in model_specs.names():
        return False
    raise SpecError(
        seen.path,
        f"{seen.model_field} names the model {seen.model}, the plan is for {ours.name}: plan for "
        "the model that ran, by name or by its config.json",
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _run(ask: PlanRequest, server: Candidate, seen: ObservedRun) -> Run:
    draft, _, view = server.draft.partition(" ")
    question = Request(
        gpu=server.gpu, model=ask.model, tp=server.tp, pp=server.pp, ep=server.ep,
        attention_dp=server.attention_dp, dtype=_plain(server.dtype),
        kv_dtype=_plain(server.kv_dtype), stack=ask.stack, draft=draft, draft_kv=view or None,
        acceptance=acceptance_of(ask, server.draft), task=ask.task,
        max_gamma=max(ask.max_gamma, 0 if server.tree else server.gamma),
        memory_fraction=ask.memory_fraction, verify_kv_passes=ask.verify_kv_passes,
    )  # fmt: skip
    return Run(
        ask=question,
        lengths=seen.lengths,
        concurrency=seen.concurrency,
        requests_per_s=seen.requests_per_s,
        prompts=seen.prompts,
        batched_tokens=ask.batched_tokens,
        max_sequences=ask.max_sequences,
        gamma=server.gamma or None,
        depth=server.tree.depth - 1 if server.tree else None,
    )


def _plain(dtype: str) -> str | None:
    return None if dtype in ("bf16", "fp16") else dtype


def _figures(found: Expected) -> dict[str, float]:
    """Everything a tool may report of the same run."""
    figures = {
        f"{metric}_{statistic}_seconds": float(found.sampled.statistic(metric, statistic)[0])
        for metric in ("ttft", "tpot", "itl", "e2e")
        for statistic in ("mean", "p50", "p95", "p99")
    }
    decoding = found.tpot_seconds * (float(found.replica.load.lengths.output.mean()) - 1)
    return figures | {
        "ttft_mean_seconds": found.ttft_seconds,
        "tpot_mean_seconds": found.tpot_seconds,
        "e2e_mean_seconds": found.ttft_seconds + decoding,
        "requests_per_s": found.requests_per_s,
        "output_tokens_per_s": found.output_tokens_per_s,
    }


def _fitted(run: Run, before: Expected, seen: ObservedRun) -> Machine:
    """The machine whose host time a step makes the time per token agree, and whose host time a
    request makes the time to first token agree; neither below none."""
    target = "tpot_mean_seconds" if "tpot_mean_seconds" in seen.figures else "e2e_mean_seconds"
    if target not in seen.figures:
        target = "requests_per_s"
    wanted = seen.figures[target]
    low, high = 0.0, LONGEST_HOST
    for _ in range(40):
        middle = (low + high) / 2
        found = _figures(expect(run, _with_host(before, middle)))[target]
        slow = found < wanted if target == "requests_per_s" else found > wanted
        low, high = (low, middle) if slow else (middle, high)
    stepping = _with_host(before, low)
    if "ttft_mean_seconds" not in seen.figures:
        return stepping
    known = stepping.calibration.host.request_seconds
    beside = seen.figures["ttft_mean_seconds"] - expect(run, stepping).ttft_seconds
    return _with_host(before, low, max(known + beside, 0.0))


def _with_host(
    before: Expected, step_seconds: float, request_seconds: float | None = None
) -> Machine:
    machine = before.resolved.machine
    host = replace(machine.calibration.host, step_seconds=step_seconds)
    if request_seconds is not None:
        host = replace(host, request_seconds=request_seconds)
    part = machine.accelerator.name
    return Machine(
        accelerator=machine.accelerator,
        calibration=replace(
            machine.calibration,
            name=f"{machine.calibration.name} fitted on {part}",
            accelerator=part,
            host=host,
            origin=f"{machine.calibration.origin}; host times fitted to one benchmark run",
        ),
    )


def calibration_toml(calibration: Calibration) -> str:
    """The calibration as the TOML that `--stack PATH` reads."""
    lines = [
        f"{key} = {_quoted(getattr(calibration, key))}" for key in ("name", "origin", "accelerator")
    ]
    tables: list[tuple[str, object]] = [
        ("step_residual", calibration.step_residual),
        ("speedup_residual", calibration.speedup_residual),
        *((f"linear.{dtype}", fit) for dtype, fit in calibration.linear.items()),
        *((f"attention.{dtype}", fit) for dtype, fit in calibration.attention.items()),
        *((f"draft_attention.{dtype}", fit) for dtype, fit in calibration.draft_attention.items()),
        ("collective", calibration.collective),
        ("host", calibration.host),
    ]
    for name, part in tables:
        lines.append(f"\n[{name}]")
        for key, value in asdict(part).items():  # type: ignore[call-overload]
            text = _quoted(value) if isinstance(value, str) else _toml_number(value)
            lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _toml_number(value: float) -> str:
    return "inf" if math.isinf(value) else repr(float(value))


def _doubts(ask: PlanRequest, seen: ObservedRun, same: bool) -> Iterator[str]:
    """What to look at before any difference is believed."""
    if not same:
        yield f"the file calls its model {seen.model}, taken for {ask.model}: check that it is"
    if seen.failed:
        share = f" of {seen.prompts:.0f}" if seen.prompts else ""
        yield (
            f"{seen.failed:.0f}{share} requests failed: figures are of the others, under a load "
            "that fell; find the errors and run again"
        )


def _advice(
    ask: PlanRequest, server: Candidate, seen: ObservedRun, before: Expected, fitted: Machine
) -> Iterator[str]:
    """What the differences point to, and what to do about each."""
    predicted = _figures(before)
    host = before.resolved.machine.calibration.host.step_seconds
    found = fitted.calibration.host.step_seconds
    for name, cause in (
        ("tpot_mean_seconds", "decoding"), ("ttft_mean_seconds", "time to first token"),
    ):  # fmt: skip
        if name in seen.figures:
            ratio = seen.figures[name] / predicted[name]
            if ratio > 1 + CLOSE:
                yield f"{cause} takes {ratio:.2f} times the prediction: {_remedy(name, ask)}"
            elif ratio < 1 - CLOSE:
                yield (
                    f"{cause} takes {ratio:.2f} times the prediction: fewer prompts or shorter "
                    "contexts reach the engine than stated (prefix cache?), or kernels are newer"
                )
    if found > host + 2e-4:
        yield (
            f"host time of {found * 1e3:.2f} ms a step explains the run, {host * 1e3:.2f} were "
            "assumed: check that graphs are captured (no --enforce-eager), that scheduling is "
            "asynchronous, and that the CPU is not shared"
        )
    if seen.tokens_per_round and server.gamma:
        yield (
            f"{seen.tokens_per_round:.2f} tokens a round were accepted, "
            f"{server.tokens_per_round:.2f} assumed: state acceptance to match and plan again"
        )
    for key, limit in ask.slo.items():
        if key in seen.figures and seen.figures[key] > limit:
            yield (
                f"slo.{key} {limit:g} is broken by {seen.figures[key]:.3g} s as observed: plan "
                "with the fit"
            )
    if predicted["tpot_mean_seconds"] > 0 and found == 0:
        yield "the run is faster than kernels alone are predicted: calibrate this GPU's kernels"


def _remedy(name: str, ask: PlanRequest) -> str:
    if name.startswith("ttft"):
        return (
            "prompts queue; raise max_num_batched_tokens above "
            f"{ask.batched_tokens}, add replicas, or check that requests are not held at a gateway"
        )
    return "see the host time below, or a clock or power limit"
