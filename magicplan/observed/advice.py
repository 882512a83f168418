"""What to look at in a benchmark run, and what its differences from the prediction point to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from magicplan import model_specs
from magicplan.errors import SpecError
from magicplan.model_specs.load import short_name
from magicplan.observed.run import ObservedRun
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Candidate
from magicplan.roofline.timing import Machine
from magicplan.serving.benchmark_run import Expected

CLOSE = 0.15
"""Relative difference that calls for no advice."""


STACKS = ("vllm", "sglang", "trtllm", "magicdec")
"""What a plan's stack may be by name; `ideal` and a calibration's path stand for any."""


def refuse_others(ask: PlanRequest, server: Candidate, seen: ObservedRun) -> None:
    """Raises SpecError for a run of another model or stack, or of speculation that the plan has
    not: no difference from it would mean anything, and no constant fitted to it."""
    _names_the_model(ask, seen)
    ours = ask.engine.stack.partition("@")[0]
    if seen.engine and ours in STACKS and seen.engine != ours:
        known = f"plan with --stack {seen.engine}"
        if seen.engine not in STACKS:
            known = f"no stack here is {seen.engine}, so plan with --stack ideal"
        told = f"backend is {seen.backend}" if seen.backend else f"{seen.tool} runs {seen.engine}"
        raise SpecError(seen.path, f"{told}, the plan is for {ours}: {known}")
    if (seen.tokens_per_round or 1.0) > 1 and not server.gamma:
        raise SpecError(
            seen.path,
            f"{seen.round_field} is {seen.tokens_per_round:g}, so the server speculated, which "
            f"{server.name} does not: plan with the draft that ran, such as --draft eagle3, and "
            "its --acceptance",
        )


def _names_the_model(ask: PlanRequest, seen: ObservedRun) -> bool:
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


def doubts(
    ask: PlanRequest, server: Candidate, seen: ObservedRun, before: Expected
) -> Iterator[str]:
    """What to look at before any difference is believed."""
    if not _names_the_model(ask, seen):
        yield f"the file calls its model {seen.model}, taken for {ask.model}: check that it is"
    ours = ask.engine.stack.partition("@")[0]
    if ours in STACKS and not seen.engine and seen.backend != ours:
        told = f"backend {seen.backend} is" if seen.backend else f"{seen.tool} writes only"
        yield (
            f"{told} the client's protocol and not which engine served, taken for {ours}: check "
            "that it is"
        )
    if server.gamma and not seen.tokens_per_round:
        yield (
            f"the file has no accept length, {server.name} emits {server.tokens_per_round:.2f} "
            "tokens a round: check that the server speculated, or plan with --draft none"
        )
    longest = float((seen.lengths.prompt + seen.lengths.output).max())
    model = model_specs.load(ask.model)
    if longest > model.max_ctx_tokens:
        yield (
            f"requests of {longest:.0f} tokens exceed the {model.max_ctx_tokens} that {model.name} "
            "was made for"
        )
    if before.users is not None and seen.requests_per_s:
        told = (
            "which held requests back"
            if before.users == seen.concurrency
            else ("so that the queue grew, and latencies with it")
        )
        yield (
            f"{seen.requests_per_s:g} requests a second are more than the "
            f"{before.requests_per_s:.3g} that {before.users:g} in flight are predicted to make, "
            f"{told}"
        )
    if seen.failed:
        share = f" of {seen.prompts:.0f}" if seen.prompts else ""
        yield (
            f"{seen.failed:.0f}{share} requests failed: the figures are of the others, under "
            "a load that fell; find the errors and run again"
        )
    yield from seen.doubts


def advice(
    ask: PlanRequest,
    server: Candidate,
    seen: ObservedRun,
    before: Expected,
    fitted: Machine,
    accepted: str,
) -> Iterator[str]:
    """What the differences point to, and what to do about each. `accepted` is the acceptance that
    the run had, "" where that is not known."""
    predicted = before.figures()
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
    if accepted:
        yield (
            f"{seen.tokens_per_round:.2f} tokens a round were accepted, "
            f"{server.tokens_per_round:.2f} assumed: plan again with --acceptance {accepted}"
        )
    for key, limit in ask.slo.items():
        if key in seen.figures and seen.figures[key] > limit:
            yield (
                f"slo.{key} {limit:g} is broken by {seen.figures[key]:.3g} s as observed: plan "
                "with the fit"
            )
    if predicted["tpot_mean_seconds"] > 0 and found == 0:
        yield "the run is faster than the predicted kernels alone: calibrate this GPU's kernels"


def _remedy(name: str, ask: PlanRequest) -> str:
    if name.startswith("ttft"):
        return (
            "prompts queue; raise max_num_batched_tokens above "
            f"{ask.engine.batched_tokens}, add replicas, or check that requests are not held at a "
            "gateway"
        )
    return "see the host time below, or a clock or power limit"
