"""A question about decoding resolved: its names looked up, its numbers checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magicplan import hardware_specs, model_specs
from magicplan.acceptance_specs.tasks import checked
from magicplan.errors import FieldError
from magicplan.fields import number, one_of, refuse, whole
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.layer_fits import basis
from magicplan.hardware_specs.transfer import EXPERT_SPREAD, calibration_for, widened
from magicplan.model_specs.formats import COMMON
from magicplan.model_specs.formats import named as formats_named
from magicplan.model_specs.layers import Recurrent
from magicplan.model_specs.shape import ModelShape
from magicplan.prediction.draft_names import acceptance_of, draft_notes, draft_of
from magicplan.prediction.request import MOST_GAMMA, Counts, Request
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
    """A question with every name looked up and every number checked."""

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
    named = model_specs.resolve(ask.model)
    model = named.shape
    if named.format and model.formats.dtype != COMMON.get(named.format, named.format):
        model = replace(model, formats=formats_named(named.format))
    calibration, basis = calibration_for(accelerator, ask.stack)
    if model.experts:
        if calibration.experts_residual:
            calibration = calibration.for_experts()
        else:
            calibration = widened(calibration, EXPERT_SPREAD, "mixtures of experts")
    machine = Machine(accelerator=accelerator, calibration=calibration, eager=bool(ask.eager))
    batch = counts("batch", ask.batch, MAX_BATCH)
    ctx = counts("ctx", ask.ctx, MAX_TOKENS)
    output = number("output", ask.output, low=0, high=MAX_TOKENS)
    number("memory_fraction", ask.memory_fraction, low=0.01, high=1)
    if ask.verify_kv_passes != "auto":
        number("verify_kv_passes", ask.verify_kv_passes, low=1, high=MAX_GAMMA + 1)
    one_of("batching", ask.batching, BATCHINGS)
    one_of("tree_ranks", ask.tree_ranks, TREE_RANKS)
    if ask.batching == "static" and not output:
        raise FieldError("batching", "static needs $output: a batch lasts as long as its outputs")
    if ask.task is not None:
        checked(ask.task)
    refuse_stack(accelerator, ask.stack)
    layout, dtype_note = _formats(ask, machine, model)
    draft = draft_of(ask, model)
    acceptance = acceptance_of(ask, model, draft, ctx)
    max_gamma = _max_gamma(ask, acceptance)
    notes = [alias_note, named.note, basis, dtype_note, *_model_notes(model, ctx, output)]
    notes += _layer_notes(machine, model, ask.stack)
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
        acceptance=acceptance,
        max_gamma=max_gamma,
        scalar=np.ndim(ask.batch) == 0 and np.ndim(ask.ctx) == 0,
        notes=tuple(note for note in notes if note),
    )


def passes_of(asked: float | str) -> float | None:
    """KV passes of a verification that were asked for; None where the calibration knows."""
    return None if asked == "auto" else float(asked)


def counts(field: str, value: Counts, high: float) -> Array:
    """A one-dimensional float64 array of whole numbers in [1, high]. Raises FieldError."""
    try:
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        refuse(field, value, "a number or a list of numbers")
    if array.ndim != 1 or array.size == 0:
        raise FieldError(field, "is empty or nested: expected a number or a flat list")
    good = (array >= 1) & (array <= high) & (array == np.floor(array))
    if not good.all():
        worst = f"{array[~good][0]:g}"
        raise FieldError(field, f"{worst}: expected whole numbers from 1 to {high:.0f}")
    return array


def _max_gamma(ask: Request, acceptance: Acceptance) -> int:
    """The longest draft length asked about: none beyond those measured is chosen, but one that is
    named is answered."""
    longest = whole("max_gamma", ask.max_gamma, low=0, high=MAX_GAMMA)
    if ask.gamma == "auto":
        return acceptance.longest(longest)
    gamma = whole("gamma", ask.gamma, low=0, high=MAX_GAMMA)
    if gamma and ask.draft == "none":
        raise FieldError("gamma", f"{gamma}: $draft none drafts nothing; name a draft, or leave it")
    if gamma > longest != MOST_GAMMA:
        raise FieldError(
            "gamma", f"{gamma} is more than $max_gamma {longest}; leave one of them out"
        )
    return max(longest, gamma)


def refuse_stack(accelerator: Accelerator, stack: str) -> None:
    """Raises FieldError for a stack that does not exist for a vendor's parts."""
    name = stack.partition("@")[0]
    if name == "trtllm" and accelerator.vendor not in ("NVIDIA", "unknown"):
        raise FieldError(
            "stack",
            f"{stack}: TensorRT-LLM runs on NVIDIA GPUs only, and {accelerator.name} is of "
            f"{accelerator.vendor}; expected vllm or sglang",
        )


def _formats(ask: Request, machine: Machine, model: ModelShape) -> tuple[Deployment, str]:
    """Number formats; a part without bf16 computes in fp16, and says so."""
    a, native = machine.accelerator, None
    dtype, kv_dtype = (None if said == "auto" else said for said in (ask.dtype, ask.kv_dtype))
    if dtype is None and not model.formats.plain:
        native = model.formats.on(frozenset(a.dense_flops_per_s), a.math_dtype)
    if kv_dtype is None and ask.dtype in (None, "auto") and model.formats.kv.name == "fp8":
        kv_dtype = "fp8"
    dtype = dtype or (native.dtype if native else a.math_dtype)
    kv_dtype = kv_dtype or a.math_dtype
    one_of("dtype", dtype, BYTES_PER_WEIGHT)
    one_of("kv_dtype", kv_dtype, BYTES_PER_KV_NUMBER)
    math_dtype = a.math_dtype if native or dtype == "int4" else dtype
    if math_dtype not in a.dense_flops_per_s:
        can = [d for d in BYTES_PER_WEIGHT if d in a.dense_flops_per_s or d == "int4"]
        raise FieldError("dtype", f": {a.name} has no {dtype} math; it can be {', '.join(can)}")
    whole("ep", ask.ep, low=1, high=4096)
    whole("attention_dp", ask.attention_dp, low=1, high=1024)
    _check_expert_layout(ask, model)
    said = "" if a.math_dtype == "bf16" or ask.dtype else f"{a.name} has no bf16: fp16 instead"
    if native:
        said = _published_formats(model)
    return (
        Deployment(
            dtype=dtype,
            kv_dtype=kv_dtype,
            math_dtype=math_dtype,
            ep=float(ask.ep),
            attention_dp=float(ask.attention_dp),
            formats=native,
        ),
        said,
    )


def _layer_notes(machine: Machine, model: ModelShape, stack: str) -> list[str]:
    """What the times of recurrent layers rest on."""
    kinds = dict.fromkeys(m.kind for _, m in model.mixers if isinstance(m, Recurrent))
    name = stack.partition("@")[0]
    if not machine.calibration.layers:
        return [
            f"{kind} layers: bytes at the datasheet's rate, no table holds them" for kind in kinds
        ]
    said = (basis(kind, machine.accelerator.name, name) for kind in kinds)
    return [note for note in said if note]


def _published_formats(model: ModelShape) -> str:
    """A sentence about the formats of a checkpoint that is served as it is published."""
    parts = model.formats.as_dict()
    if model.experts is None:
        del parts["experts"]
    said = ", ".join(f"{part} {name}" for part, name in parts.items() if part != "kv")
    return f"formats as {model.name} is published: {said}"


def _check_expert_layout(ask: Request, model: ModelShape) -> None:
    if ask.ep > 1 and (model.experts is None or model.experts.count % ask.ep):
        count = model.experts.count if model.experts else 0
        raise FieldError(
            "ep",
            f"{ask.ep} does not divide the {count} experts of {model.name}"
            if count
            else f"{ask.ep}: {model.name} has no experts; leave it at 1",
        )
    if ask.attention_dp > 1 and model.experts is None and model.latent is None:
        raise FieldError(
            "attention_dp",
            f"{ask.attention_dp}: {model.name} has neither experts nor latent "
            "attention; use replicas ($gpus) instead",
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
