"""Seconds: hand-worked ideal times, and the laws that no calibration may break."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.errors import SpecError
from magicplan.hardware_specs.calibration import CollectiveFit, HostFit, LinearFit, Residual
from magicplan.hardware_specs.transfer import ideal
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.timing import (
    BOUNDS,
    Machine,
    StepCost,
    bound_shares,
    compute_seconds,
    memory_seconds,
    op_seconds,
    step_cost,
    step_interval,
)
from magicplan.roofline.traffic import Op, Pass, forward
from tests.shapes import A100, FITTED, IDEAL, LLAMA, SHAPES, fitted_calibration

work = st.builds(
    Pass,
    batch=st.integers(1, 1024).map(float),
    ctx=st.integers(1, 262144).map(float),
    query_tokens=st.integers(1, 64).map(float),
)
layouts = st.builds(Deployment, tp=st.sampled_from([1.0, 2.0, 4.0, 8.0]))
calibrations = st.builds(
    fitted_calibration,
    launch=st.floats(0, 1e-4),
    memory=st.floats(0.05, 1),
    compute=st.floats(0.05, 1),
    sharpness=st.floats(1, 20) | st.just(float("inf")),
)


def seconds(shape: ModelShape, layout: Deployment, work: Pass, machine: Machine) -> float:
    return float(step_cost(forward(shape, layout, work), machine).seconds)


def test_ideal_decode_of_one_sequence_is_its_bytes_over_bandwidth() -> None:
    # 15.01 GB of weights over 2.039 TB/s are 7.36 ms; 1,000 tokens of KV add 0.064 ms
    cost = step_cost(forward(LLAMA, Deployment(), Pass(batch=1.0, ctx=1000.0)), IDEAL)
    assert cost.linear_seconds == pytest.approx(7.36e-3, rel=2e-3)
    assert cost.attention_seconds == pytest.approx(1001 * 131072 / 2.039e12, rel=1e-2)
    moved = cost.weight_bytes + cost.kv_bytes + cost.activation_bytes
    assert cost.seconds == pytest.approx(moved / 2.039e12, rel=1e-12)


def test_ideal_all_reduce_by_hand() -> None:
    # 1 MB over 8 ranks: two-shot moves 2 x 7/8 MB at 300 GB/s; one-shot would move 7 MB
    op = Op(name="r", kind="collective", dtype="bf16", payload_bytes=1e6, ranks=8.0)
    assert op_seconds(op, IDEAL) == pytest.approx(2 * 7 / 8 * 1e6 / 300e9)
    assert op_seconds(replace(op, ranks=1.0), IDEAL) == 0
    assert op_seconds(replace(op, ranks=16.0), IDEAL) == pytest.approx(2 * 15 / 16 * 1e6 / 31.5e9)


def test_calibrated_linear_layer_by_hand() -> None:
    # 5 us + (x^2 + x^2)^(1/2), with both roofs at x = 10 us after their efficiencies
    op = Op(name="l", kind="linear", dtype="bf16", weight_bytes=0.8 * 2.039e7, flops=0.7 * 3.12e9)
    assert op_seconds(op, FITTED) == pytest.approx(5e-6 + 2**0.5 * 1e-5)


def test_wide_batch_is_compute_bound_and_long_context_is_bound_by_kv() -> None:
    def bound(batch: float, ctx: float) -> str:
        ops = forward(LLAMA, Deployment(), Pass(batch=batch, ctx=ctx))
        shares = bound_shares(ops, IDEAL)
        return max(BOUNDS, key=lambda name: float(shares[name]))

    assert bound(1.0, 100.0) == "weights"
    assert bound(4096.0, 1.0) == "compute"
    assert bound(64.0, 65536.0) == "kv"


@given(shape=st.sampled_from(SHAPES), layout=layouts, work=work, fit=calibrations)
def test_no_calibration_beats_the_datasheet(
    shape: ModelShape, layout: Deployment, work: Pass, fit: object
) -> None:
    machine = Machine(accelerator=A100, calibration=fit)  # type: ignore[arg-type]
    ops = forward(shape, layout, work)
    local = [op for op in ops if op.kind != "collective"]
    bytes_floor = sum(op.count * memory_seconds(op, IDEAL) for op in local)
    flop_floor = sum(op.count * compute_seconds(op, IDEAL) for op in local)
    taken = step_cost(ops, machine).seconds
    assert taken >= bytes_floor * (1 - 1e-12)
    assert taken >= flop_floor * (1 - 1e-12)
    for op in ops:
        assert op_seconds(op, machine) >= op_seconds(op, IDEAL) * (1 - 1e-12)


@given(batch=st.integers(1, 32).map(float), ctx=st.integers(1, 131072).map(float))
def test_twice_the_bandwidth_halves_a_memory_bound_ideal_time(batch: float, ctx: float) -> None:
    doubled = replace(A100, memory_bytes_per_s=2 * A100.memory_bytes_per_s)
    fast = Machine(accelerator=doubled, calibration=IDEAL.calibration)
    work = Pass(batch=batch, ctx=ctx)
    slow_time, fast_time = (seconds(LLAMA, Deployment(), work, m) for m in (IDEAL, fast))
    assert fast_time == pytest.approx(slow_time / 2)


@given(
    shape=st.sampled_from(SHAPES),
    layout=layouts,
    work=work,
    machine=st.sampled_from([IDEAL, FITTED]),
    axis=st.sampled_from(["batch", "ctx", "query_tokens"]),
    more=st.integers(1, 100),
)
def test_time_never_falls_as_the_work_grows(
    shape: ModelShape, layout: Deployment, work: Pass, machine: Machine, axis: str, more: int
) -> None:
    larger = replace(work, **{axis: getattr(work, axis) + more})
    before, after = (seconds(shape, layout, w, machine) for w in (work, larger))
    assert after >= before * (1 - 1e-12)


@given(shape=st.sampled_from(SHAPES), work=work, machine=st.sampled_from([IDEAL, FITTED]))
def test_shares_add_up_to_the_step(shape: ModelShape, work: Pass, machine: Machine) -> None:
    ops = forward(shape, Deployment(tp=2.0), work)
    shares = bound_shares(ops, machine)
    assert sum(shares.values()) == pytest.approx(step_cost(ops, machine).seconds)
    assert min(shares.values()) >= -1e-12


def test_degrees_may_be_arrays() -> None:
    tp = np.array([[1.0], [2.0], [8.0]])
    grid = step_cost(forward(LLAMA, Deployment(tp=tp), Pass(batch=4.0, ctx=4096.0)), FITTED)
    for row, degree in enumerate(tp[:, 0]):
        single = seconds(LLAMA, Deployment(tp=float(degree)), Pass(batch=4.0, ctx=4096.0), FITTED)
        assert grid.seconds[row, 0] == pytest.approx(single, rel=1e-15)


@pytest.mark.parametrize(
    "part",
    [
        {"linear": {"bf16": LinearFit(memory_efficiency=1.2)}},
        {"linear": {"bf16": LinearFit(compute_efficiency=0.0)}},
        {"linear": {"bf16": LinearFit(sharpness=0.5)}},
        {"linear": {"bf16": LinearFit(launch_seconds=-1e-6)}},
        {"host": HostFit(step_seconds=float("nan"))},
    ],
)
def test_constants_that_would_beat_the_datasheet_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        replace(FITTED.calibration, **part)


def test_collectives_that_miss_their_form_widen_a_step_by_their_share() -> None:
    calibration = replace(ideal(), step_residual=Residual(low=1 / math.e, high=math.e, basis="-"))
    sure = step_interval(StepCost(linear_seconds=1.0), calibration)
    assert [float(end) for end in sure] == pytest.approx([1 / math.e, math.e])
    missing = replace(calibration, collective=CollectiveFit(spread=math.exp(4) - 1))
    half = StepCost(linear_seconds=1.0, collective_seconds=1.0)
    low, high = step_interval(half, missing)
    assert float(high) == pytest.approx(math.exp(math.hypot(1, 2)))
    assert float(low * high) == pytest.approx(1)
