"""The question, as asked, and what its names stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from magicplan import hardware_specs, model_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.transfer import EXPERT_SPREAD, calibration_for, widened
from magicplan.model_specs.shape import ModelShape
from magicplan.prediction.draft_names import acceptance_of, draft_notes, draft_of
from magicplan.prediction.request import Counts, Request
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, BYTES_PER_WEIGHT, Array, Deployment
from magicplan.roofline.drafts import Draft
from magicplan.roofline.timing import Machine

MAX_BATCH = 2.0**20


MAX_TOKENS = 2.0**30


MAX_GAMMA = 64


BATCHINGS = ("continuous", "static")


TREE_RANKS = ("pooled", "raw", "power-law")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resolved:
    """The same question with every name looked up and every number checked."""

    request: Request
    machine: Machine
    model: ModelShape
    batch: Array
    """[batch, 1] sequences of the whole deployment."""
    ctx: Array
    """[1, ctx] tokens at the middle of the output."""
    final_ctx: Array
    """[1, ctx] tokens at the end of the output: what memory must hold."""
    layout: Deployment
    """Formats and fixed degrees; tensor parallel degree and replicas are still to be chosen."""
    draft: Draft | None
    acceptance: Acceptance
    max_gamma: int
    scalar: bool
    notes: tuple[str, ...]


def resolve(ask: Request) -> Resolved:
    """Look up and check everything. Raises UsageError with one sentence."""
    accelerator, alias_note = hardware_specs.resolve(ask.gpu)
    model = model_specs.load(ask.model)
    calibration, basis = calibration_for(accelerator, ask.stack)
    if model.experts:
        calibration = widened(calibration, EXPERT_SPREAD, "mixtures of experts")
    machine = Machine(accelerator=accelerator, calibration=calibration, eager=bool(ask.eager))
    batch = counts("--batch", ask.batch, MAX_BATCH)
    ctx = counts("--ctx", ask.ctx, MAX_TOKENS)
    output = _number("--output", ask.output, low=0, high=MAX_TOKENS)
    _number("--memory-fraction", ask.memory_fraction, low=0.01, high=1)
    if ask.verify_kv_passes != "auto":
        _number("--verify-kv-passes", ask.verify_kv_passes, low=1, high=MAX_GAMMA + 1)
    _choice("--batching", ask.batching, BATCHINGS)
    _choice("--tree-ranks", ask.tree_ranks, TREE_RANKS)
    if ask.batching == "static" and not output:
        raise UsageError("--batching static needs --output: a batch lasts as long as its outputs")
    layout, dtype_note = _formats(ask, machine, model)
    draft = draft_of(ask, model)
    max_gamma = _max_gamma(ask)
    notes = [alias_note, basis, dtype_note, *_model_notes(model, ctx, output)]
    notes += draft_notes(ask, model, draft, ctx, output)
    notes += _provisional(machine)
    return Resolved(
        request=ask,
        machine=machine,
        model=model,
        batch=batch[:, None],
        ctx=ctx[None, :] + output / 2,
        final_ctx=ctx[None, :] + output,
        layout=layout,
        draft=draft,
        acceptance=acceptance_of(ask, model, draft, ctx),
        max_gamma=max_gamma,
        scalar=np.ndim(ask.batch) == 0 and np.ndim(ask.ctx) == 0,
        notes=tuple(note for note in notes if note),
    )


def passes_of(asked: float | str) -> float | None:
    """KV passes of a verification that were asked for; None where the calibration knows."""
    return None if asked == "auto" else float(asked)


def counts(option: str, value: Counts, high: float) -> Array:
    """A one-dimensional float64 array of whole numbers in [1, high]."""
    try:
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise UsageError(f"{option} {value!r} is not a number or a list of numbers") from None
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{option} is empty or nested: expected a number or a flat list")
    good = (array >= 1) & (array <= high) & (array == np.floor(array))
    if not good.all():
        worst = array[~good][0]
        raise UsageError(f"{option} {worst:g}: expected whole numbers from 1 to {high:.0f}")
    return array


def _number(option: str, value: Any, *, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise UsageError(f"{option} {value}: expected a number from {low:g} to {high:g}")
    return number


def _choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value}: expected {' or '.join(known)}")


def _whole(option: str, value: Any, *, low: int, high: int) -> int:
    number = _number(option, value, low=low, high=high)
    if number != int(number):
        raise UsageError(f"{option} {value}: expected a whole number")
    return int(number)


def _max_gamma(ask: Request) -> int:
    longest = _whole("--max-gamma", ask.max_gamma, low=0, high=MAX_GAMMA)
    if ask.gamma == "auto":
        return longest
    return max(longest, _whole("--gamma", ask.gamma, low=0, high=MAX_GAMMA))


def _formats(ask: Request, machine: Machine, model: ModelShape) -> tuple[Deployment, str]:
    """Number formats; a part without bf16 computes in fp16, and says so."""
    a = machine.accelerator
    dtype, kv_dtype = ask.dtype or a.math_dtype, ask.kv_dtype or a.math_dtype
    for option, name, known in (
        ("--dtype", dtype, BYTES_PER_WEIGHT),
        ("--kv-dtype", kv_dtype, BYTES_PER_KV_NUMBER),
    ):
        if name not in known:
            raise UsageError(f"{option} {name}: expected one of {', '.join(known)}")
    math_dtype = a.math_dtype if dtype == "int4" else dtype
    if math_dtype not in a.dense_flops_per_s:
        can = [d for d in BYTES_PER_WEIGHT if d in a.dense_flops_per_s or d == "int4"]
        raise UsageError(f"{a.name} has no {dtype} math; --dtype can be {', '.join(can)}")
    _whole("--ep", ask.ep, low=1, high=4096)
    _whole("--attention-dp", ask.attention_dp, low=1, high=1024)
    _check_expert_layout(ask, model)
    said = "" if a.math_dtype == "bf16" or ask.dtype else f"{a.name} has no bf16: fp16 instead"
    return (
        Deployment(
            dtype=dtype,
            kv_dtype=kv_dtype,
            math_dtype=math_dtype,
            ep=float(ask.ep),
            attention_dp=float(ask.attention_dp),
        ),
        said,
    )


def _check_expert_layout(ask: Request, model: ModelShape) -> None:
    if ask.ep > 1 and (model.experts is None or model.experts.count % ask.ep):
        count = model.experts.count if model.experts else 0
        raise UsageError(
            f"--ep {ask.ep} does not divide the {count} experts of {model.name}"
            if count
            else f"--ep {ask.ep}: {model.name} has no experts; leave it at 1"
        )
    if ask.attention_dp > 1 and model.experts is None and model.latent is None:
        raise UsageError(
            f"--attention-dp {ask.attention_dp}: {model.name} has neither experts nor latent "
            "attention; use replicas (--gpus) instead"
        )


def _model_notes(model: ModelShape, ctx: Array, output: float) -> list[str]:
    notes = list(model.notes)
    longest = float(ctx.max()) + output
    if longest > model.max_ctx_tokens:
        notes.append(
            f"warning: {longest:.0f} tokens exceed the {model.max_ctx_tokens} that "
            f"{model.name} was made for"
        )
    if output:
        notes.append(
            f"times are those at the middle of {output:.0f} output tokens, within 1 % of their "
            "mean; memory holds the end"
        )
    return notes


def _provisional(machine: Machine) -> list[str]:
    fields = machine.accelerator.provisional
    if not fields:
        return []
    return [f"provisional datasheet figures of {machine.accelerator.name}: {', '.join(fields)}"]
