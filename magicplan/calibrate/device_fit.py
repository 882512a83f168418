"""From measured steps of the decoder on this device to a calibration of it.

Few constants, the forms of `roofline.timing`: linear layers t0 + p-norm(bytes, FLOP), attention
t0 + waves + bytes + query rows, the host a step, a token and a round. They are fitted on whole
steps at once; contexts tell attention from the rest, query tokens tell FLOP from bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from statistics import median
from typing import Any

import numpy as np

from magicplan.calibrate.kernel_fit import Errors
from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    HostFit,
    LinearFit,
)
from magicplan.hardware_specs.calibration_files import as_toml
from magicplan.hardware_specs.transfer import ideal
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.draft_cost import draft_step
from magicplan.roofline.drafts import Draft
from magicplan.roofline.timing import Machine, all_reduce_time, step_cost
from magicplan.roofline.traffic import Pass, forward

LEAST_RECORDS = 10
LEAST = (0.95, 1.05)
"""No interval is narrower: a repeated run of one point differs by a few percent."""
Bounds = dict[str, tuple[float, float, float]]
"""Lowest, highest and first value of every constant; times in microseconds."""
BOUNDS: Bounds = {
    "linear.memory_efficiency": (0.02, 1.0, 0.5),
    "linear.compute_efficiency": (0.005, 1.0, 0.3),
    "linear.sharpness": (1.0, 8.0, 1.5),
    "attention.memory_efficiency": (0.02, 1.0, 0.5),
    "attention.compute_efficiency": (0.001, 1.0, 0.05),
    "attention.wave_seconds": (0.001, 1e4, 5.0),
    "host.step_seconds": (0.01, 1e5, 100.0),
    "host.token_seconds": (0.001, 1e4, 1.0),
    "host.draft_step_seconds": (0.01, 1e5, 100.0),
}


OVERLAP: Bounds = {"attention.sharpness": (1.0, 8.0, 2.0)}
"""Bounds of the constant that is fitted on GPUs alone: they schedule waves of blocks while others
read, where a CPU thread does one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model and the draft whose decoder was measured."""

    model: ModelShape
    layout: Deployment
    draft: Draft | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """A calibration, its errors on the points it was fitted on, and verification's KV passes."""

    calibration: dict[str, Any]
    """The calibration as TOML's tables."""
    errors: Errors
    kv_passes: dict[int, float]
    """Query tokens -> time of attention over that of one, from the slopes over context."""

    def build(self) -> Calibration:
        """The calibration itself."""
        return as_toml(self.calibration)


def target_seconds(
    subject: Subject, machine: Machine, batch: Array, ctx: Array, query_tokens: Array
) -> Array:
    """Seconds of target passes, element by element."""
    work = Pass(batch=batch, ctx=ctx, query_tokens=query_tokens)
    host = machine.calibration.host.pass_seconds(batch, batch * query_tokens)
    return np.asarray(
        step_cost(forward(subject.model, subject.layout, work), machine, host).seconds
    )


def drafting_seconds(subject: Subject, machine: Machine, batch: Array, ctx: Array) -> Array:
    """Seconds of one draft step, element by element; nothing for a draft without a model."""
    if subject.draft is None:
        return np.zeros(np.broadcast_shapes(np.shape(batch), np.shape(ctx)))
    cost = draft_step(subject.draft, subject.layout, machine, batch, ctx)
    return np.asarray(cost.seconds) + 0.0 * batch * ctx


ALONE = CollectiveFit()


def fit_device(
    name: str,
    origin: str,
    measured: Sequence[tuple[Subject, Iterable[Mapping[str, Any]]]],
    accelerator: Accelerator,
    launch_seconds: float,
    sums: CollectiveFit = ALONE,
) -> DeviceFit:
    """Fit one calibration to the records of one or more models in one dtype.

    A record holds kind, batch, ctx_tokens, query_tokens, seconds. `launch_seconds` of one operation
    is measured apart, for steps of one model cannot tell it from the host's time, and so are `sums`
    over ranks. Raises UsageError for too few records.
    """
    parts = [_Records.of(subject, list(rows)) for subject, rows in measured]
    bounds = BOUNDS | ({} if accelerator.architecture == "cpu" else OVERLAP)

    def calibration(values: Array) -> Calibration:
        constants = dict(zip(bounds, np.exp(values).tolist(), strict=True))
        found = _build(name, origin, measured[0][0].layout, launch_seconds, sums, constants)
        return replace(found, accelerator=accelerator.name)

    def errors(values: Array) -> Array:
        machine = Machine(accelerator=accelerator, calibration=calibration(values))
        return np.concatenate([part.errors(machine) for part in parts])

    best = _solve(errors, bounds)
    passes = kv_passes(parts[0].steps)
    seconds = np.concatenate([part.seconds for part in parts])
    overhead = [left for part in parts for left in part.overhead]
    return DeviceFit(
        calibration=_document(
            calibration(best), errors(best), max(median(overhead), 0.0) if overhead else 0.0
        )
        | {"evidence": _verification(passes, len(parts[0].steps.seconds))},
        errors=Errors.of(np.exp(errors(best)) * seconds, seconds),
        kv_passes=passes,
    )


def fit_all_reduce(
    messages: Sequence[Sequence[float]], ranks: int, accelerator: Accelerator
) -> CollectiveFit:
    """A sum over ranks from measured (bytes, seconds): t = a + 2 (N - 1) / N S / (e L), which both
    algorithms of `CollectiveFit` then are. Nothing to fit alone."""
    if ranks == 1:
        return CollectiveFit()
    from scipy.optimize import least_squares

    size, seconds = np.asarray(messages, dtype=np.float64).T
    link = float(Machine(accelerator=accelerator, calibration=ideal()).link_bytes_per_s(ranks))
    sending = 2 * (ranks - 1) / ranks * size / link

    def residual(x: Array) -> Array:
        return np.asarray(np.log((np.exp(x[0]) + sending / np.exp(x[1])) / seconds))

    start = np.log([seconds.min(), 0.5])
    bounds = (np.log([1e-9, 1e-4]), np.log([1.0, 1.0]))
    fixed, share = np.exp(least_squares(residual, start, bounds=bounds, loss="soft_l1").x)
    return CollectiveFit(
        one_shot_seconds=float(fixed),
        one_shot_efficiency=min(float(share) * ranks / 2, 1.0),
        two_shot_seconds=float(fixed),
        two_shot_efficiency=float(share),
    )


def all_reduce_errors(
    messages: Sequence[Sequence[float]], ranks: int, accelerator: Accelerator, fitted: DeviceFit
) -> list[dict[str, float]]:
    """Each measured sum over ranks beside the fit and beside the link alone."""
    machine = Machine(accelerator=accelerator, calibration=fitted.build())
    link, naive = float(machine.link_bytes_per_s(ranks)), CollectiveFit()
    return [
        {
            "bytes": size,
            "seconds": seconds,
            "fitted": float(all_reduce_time(fitted.build().collective, ranks, size / link)),
            "ideal": float(all_reduce_time(naive, ranks, size / link)),
        }
        for size, seconds in messages
    ]


@dataclass(frozen=True, slots=True)
class _Records:
    """What was measured of one model."""

    subject: Subject
    steps: _Columns
    drafts: _Columns
    overhead: list[float]
    """Seconds of each round beside its drafts and its verification. A draft that runs no model has
    no roofline: its time is part of this."""

    @classmethod
    def of(cls, subject: Subject, rows: list[Mapping[str, Any]]) -> _Records:
        """Raises UsageError where the rows cannot tell the constants apart."""
        steps = _Columns.of(r for r in rows if r["kind"] == "target")
        few = len(steps.seconds) < LEAST_RECORDS
        if few or len(set(steps.ctx)) < 2 or len(set(steps.batch)) < 2:
            raise UsageError(
                f"{len(steps.seconds)} calibration steps of {len(set(steps.batch))} batches and "
                f"{len(set(steps.ctx))} contexts; a fit needs {LEAST_RECORDS} steps, 2 batches "
                "and 2 contexts"
            )
        runs = subject.draft is not None and subject.draft.shape is not None
        overhead = [
            r["seconds"] - r["verify_seconds"] - (r["draft_seconds"] if runs else 0.0)
            for r in rows
            if r["kind"] == "round"
        ]
        drafts = _Columns.of(r for r in rows if r["kind"] == "draft" and runs)
        return cls(subject, steps, drafts, overhead)

    @property
    def seconds(self) -> Array:
        return np.concatenate([self.steps.seconds, self.drafts.seconds])

    def errors(self, machine: Machine) -> Array:
        """Logarithms of predicted over measured: target passes, then draft steps."""
        s, d = self.steps, self.drafts
        found = target_seconds(self.subject, machine, s.batch, s.ctx, s.query_tokens)
        if len(d.seconds):
            drafting = drafting_seconds(self.subject, machine, d.batch, d.ctx)
            found = np.concatenate([found, drafting])
        return np.asarray(np.log(found / self.seconds))


@dataclass(frozen=True, slots=True)
class _Columns:
    batch: Array
    ctx: Array
    query_tokens: Array
    seconds: Array

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> _Columns:
        names = ("batch", "ctx_tokens", "query_tokens", "seconds")
        table = np.asarray([[float(r[name]) for name in names] for r in rows]).reshape(-1, 4)
        return cls(*table.T)


def _build(
    name: str,
    origin: str,
    layout: Deployment,
    launch_seconds: float,
    sums: CollectiveFit,
    constants: Mapping[str, float],
) -> Calibration:
    """A calibration from its constants, named as in `BOUNDS`."""
    parts: dict[str, dict[str, float]] = {"linear": {}, "attention": {}, "host": {}}
    for key, value in constants.items():
        part, _, constant = key.partition(".")
        parts[part][constant] = value * (1e-6 if key.endswith("_seconds") else 1.0)
    parts["attention"].setdefault("sharpness", 1.0)
    bare = ideal()
    return Calibration(
        name=name,
        origin=origin,
        step_residual=bare.step_residual,
        speedup_residual=bare.speedup_residual,
        linear={layout.dtype: LinearFit(launch_seconds=launch_seconds, **parts["linear"])},
        attention={
            layout.kv_dtype: AttentionFit(launch_seconds=launch_seconds, **parts["attention"])
        },
        collective=sums,
        host=HostFit(kernel_seconds=launch_seconds, **parts["host"]),
    )


def _solve(errors: Callable[[Array], Array], bounds: Bounds) -> Array:
    """Least squares on logarithms of constants, with a loss that a disturbed step cannot bend."""
    from scipy.optimize import least_squares

    low, high, first = np.log(np.asarray(list(bounds.values()))).T
    best = None
    for shift in (0.0, -0.7, 0.7):
        start = np.clip(first + shift, low + 1e-3, high - 1e-3)
        found = least_squares(
            errors, start, bounds=(low, high), loss="soft_l1", f_scale=0.05, ftol=1e-5, xtol=1e-5,
            max_nfev=100,
        )  # fmt: skip
        if best is None or found.cost < best.cost:
            best = found
    if best is None or not np.isfinite(best.cost):
        raise UsageError("the calibration steps follow no roofline: the fit did not converge")
    return np.asarray(best.x)


def kv_passes(steps: _Columns) -> dict[int, float]:
    """Attention at each width of query over attention at one, the median over batches.

    Only attention grows with context, so the slope of a step over context is attention's.
    """

    def slopes(width: float) -> dict[float, float]:
        found = {}
        for batch in np.unique(steps.batch):
            at = (steps.query_tokens == width) & (steps.batch == batch)
            if len(np.unique(steps.ctx[at])) > 1:
                found[float(batch)] = float(np.polyfit(steps.ctx[at], steps.seconds[at], 1)[0])
        return found

    one = slopes(1.0)
    passes = {}
    for width in np.unique(steps.query_tokens):
        wide = slopes(width)
        # noise can turn a slope over little KV round; such a batch says nothing
        ratios = [wide[b] / one[b] for b in wide if one.get(b, 0) > 0 and wide[b] > 0]
        if ratios:
            passes[int(width)] = float(np.median(ratios))
    return passes


def _verification(passes: Mapping[int, float], rows: int) -> list[dict[str, Any]]:
    """What the widest verification's attention took over one token's. Its constants hold that
    already, in the time of query rows: reading KV again would count it twice."""
    wide = {width: ratio for width, ratio in passes.items() if width > 1}
    if not wide:
        return []
    width = max(wide)
    told = f"attention of {width} query tokens took {wide[width]:.2f} times that of one here"
    return [{"part": "verification", "rows": rows, "says": f"{told}, which its constants hold"}]


def _document(fitted: Calibration, errors: Array, round_seconds: float) -> dict[str, Any]:
    """TOML's tables: four figures a constant, residuals from the fit's own errors."""
    low, high = np.exp(-np.percentile(errors, [90, 10]))
    residual = {
        "low": min(float(f"{low:.3g}"), LEAST[0]),
        "high": max(float(f"{high:.3g}"), LEAST[1]),
        "basis": f"measured over fitted, {len(errors)} steps on this device",
    }
    host = asdict(fitted.host) | {"round_seconds": round_seconds}
    data: dict[str, Any] = {
        "name": fitted.name,
        "origin": fitted.origin,
        "accelerator": fitted.accelerator,
        "date": date.today().isoformat(),
        "linear": {k: _rounded(asdict(v)) for k, v in fitted.linear.items()},
        "attention": {k: _rounded(asdict(v)) for k, v in fitted.attention.items()},
        "collective": _rounded(asdict(fitted.collective)),
        "host": _rounded(host),
        "step_residual": residual,
        "speedup_residual": residual,
    }
    as_toml(data)
    return data


def _rounded(constants: Mapping[str, float]) -> dict[str, float]:
    """Four figures; what is infinite by default is left to the default."""
    return {k: float(f"{v:.4g}") for k, v in constants.items() if np.isfinite(v)}
