"""Synthetic runs: a machine whose times are known, and a run file as a session would write it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from magicplan.calibrate.device_fit import (
    DeviceFit,
    Subject,
    drafting_seconds,
    fit_device,
    target_seconds,
)
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    HostFit,
    LinearFit,
    Residual,
)
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.drafts import DraftRequest, self_draft
from magicplan.roofline.timing import Machine
from magicplan.validate.device_files import accelerator_of
from magicplan.validate.forecast import TIMES, Forecaster
from magicplan.validate.measure.grid import CalibrationPoint, Point
from magicplan.validate.run_file import RecordedRun, digest

MODEL = ModelShape(
    name="test", layers=4, hidden=512, q_heads=8, kv_heads=8, head_dim=64, ffn=1024, vocab=1024,
    max_ctx_tokens=1 << 17, tied_embeddings=True, norm_parameters=9 * 512,
)  # fmt: skip
LAYOUT = Deployment(dtype="bf16", kv_dtype="bf16", math_dtype="bf16")
SUBJECT = Subject(model=MODEL, layout=LAYOUT, draft=self_draft(DraftRequest(target=MODEL)))
LAUNCH = 2e-6
DEVICE: dict[str, Any] = {
    "device": "cpu", "name": "Test CPU <b>", "magicplan": "0.0", "torch": "2", "threads": 1,
    "seed": 0, "load_average": 0.1, "memory_bytes": 16e9, "last_level_cache_bytes": 32e6,
    "started": "2026-01-01T00:00:00+00:00", "dtype": "bf16",
}  # fmt: skip
CEILINGS: dict[str, Any] = {
    "read_bytes_per_s": 40e9, "copy_bytes_per_s": 38e9, "matrix_flops_per_s": {"bf16": 500e9},
    "launch_seconds": LAUNCH, "replay_seconds": None,
}  # fmt: skip
_SPREAD = Residual(low=0.95, high=1.05, basis="made up")
TRUTH = Calibration(
    name="truth",
    origin="made up",
    step_residual=_SPREAD,
    speedup_residual=_SPREAD,
    linear={
        "bf16": LinearFit(
            launch_seconds=LAUNCH,
            memory_efficiency=0.35,
            compute_efficiency=0.5,
            sharpness=1.5,
        )
    },
    attention={
        "bf16": AttentionFit(
            launch_seconds=LAUNCH, wave_seconds=3e-5, memory_efficiency=0.6,
            compute_efficiency=0.4, sharpness=1.0,
        )
    },
    host=HostFit(kernel_seconds=LAUNCH, step_seconds=3e-4, token_seconds=2e-5,
                 draft_step_seconds=5e-4, round_seconds=1e-3),
)  # fmt: skip
POINTS = (
    Point(batch=1, ctx=4096),
    *(Point(batch=4, ctx=16384, gamma=g) for g in (1, 4, 8)),
    Point(batch=16, ctx=4096),
)
CALIBRATION = [CalibrationPoint(batch=b, ctx=s) for b in (1, 2) for s in (512, 8192)]


def accelerator() -> Accelerator:
    return accelerator_of(DEVICE, CEILINGS)


def records(noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """What calibration points would measure on the true machine, times exp(noise)."""
    machine = Machine(accelerator=accelerator(), calibration=TRUTH)
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []

    def add(kind: str, point: CalibrationPoint, tokens: int, seconds: float, **more: float) -> None:
        seconds *= math.exp(noise * random.standard_normal())
        found.append({"kind": kind, "batch": point.batch, "ctx_tokens": point.ctx,
                      "query_tokens": tokens, "seconds": seconds} | more)  # fmt: skip

    for point in CALIBRATION:
        batch, ctx = np.asarray(float(point.batch)), np.asarray(float(point.ctx))

        def target(tokens: float, batch: Any = batch, ctx: Any = ctx) -> float:
            return float(target_seconds(SUBJECT, machine, batch, ctx, np.asarray(tokens)))

        for tokens in point.query_tokens:
            add("target", point, tokens, target(tokens))
        draft = float(drafting_seconds(SUBJECT, machine, batch, ctx))
        add("draft", point, 1, draft)
        parts = {"draft_seconds": 4 * draft, "verify_seconds": target(5)}
        overhead = TRUTH.host.round_seconds
        add("round", point, 5, sum(parts.values()) + overhead, **parts)
    return found


@functools.cache
def device_fit(name: str = "fitted") -> DeviceFit:
    """A fit to the noiseless records."""
    return fit_device(name, "made up", [(SUBJECT, records())], accelerator(), LAUNCH)


def run(
    points: tuple[Point, ...] = POINTS,
    measured: Callable[[dict[str, Any], str], float] = lambda told, name: told["predicted"][name],
    *,
    own: float = 1.0,
    emitted: Callable[[dict[str, Any]], float] = lambda told: told["predicted"]["tokens_per_round"],
    origin: str = "simulated:0.8",
) -> RecordedRun:
    """A finished run whose samples are `measured(told, name)`; `own` of wall is the thread's."""
    fitted = device_fit()
    forecaster = Forecaster(
        subject=SUBJECT,
        accelerator=accelerator(),
        calibration=fitted.build(),
        acceptance=Iid(alpha=0.8, origin=origin),
    )
    told = forecaster.points(points)
    content = {
        "model": "test",
        "draft": "self streaming:512",
        "acceptance_origin": origin,
        "accelerator": {"name": "test", "memory_bytes_per_s": CEILINGS["read_bytes_per_s"]},
        "calibration": fitted.calibration,
        "fit_percent": {"rows": 24, "mape": 1.0, "p95": 2.0, "bias": 0.0},
        "verify_kv_passes": {"1": 1.0, "5": 1.3},
        "calibrated_on": [{"id": c.id, "batch": c.batch, "ctx_tokens": c.ctx} for c in CALIBRATION],
        "points": told,
    }
    found = RecordedRun(header={"kind": "header", "settings": {"model": "test"}, "device": DEVICE})
    lines: list[dict[str, Any]] = [
        {"kind": "exactness", "greedy_equal": True, "drafts": {"chain": True}},
        {"kind": "ceilings"} | CEILINGS,
        *({"kind": "calibration", "id": c.id, "records": [], "batch": c.batch,
           "ctx_tokens": c.ctx} for c in CALIBRATION),
        {"kind": "prediction", "content": content, "sha256": digest(content)},
        *(sampled(t, measured, own, emitted(t)) for t in told),
    ]  # fmt: skip
    for line in lines:
        assert found.take(line) == ""
    return found


def sampled(
    told: dict[str, Any],
    measured: Callable[[dict[str, Any], str], float],
    own: float,
    tokens: float,
) -> dict[str, Any]:
    """One point's line: nine samples within 1 % of the time given."""
    wiggle = np.linspace(0.99, 1.01, 9)
    samples = {}
    for name in TIMES:
        wall = (measured(told, name) * wiggle).tolist()
        samples[name.removesuffix("_seconds")] = {"wall": wall, "own": [own * w for w in wall]}
    return {
        "kind": "point",
        "id": told["id"],
        "batch": told["batch"],
        "ctx_tokens": told["ctx_tokens"],
        "samples": samples,
        "emitted_tokens": [tokens * told["batch"]] * 9,
        "flags": [],
    }
