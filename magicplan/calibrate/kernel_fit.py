"""Fitting the package's own timing forms to measured kernel times.

Relative errors count: a fit minimises the logarithm of predicted over measured, with a soft loss
that outliers cannot bend, from several starts because a minimum of two curves has several valleys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from magicplan.calibrate.kernel_tables import Columns, where
from magicplan.calibrate.query_rows import row_ratio
from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import AttentionFit, CollectiveFit, LinearFit
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.layers.scores import attend
from magicplan.roofline.timing import (
    Machine,
    all_reduce_time,
    attention_time,
    compute_seconds,
    eager_time,
    linear_time,
    memory_seconds,
    op_seconds,
)
from magicplan.roofline.traffic import Op, Pass, linear

Form = TypeVar("Form")
Bounds = dict[str, tuple[float, float]]
"""Lowest and highest value of every fitted constant, seconds in microseconds."""
MIN_ROWS = 40
ROOF_SHARE = 0.2
"""Share of rows faster than the datasheet allows above which a table is not believed."""
ALL_REDUCE_BYTES = 2.0**25
"""Largest payload fitted: 2,048 tokens of width 8,192. Past it other algorithms take over."""
KEYS = ("m", "n", "k", "batch", "q_heads", "kv_heads", "kv_len", "num_gpus", "bytes")
"""Columns that name a row; no table has all."""
L2_COPIES = 6
"""Weight copies in rotation of the public collectors (vllm, sglang)."""
QUANTISED_BYTES = 3.0
"""Bytes a separate quantising kernel moves an activation: it reads 16 bits and writes 8."""
LINEAR: Bounds = {
    "launch_seconds": (0, 100),
    "memory_efficiency": (0.02, 1),
    "compute_efficiency": (0.02, 1),
    "sharpness": (1, 20),
}
ATTENTION: Bounds = {
    "launch_seconds": (0, 100),
    "wave_seconds": (0.001, 50),
    "memory_efficiency": (0.02, 1),
    "sharpness": (1, 20),
}
SPLIT: Bounds = {"split_share": (0.2, 1)}
PAYS = 0.9
"""A constant more must lower the error of rows not fitted by a tenth: what a version of a kernel
does badly the next does not, and a constant that only follows it misleads there."""
REREADS = 0.1
"""Share of the KV read again for every further query row above which a kernel is taken not to pack
query rows: kernels that pack them lie at 0.002 and below, one that does not at 0.57."""
COLLECTIVE: Bounds = {
    "one_shot_seconds": (0, 200),
    "one_shot_efficiency": (0.001, 1),
    "two_shot_seconds": (0, 200),
    "two_shot_efficiency": (0.001, 1),
    "hop_seconds": (0, 50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Predicted over measured minus 1, in percent: MAPE, percentiles of its size, signed mean."""

    rows: int
    mape: float
    p80: float
    p95: float
    bias: float
    worst: str
    """The row that is furthest off, and by how much."""

    @classmethod
    def of(
        cls, predicted: Array, measured: Array, label: Callable[[int], str] = lambda at: f"row {at}"
    ) -> Errors:
        """The errors of predicted against measured times, two arrays of one length; `label` names
        the row at a position."""
        error = 100 * (predicted / measured - 1)
        size = np.abs(error)
        at = int(np.argmax(size))
        return cls(
            rows=len(error),
            mape=float(size.mean()),
            p80=float(np.percentile(size, 80)),
            p95=float(np.percentile(size, 95)),
            bias=float(error.mean()),
            worst=f"{label(at)} {error[at]:+.0f} %",
        )


def row_label(rows: Columns, at: int) -> str:
    """A row of a table of kernels, by what its time depends on."""
    return ", ".join(f"{name} {rows[name][at]:.0f}" for name in KEYS if name in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Generic[Form]):
    """A form, and its errors on halves that it did not see, beside those of the naive roofline."""

    form: Form
    held_out: Errors
    naive: Errors
    rejected: int
    """Rows left out: faster than the datasheet allows, or served from L2."""


def fit_linear(rows: Columns, accelerator: Accelerator, dtype: str) -> Fitted[LinearFit]:
    """Linear layers [dtype, m, n, k, seconds] of one GPU, stack and version.

    Tables of 8-bit layers time the quantisation of activations with them. Its efficiency is fitted
    beside the form and left out of it, for engines fuse it into the kernel before (`fused`).
    """
    machine = Machine(accelerator=accelerator, calibration=ideal())
    op = _linear_op(rows, dtype)
    moving, computing = memory_seconds(op, machine), compute_seconds(op, machine)
    measured = rows["seconds"]
    warm = _warm_linear(rows, accelerator, op)
    roof = np.maximum(moving, computing)
    good = ~warm & (roof <= measured)
    believable("linear layers", rows, roof, ~warm)
    quantising = QUANTISED_BYTES * rows["m"] * rows["k"] / machine.bytes_per_s
    bounds = dict(LINEAR)
    if dtype == "fp8":
        bounds["quantising_efficiency"] = (0.02, 1)
    identifiable("linear layers", where(rows, good), {"m": 4, "n": 2, "k": 2})

    def predict(found: _TableFit, at: Array) -> Array:
        apart = quantising[at] / found.quantising_efficiency
        return np.asarray(linear_time(found.form, moving[at], computing[at]) + apart)

    starts = [
        {"launch_seconds": t0, "memory_efficiency": 0.8, "compute_efficiency": 0.7, "sharpness": p,
         "quantising_efficiency": 0.5}
        for t0, p in ((5, 2), (2, 4), (10, 1.2))
    ]  # fmt: skip
    found = fit_form(_TableFit.of, predict, rows, good, bounds, starts, roof)
    better_than_naive("linear layers", rows, found)
    return Fitted(
        form=found.form.form,
        held_out=found.held_out,
        naive=found.naive,
        rejected=found.rejected,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _TableFit:
    """A linear layer as tables time it: the layer's own form, and the share of bandwidth at which
    activations are quantised, infinite where a table's format needs no quantising."""

    form: LinearFit
    quantising_efficiency: float

    @classmethod
    def of(cls, quantising_efficiency: float = math.inf, **constants: float) -> _TableFit:
        """The fit with these constants, by name."""
        return cls(LinearFit(**constants), quantising_efficiency)


def fused(narrow: LinearFit, bf16: LinearFit) -> LinearFit:
    """An 8-bit linear layer as engines run it, which fuse quantisation into the kernel before: it
    is launched no later than a 16-bit layer, and what its launch in the tables exceeds that by was
    the launch of a separate quantising kernel."""
    return replace(narrow, launch_seconds=min(narrow.launch_seconds, bf16.launch_seconds))


def fit_attention(
    rows: Columns, accelerator: Accelerator, kv_dtype: str, compute_efficiency: float
) -> Fitted[AttentionFit]:
    """Decode attention of one GPU, stack and version over a cache of one format.

    Rows whose cache is larger than twice L2 are cold, as in serving; rows so small that their
    bytes hardly count pin the launch and the waves at half the weight. Those between were served
    from L2 and are left out. `compute_efficiency` is taken over from linear layers: no public
    table measures attention that computes.
    """
    machine = Machine(accelerator=accelerator, calibration=ideal())
    op = _attention_op(rows, kv_dtype)
    moving, computing = memory_seconds(op, machine), compute_seconds(op, machine)
    waves, measured = op.units / accelerator.units, rows["seconds"]
    again = op.reread_bytes / machine.bytes_per_s
    cache = moving * machine.bytes_per_s
    cold = (cache >= 2 * (accelerator.l2_bytes or 0)) & (moving <= measured)
    small = ~cold & (moving < 0.15 * measured)
    identifiable("cold attention", where(rows, cold), {"batch": 2, "kv_len": 3})

    bounds, wide = dict(ATTENTION), row_ratio(where(rows, cold))
    if wide is not None and wide.reread_share > REREADS:
        bounds["reread_share"] = (0, 1)

    def predict(form: AttentionFit, at: Array) -> Array:
        read = moving[at] + form.reread_share * again[at]
        return np.asarray(attention_time(form, read, computing[at], waves[at]))

    weight = np.where(cold, 1.0, 0.5 * cold.sum() / max(small.sum(), 1))

    def fitted(shares: Sequence[float], bounds: Bounds) -> Fitted[AttentionFit]:
        starts = [
            {"launch_seconds": 10, "wave_seconds": w, "memory_efficiency": 0.8, "sharpness": p,
             "split_share": share, "reread_share": 0.5}
            for w, p in ((0.5, 2), (3, 5), (1, 1.2)) for share in shares
        ]  # fmt: skip
        return fit_form(build, predict, rows, cold | small, bounds, starts, moving, weight, cold)

    def build(**constants: float) -> AttentionFit:
        return AttentionFit(compute_efficiency=compute_efficiency, **constants)

    found = fitted((1.0,), bounds)
    try:
        split = fitted((0.6, 0.9), bounds | SPLIT)
    except UsageError:  # it ends at its bound: the rows do not say
        split = found
    if split.held_out.mape < PAYS * found.held_out.mape:
        found = split
    return better_than_naive("attention", rows, found)


def cold_attention(rows: Columns, accelerator: Accelerator, kv_dtype: str) -> NDArray[np.bool_]:
    """Rows of whole contexts whose cache is at least twice L2, as in serving."""
    size = rows["batch"] * rows["kv_len"] * rows["kv_heads"] * rows["head_dim"]
    held = size * (4 if kv_dtype == "bf16" else 2) >= 2 * (accelerator.l2_bytes or 0)
    return np.asarray(held & (rows["window"] == 0) & (rows["kv_dtype"] == kv_dtype))


def fit_collective(rows: Columns, accelerator: Accelerator) -> Fitted[CollectiveFit]:
    """All-reduces inside CUDA graphs over 2 and more GPUs, up to the sizes of a decode step."""
    machine = Machine(accelerator=accelerator, calibration=ideal())
    rows = where(rows, rows["bytes"] <= ALL_REDUCE_BYTES)
    ranks, measured = rows["num_gpus"], rows["seconds"]
    sending = rows["bytes"] / machine.link_bytes_per_s(ranks)
    naive = 2 * (ranks - 1) / ranks * sending
    good = np.asarray(naive <= measured)
    believable("all-reduce", rows, naive, np.ones(len(measured), dtype=np.bool_))
    identifiable("all-reduce", where(rows, good), {"num_gpus": 2, "bytes": 4}, least=20)

    def predict(form: CollectiveFit, at: Array) -> Array:
        return np.asarray(all_reduce_time(form, ranks[at], sending[at]))

    starts = [
        {"one_shot_seconds": a, "one_shot_efficiency": e, "two_shot_seconds": b,
         "two_shot_efficiency": 0.5, "hop_seconds": 0.5}
        for a, e, b in ((5, 0.6, 8), (7, 0.2, 17), (5, 0.5, 30), (3, 0.6, 11))
    ]  # fmt: skip
    found = fit_form(CollectiveFit, predict, rows, good, COLLECTIVE, starts, naive)
    return better_than_naive("all-reduce", rows, found)


def fit_eager(
    rows: Columns, accelerator: Accelerator, graphs: CollectiveFit
) -> Fitted[CollectiveFit]:
    """The host's launch of an all-reduce outside CUDA graphs, beside constants fitted in graphs.

    Held-out halves are of eager rows: those of graphs are other measurements of the same sizes.
    """
    machine = Machine(accelerator=accelerator, calibration=ideal())
    rows = where(rows, rows["bytes"] <= ALL_REDUCE_BYTES)
    ranks, measured = rows["num_gpus"], rows["seconds"]
    sending = rows["bytes"] / machine.link_bytes_per_s(ranks)
    identifiable("eager all-reduce", rows, {"num_gpus": 2, "bytes": 4}, least=20)

    def predict(form: CollectiveFit, at: Array) -> Array:
        return np.asarray(eager_time(form, all_reduce_time(form, ranks[at], sending[at])))

    found = fit_form(
        lambda **launch: replace(graphs, **launch), predict, rows,
        np.ones(len(measured), dtype=np.bool_), {"eager_seconds": (0, 500)},
        [{"eager_seconds": first} for first in (10, 30, 60)], 2 * (ranks - 1) / ranks * sending,
    )  # fmt: skip
    return better_than_naive("eager all-reduce", rows, found)


def linear_seconds_of(rows: Columns, machine: Machine, dtype: str) -> Array:
    """What a machine predicts for rows of a linear table."""
    return np.asarray(op_seconds(_linear_op(rows, dtype), machine))


def attention_seconds_of(rows: Columns, machine: Machine, kv_dtype: str) -> Array:
    """What a machine predicts for rows of an attention table."""
    return np.asarray(op_seconds(_attention_op(rows, kv_dtype), machine))


def _linear_op(rows: Columns, dtype: str) -> Op:
    layout = Deployment(dtype=dtype, math_dtype=dtype)
    return linear("row", layout, rows["m"], rows["n"], rows["k"])


def _attention_op(rows: Columns, kv_dtype: str) -> Op:
    """A table's kv_len includes the new token, a pass's context does not."""
    window = np.where(rows["window"] > 0, rows["window"], np.inf)
    cached = np.minimum(rows["kv_len"], window) - 1
    batch, kv_heads, width = rows["batch"], rows["kv_heads"], rows["head_dim"]
    return attend(
        "row",
        Deployment(kv_dtype=kv_dtype),
        Pass(batch=batch, ctx=cached),
        batch,
        cached,
        cached,
        heads=rows["q_heads"],
        score_width=width,
        value_width=width,
        kv_numbers=2 * kv_heads * width,
        units=batch * kv_heads,
        count=1.0,
        sharing=rows["q_heads"] / kv_heads,
    )


def _warm_linear(rows: Columns, accelerator: Accelerator, op: Op) -> NDArray[np.bool_]:
    """Rows whose weight copies fit in L2, as the table says or as its collector works."""
    if "l2_risk" in rows:
        return np.asarray(rows["l2_risk"].astype(np.bool_))
    cache = accelerator.l2_bytes or 0.0
    weight = np.asarray(op.weight_bytes)
    copies = np.where(
        rows["framework"] == "trtllm", np.clip(np.ceil(cache / weight), 1, 5), float(L2_COPIES)
    )
    return np.asarray(copies * weight < 1.25 * cache)


def identifiable(what: str, rows: Columns, distinct: dict[str, int], least: int = MIN_ROWS) -> None:
    """Refuse to fit what the rows cannot tell apart, with everything that is missing."""
    count = len(rows["seconds"])
    missing = [f"{count} usable rows, the fit needs {least}"] if count < least else []
    for name, needed in distinct.items():
        seen = len(np.unique(rows[name]))
        if seen < needed:
            missing.append(f"{seen} different value(s) of column {name}, the fit needs {needed}")
    if missing:
        raise UsageError(f"{what}{_files(rows)}: {'; '.join(missing)}")


def believable(what: str, rows: Columns, roof: Array, cold: NDArray[np.bool_]) -> None:
    """Refuse a table of which too much beats the datasheet, as times in another unit do."""
    beaten = cold & (roof > rows["seconds"])
    if cold.any() and beaten.sum() > ROOF_SHARE * cold.sum():
        raise UsageError(
            f"{what}{_files(rows)}: {100 * beaten.sum() / cold.sum():.0f} % of the rows beat the "
            "datasheet; are the times in another unit?"
        )


def better_than_naive(what: str, rows: Columns, found: Fitted[Form]) -> Fitted[Form]:
    """Refuse constants that say less of unseen rows than the datasheet alone."""
    if not found.held_out.mape < found.naive.mape:
        raise UsageError(
            f"{what}{_files(rows)}: the fit is {found.held_out.mape:.1f} % off rows it did not "
            f"see, the naive roofline {found.naive.mape:.1f} %; do the times have one unit?"
        )
    return found


def _files(rows: Columns) -> str:
    if "file" not in rows or not len(rows["file"]):
        return ""
    return f" of {', '.join(np.unique(rows['file']))}"


def fit_form(
    build: Callable[..., Form],
    predict: Callable[[Form, Any], Array],
    table: Columns,
    good: NDArray[np.bool_],
    bounds: Bounds,
    starts: Sequence[dict[str, float]],
    naive: Array,
    weight: Array | None = None,
    judged: NDArray[np.bool_] | None = None,
    half: NDArray[np.bool_] | None = None,
) -> Fitted[Form]:
    """Fit on all good rows; judge each half (of `judged` rows) by a fit on the other.

    Halves are drawn by row where `half` does not say them. Raises UsageError for a constant that
    ends at a bound which says nothing (see `_at_rest`).
    """
    measured = table["seconds"]
    weights = np.ones(len(measured)) if weight is None else weight
    rows = np.flatnonzero(good)
    judge = rows if judged is None else np.flatnonzero(judged)
    if half is None:
        half = np.random.default_rng(0).random(len(measured)) < 0.5
    predictions = np.empty(len(measured))
    for side in (half, ~half):
        if not side[judge].any() or side[rows].all():
            raise UsageError(f"{len(rows)} usable rows: one half, to be held out, is empty")
        form = _solve(build, predict, measured, rows[~side[rows]], bounds, starts, weights)
        predictions[side] = predict(form, np.flatnonzero(side))

    def errors(of: Array) -> Errors:
        return Errors.of(of[judge], measured[judge], lambda at: row_label(table, judge[at]))

    return Fitted(
        form=_solve(build, predict, measured, rows, bounds, starts, weights),
        held_out=errors(predictions),
        naive=errors(np.asarray(naive)),
        rejected=int(len(measured) - len(rows)),
    )


def _solve(
    build: Callable[..., Form],
    predict: Callable[[Form, Any], Array],
    measured: Array,
    rows: NDArray[np.intp],
    bounds: Bounds,
    starts: Sequence[dict[str, float]],
    weights: Array,
) -> Form:
    names = list(bounds)
    low, high = np.asarray([bounds[name] for name in names]).T
    root = np.sqrt(weights[rows])

    def form_of(values: Array) -> Form:
        scaled = {
            name: float(value) * (1e-6 if name.endswith("_seconds") else 1.0)
            for name, value in zip(names, values, strict=True)
        }
        return build(**scaled)

    def residual(values: Array) -> Array:
        return np.asarray(np.log(predict(form_of(values), rows) / measured[rows]) * root)

    best = None
    for start in starts:
        first = np.clip([start[name] for name in names], low + 1e-6, high - 1e-6)
        found = least_squares(
            residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.1,
            x_scale=np.maximum(np.abs(first), 0.1),
        )  # fmt: skip
        if found.success and (best is None or found.cost < best.cost):
            best = found
    if best is None:
        raise UsageError(
            f"the fit of {len(rows)} rows did not converge from any of {len(starts)} starts: they "
            "follow no roofline"
        )
    return form_of(
        np.asarray([_at_rest(n, float(v), bounds[n]) for n, v in zip(names, best.x, strict=True)])
    )


def _at_rest(name: str, value: float, ends: tuple[float, float]) -> float:
    """A fitted constant; at the end of its bounds where the form has it no longer, that end itself.

    Those are a time of 0, the datasheet's rate, a sum (sharpness 1) or a plain maximum (the
    largest), all activations passed over once. Raises UsageError for any other end: the rows want
    what the form cannot say.
    """
    low, high = ends
    near = 1e-3 * (high - low)
    if value - low < near:
        if low in (0.0, 1.0) or name.endswith("seconds"):
            return 0.0 if name.endswith("seconds") else low
    elif high - value < near:
        if name.endswith("sharpness") or high == 1.0:
            return high
    else:
        return value
    raise UsageError(
        f"{name} ends at {value:.3g}, the bound of its fit: the rows follow another form"
    )
