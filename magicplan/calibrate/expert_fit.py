"""Fitting grouped products of experts and prompts' attention to measured kernel times.

Halves that judge a fit are halves of the shapes, not of the rows: a shape that is measured at
sixty counts of tokens says little new at the sixty-first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from magicplan.calibrate.kernel_fit import (
    Bounds,
    Fitted,
    believable,
    better_than_naive,
    fit_form,
    identifiable,
)
from magicplan.calibrate.kernel_tables import Columns, where
from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import ExpertFit, LinearFit, PrefillFit
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import (
    Machine,
    compute_seconds,
    expert_time,
    memory_seconds,
    op_seconds,
    prefill_time,
)
from magicplan.roofline.traffic import Op

EXPERTS: Bounds = {
    "launch_seconds": (0, 500),
    "expert_seconds": (0, 10),
    "memory_efficiency": (0.02, 1),
    "compute_efficiency": (0.02, 1),
    "activation_passes": (1, 30),
}
PREFILL: Bounds = {
    "launch_seconds": (0, 200),
    "memory_efficiency": (0.02, 1),
    "compute_efficiency": (0.02, 1),
}
MOST_OFF = 35.0
"""Percent. Tables of kernels that engines serve with are 6 to 28 off; one at 50 launches its
products one by one."""
SCORE_FLOPS = 128.0
"""FLOP that the softmax of one score counts for, as many as a head wider by 32 would take: tables
with heads of 64 and 128 say 20 to 56 (H100, H200). Most tables hold one width alone, so that all
share this constant."""
SUM = 1.0
"""The p of both forms. Fitted freely it was 1 for nine of ten tables."""
MATH = {"bf16": "bf16", "fp8": "fp8", "fp4": "fp4", "int4": "bf16"}
"""What experts in a format multiply in."""


def fit_experts(
    rows: Columns, accelerator: Accelerator, weights: str, single: LinearFit
) -> Fitted[ExpertFit]:
    """Grouped products of one GPU, stack and version in one format of weights.

    No kernel is taken to multiply better than that of single products: where the activations
    explain more than the products do, its share of peak FLOP is taken over. Whether the kernel
    passes over the pairs of other ranks is what predicts shapes better that it did not see.
    """
    machine = Machine(accelerator=accelerator, calibration=ideal())
    op = expert_op(rows, weights)
    reading = op.weight_bytes / machine.bytes_per_s
    own, idle = op.activation_bytes / machine.bytes_per_s, op.idle_bytes / machine.bytes_per_s
    computing = compute_seconds(op, machine)
    roof = np.maximum(reading, computing)
    everything = np.ones(len(roof), dtype=np.bool_)
    believable("experts", rows, roof, everything)
    identifiable("experts", rows, {"tokens": 6, "active_experts": 4, "ep": 2})
    folds = halves(rows, ("hidden", "expert_ffn", "experts", "top_k"))

    def fitted(idle_share: float, bounds: Bounds, **fixed: float) -> Fitted[ExpertFit]:
        def predict(form: ExpertFit, at: Array) -> Array:
            passing = own[at] + form.idle_share * idle[at]
            time = expert_time(form, op.units[at], reading[at], passing, computing[at])
            return np.asarray(time)

        def build(**constants: float) -> ExpertFit:
            return ExpertFit(sharpness=SUM, idle_share=idle_share, **(fixed | constants))

        starts = [
            {"launch_seconds": 40, "expert_seconds": e, "memory_efficiency": 0.85,
             "compute_efficiency": 0.5, "activation_passes": passes}
            for e, passes in ((0.1, 1.5), (0.5, 4))
        ]  # fmt: skip
        return fit_form(build, predict, rows, everything, bounds, starts, roof, half=folds)

    found = min((fitted(s, EXPERTS) for s in (0.0, 1.0)), key=lambda f: f.held_out.mape)
    if found.form.compute_efficiency > single.compute_efficiency:
        taken = {k: v for k, v in EXPERTS.items() if k != "compute_efficiency"}
        share = found.form.idle_share
        found = fitted(share, taken, compute_efficiency=single.compute_efficiency)
    if found.held_out.mape > MOST_OFF:
        raise UsageError(
            f"experts: {found.held_out.mape:.0f} % off shapes that the fit did not see, more than "
            f"{MOST_OFF:.0f} %: the kernel follows another form"
        )
    return better_than_naive("experts", rows, found)


def fit_prefill(rows: Columns, accelerator: Accelerator, kv_dtype: str) -> Fitted[PrefillFit]:
    """Attention of prompts of one GPU, stack and version over a cache of one format."""
    machine = Machine(accelerator=accelerator, calibration=ideal())
    op = prompt_op(rows, kv_dtype)
    moving, bare = memory_seconds(op, machine), compute_seconds(op, machine)
    computing = bare + SCORE_FLOPS * op.scores / machine.flops_per_s(op.dtype)
    good = np.asarray(bare <= rows["seconds"])
    believable("prefill attention", rows, bare, np.ones_like(good))
    identifiable("prefill attention", where(rows, good), {"new_tokens": 4, "q_heads": 2})

    def predict(form: PrefillFit, at: Array) -> Array:
        return np.asarray(prefill_time(form, moving[at], computing[at]))

    def build(**constants: float) -> PrefillFit:
        return PrefillFit(sharpness=SUM, score_flops=SCORE_FLOPS, **constants)

    starts = [
        {"launch_seconds": 10, "memory_efficiency": m, "compute_efficiency": 0.6}
        for m in (0.3, 0.8)
    ]
    folds = halves(rows, ("q_heads", "kv_heads"))
    roof = np.maximum(moving, bare)
    found = fit_form(build, predict, rows, good, PREFILL, starts, roof, half=folds)
    return better_than_naive("prefill attention", rows, found)


def halves(rows: Columns, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Half of the combinations of these columns, drawn once and for all."""
    shapes = np.stack([rows[name] for name in names])
    _, of = np.unique(shapes, axis=1, return_inverse=True)
    count = int(of.max()) + 1
    if count < 2:
        raise UsageError(f"one combination of {', '.join(names)}: none is left to be held out")
    return np.asarray((np.random.default_rng(0).permutation(count) % 2 == 0)[of.ravel()])


def expert_op(rows: Columns, weights: str) -> Op:
    """Rows of a table of gated experts as ops of the roofline."""
    width, hidden, pairs = rows["expert_ffn"] / rows["tp"], rows["hidden"], rows["rank_pairs"]
    numbers = 3 * hidden + 6 * width
    return Op(
        name="row",
        kind="linear",
        dtype=MATH[weights],
        flops=6 * pairs * hidden * width,
        weight_bytes=rows["active_experts"] * rows["expert_weight_bytes"],
        activation_bytes=2 * pairs * numbers,
        idle_bytes=2 * np.maximum(rows["tokens"] * rows["top_k"] - pairs, 0.0) * numbers,
        grouped=True,
        weight_format=weights,
        units=rows["active_experts"],
    )


def prompt_op(rows: Columns, kv_dtype: str) -> Op:
    """Rows of a table of prompts' attention as ops of the roofline."""
    tokens, width = rows["batch"] * rows["new_tokens"], rows["head_dim"]
    number = 1 if kv_dtype == "fp8" else 2
    return Op(
        name="row",
        kind="attention",
        dtype=kv_dtype,
        flops=4 * rows["q_heads"] * width * rows["pairs_per_head"],
        scores=rows["q_heads"] * rows["pairs_per_head"],
        kv_bytes=tokens * 2 * rows["kv_heads"] * width * number,
        activation_bytes=tokens * rows["q_heads"] * 2 * width * 2,
        prefill=True,
    )


def experts_seconds_of(rows: Columns, machine: Machine, weights: str) -> Array:
    """What a machine predicts for rows of a table of experts."""
    return np.asarray(op_seconds(expert_op(rows, weights), machine))


def prefill_seconds_of(rows: Columns, machine: Machine, kv_dtype: str) -> Array:
    """What a machine predicts for rows of a table of prompts' attention."""
    return np.asarray(op_seconds(prompt_op(rows, kv_dtype), machine))
