"""What kernels leave out, fitted on published runs of whole engines: few constants a stack.

The floor of an element-wise kernel, the host's time a step and a sequence, and what of neighbours'
prefill a benchmark shows.
Engines quantise activations in the norm or activation before: what kernel tables hold for it is
never paid (fitted freely, its share was 0 for every stack), and `calibrate` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan import hardware_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit, Residual
from magicplan.hardware_specs.transfer import CALIBRATED
from magicplan.prediction.placement import place, scene_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, resolve
from magicplan.replay.published import Case, engine_stack
from magicplan.roofline.deployment import Array
from magicplan.roofline.speculation import Scene
from magicplan.roofline.timing import step_cost
from magicplan.roofline.traffic import Pass, forward
from tools.stack_constants.coverage import Covering, covering, held_out
from tools.stack_constants.evidence import evidence
from tools.stack_constants.solve import solve

CHUNK_TOKENS = 8192.0
"""Most tokens of one prefill pass: the default of vLLM, SGLang and TensorRT-LLM on 80 GB parts."""
MIN_CASES = 10
LEAST_STEP = (0.9, 1.1)
"""The narrowest interval, measured over predicted: two versions of one engine already differ by 3
to 9 %."""
ONE_SET = (0.8, 1.2)
"""The interval, measured over predicted, of a stack whose rows are all of one model on one GPU: as
far as other stacks are off elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFit:
    """Host constants of a serving stack and the spread of what they leave unexplained."""

    host: HostFit
    prefill_share: float
    """Share of the prefill of neighbours that a serving benchmark's time per token shows."""
    fp4: dict[str, float]
    """How 4-bit linear layers differ from 8-bit ones, which kernel tables stop at."""
    residual: Residual
    held_out: Array
    """Measured over predicted of every case, by constants fitted without that model on that GPU;
    empty where all are of one."""
    gpu_held_out: Array
    """Measured over predicted of every case, by constants fitted on other GPUs alone."""
    evidence: dict[str, Any]
    coverage: float
    """Share of `held_out` inside an interval that other folds set; NaN where there are none."""


@dataclass(frozen=True, slots=True)
class _DenseStep:
    """A step taken apart: known seconds, and what multiplies each unknown constant."""

    measured: Array
    kernels: Array
    prefill: Array
    elementwise: Array
    batch: Array
    fp4_runs: Array
    fp4_busy: Array


CONSTANTS: dict[str, tuple[float, float, float]] = {
    "kernel_us": (1.0, 2.0, 6.0),
    "step_ms": (0.0, 0.3, 10.0),
    "sequence_us": (0.0, 5.0, 200.0),
    "prefill_share": (0.0, 0.8, 1.0),
    "fp4_launch_us": (0.0, 2.0, 10.0),
    "fp4_slowdown": (1.0, 1.2, 2.0),
}
"""Least, first and largest value of what is fitted."""


STEP_CONSTANTS = (
    "host.kernel_seconds", "host.step_seconds", "host.sequence_seconds", "prefill_share",
)  # fmt: skip


def fit_host(stack: str, cases: list[Case]) -> StackFit:
    """Constants of one serving stack from steps of dense models. Raises UsageError for too few.

    (Source, GPU, model, format) sets count equally, however many rows they print; a fold holds
    all of a model on a GPU.
    """
    parts, kept = _taken_apart([c for c in cases if c.step_seconds and runs_of(stack, c)])
    if len(kept) < MIN_CASES:
        raise UsageError(f"{stack}: {len(kept)} published steps, the fit needs {MIN_CASES}")
    sets = np.unique([set_of(c) for c in kept], return_inverse=True)[1]
    weight = 1 / np.bincount(sets)[sets]
    solved = _solve(parts, weight)
    found = dict(zip(CONSTANTS, solved.tolist(), strict=True))
    pairs = np.unique([f"{c.ask['gpu']} {c.ask['model']}" for c in kept], return_inverse=True)[1]
    gpus = np.unique([str(c.ask["gpu"]) for c in kept], return_inverse=True)[1]

    def unseen(folds: NDArray[np.int64]) -> Array:
        return held_out(
            parts.measured, lambda test: _predict(_solve(parts, weight * ~test), parts), folds
        )

    ratios = unseen(pairs)
    if len(ratios):
        ends = covering(ratios, pairs, LEAST_STEP)
        basis = (
            f"measured over predicted of {len(kept)} published steps of {stack}, "
            "by constants fitted without that model on that GPU"
        )
    else:
        ends = Covering(low=ONE_SET[0], high=ONE_SET[1], coverage=float("nan"))
        basis = f"{stack} constants fitted on the one set published, {len(kept)} steps"
    return StackFit(
        host=HostFit(
            kernel_seconds=found["kernel_us"] * 1e-6,
            step_seconds=found["step_ms"] * 1e-3,
            sequence_seconds=found["sequence_us"] * 1e-6,
        ),
        prefill_share=found["prefill_share"],
        fp4=_fp4(found) if parts.fp4_runs.any() else {},
        residual=Residual(low=ends.low, high=ends.high, basis=basis),
        held_out=ratios,
        gpu_held_out=unseen(gpus),
        evidence=evidence(
            "stack steps",
            (*STEP_CONSTANTS, *(("fp4",) if parts.fp4_runs.any() else ())),
            [c.source for c in kept],
            [set_of(c) for c in kept],
            1 / ratios if len(ratios) else _predict(solved, parts) / parts.measured,
            held_out=bool(len(ratios)),
        ),
        coverage=ends.coverage,
    )


def _fp4(found: dict[str, float]) -> dict[str, float]:
    return {"launch_seconds": found["fp4_launch_us"] * 1e-6, "slowdown": found["fp4_slowdown"]}


def set_of(case: Case) -> str:
    """Rows of one set differ in batch, context and parallelism only."""
    ask = case.ask
    return f"{ask['gpu']} {ask['model']} {ask['dtype']} {case.source} {case.engine}"


def runs_of(stack: str, case: Case, *, dense: bool = True) -> bool:
    """Runs of that engine itself, of dense models or of mixtures of experts, on a calibrated
    architecture family."""
    family = hardware_specs.load(case.ask["gpu"]).architecture.split()[0]
    return engine_stack(case.engine) == stack and case.dense == dense and family in CALIBRATED


def placed(cases: Iterable[Case]) -> Iterator[tuple[Case, Resolved, Scene]]:
    """Every case with its question and where it runs; those that do not fit are left out."""
    for case in cases:
        try:
            ask = resolve(Request(**case.ask))
            scene = scene_of(ask, place(ask))
        except UsageError:
            continue
        yield case, ask, scene


def _taken_apart(cases: list[Case]) -> tuple[_DenseStep, list[Case]]:
    found = [(case, scene) for case, _, scene in placed(cases)]
    rows = [(case.step_seconds, *_known(case, scene)) for case, scene in found]
    kept = [case for case, _ in found]
    columns = np.asarray(rows, dtype=np.float64).reshape(-1, len(fields(_DenseStep)))
    return _DenseStep(*columns.T), kept


def _known(case: Case, scene: Scene) -> tuple[float, ...]:
    """The fields of `_Parts` after the first, from kernels alone."""
    kernels = replace(scene.machine.calibration, host=HostFit())
    linear = {k: v for k, v in kernels.linear.items() if k != "fp4"}
    fused = replace(scene.machine, calibration=replace(kernels, linear=linear))
    ops = forward(scene.target, scene.layout, Pass(batch=scene.batch, ctx=scene.ctx))
    fp4 = [op for op in ops if op.kind == "linear" and op.dtype == "fp4"]
    runs = sum(float(np.max(op.count)) for op in fp4)
    known = float(np.max(step_cost(ops, fused).seconds))
    return (
        known,
        prefill_of(case, replace(scene, machine=fused)),
        sum(float(np.max(op.count)) for op in ops if op.kind == "elementwise"),
        float(np.max(scene.batch)),
        runs,
        float(np.max(step_cost(fp4, fused).seconds))
        - runs * fused.calibration.linear_fit("bf16").launch_seconds
        if fp4
        else 0.0,
    )


def _solve(parts: _DenseStep, weight: Array) -> Array:
    """The `CONSTANTS` that bring predictions nearest; rows of weight 0 take no part."""

    def residual(x: Array) -> Array:
        return np.asarray(np.log(_predict(x, parts) / parts.measured) * np.sqrt(weight))

    return solve(residual, CONSTANTS)


def _predict(x: Array, parts: _DenseStep) -> Array:
    kernel, step, sequence, prefill, launch, slowdown = x
    return np.asarray(
        parts.kernels
        + parts.fp4_runs * launch * 1e-6
        + parts.fp4_busy * (slowdown - 1)
        + parts.elementwise * kernel * 1e-6
        + step * 1e-3
        + parts.batch * sequence * 1e-6
        + prefill * parts.prefill
    )


def constants(host: HostFit) -> dict[str, float]:
    """Host constants as TOML numbers; what a fit left at its bound of 0 is 0."""
    return {name: round(float(f"{value:.4g}"), 12) for name, value in asdict(host).items()}


def rounded(residual: Residual) -> dict[str, object]:
    """A residual as a TOML table."""
    data = asdict(residual)
    return {k: v if isinstance(v, str) else round(v, 3) for k, v in data.items()}


def prefill_of(case: Case, scene: Scene) -> float:
    """What prefilling neighbours' prompts adds to a decode step of a serving run.

    Each of B sequences ends after its output, and a new prompt takes its place: a step carries
    B prompts / output tokens. A prompt is prefilled alone, in chunks of up to `CHUNK_TOKENS`.
    """
    if not case.prefill_tokens:
        return 0.0
    tokens = min(case.prompt_tokens, CHUNK_TOKENS)
    before = np.full((1, 1), (case.prompt_tokens - tokens) / 2)
    # kernels of prefill pack a chunk's tokens whatever those of decoding do
    work = Pass(
        batch=np.ones((1, 1)), ctx=np.maximum(before, 1.0), query_tokens=tokens, kv_passes=1.0,
        prefill=True,
    )  # fmt: skip
    cost = step_cost(forward(scene.target, scene.layout, work), scene.machine)
    share = case.prefill_tokens / float(np.max(scene.layout.replicas)) / tokens
    return float(np.max(cost.seconds)) * share
