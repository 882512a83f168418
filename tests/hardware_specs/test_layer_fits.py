"""Recurrent layers' own constants: from the file, lent where a stack was not measured, and used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from magicplan import model_specs
from magicplan.hardware_specs import load
from magicplan.hardware_specs.calibration import LinearFit
from magicplan.hardware_specs.layer_fits import LIKE, MEASURED, basis, entries, layer_fits
from magicplan.hardware_specs.transfer import calibration_for, ideal
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.timing import Machine, op_seconds
from magicplan.roofline.traffic import Pass, forward


def test_every_entry_is_slower_than_the_datasheet_and_misses_little() -> None:
    assert len(entries()) >= 15
    for entry in entries():
        assert load(entry.get("accelerator", str)).name == entry.get("accelerator", str)
        assert 0 < entry.get("memory_efficiency", float) <= 1
        assert 0 < entry.get("launch_seconds", float) < 50e-6
        assert entry.get("held_out_mean_error", float) < 0.05
        assert entry.get("naive_bias", float) < 0
        assert entry.get("rows", int) >= 12


def test_a_stack_takes_its_own_and_else_anothers_on_that_part() -> None:
    own = layer_fits("h100-sxm", "sglang")["gated_delta"]
    other = layer_fits("h100-sxm", "trtllm")["gated_delta"]
    assert own.memory_efficiency != other.memory_efficiency
    assert layer_fits("h100-sxm", "vllm")["gated_delta"].memory_efficiency in (
        own.memory_efficiency, other.memory_efficiency,
    )  # fmt: skip
    assert set(layer_fits("h100-sxm", "vllm")) == {*MEASURED, *LIKE}
    assert layer_fits("mi300x", "vllm") == {}
    assert "lent by gated_delta" in basis("mamba2", "h100-sxm", "sglang")
    assert basis("short_conv", "h100-sxm", "sglang") == ""


@pytest.mark.parametrize(
    ("gpu", "stack"), [("h100", "sglang"), ("h200", "vllm"), ("b200", "trtllm")]
)
def test_calibrations_carry_them(gpu: str, stack: str) -> None:
    accelerator = load(gpu)
    found = calibration_for(accelerator, stack)[0]
    assert found.layers["gated_delta"].launch_seconds > 0
    assert calibration_for(accelerator, "ideal")[0].layers == {}


def test_a_state_op_takes_its_own_constants_and_a_prompt_does_not() -> None:
    """t = launch + bytes / (efficiency BW), by hand."""
    model, accelerator = model_specs.load("qwen3.5-27b"), load("h100")
    fit = LinearFit(launch_seconds=1e-5, memory_efficiency=0.5)
    machine = Machine(accelerator=accelerator, calibration=replace(ideal(), layers={
        "gated_delta": fit}))  # fmt: skip
    for prefill in (False, True):
        work = Pass(batch=64.0, ctx=1.0, prefill=prefill)
        ops = forward(model, Deployment(), work)
        (op,) = [op for op in ops if op.name == "gated_delta"]
        ideal_seconds = op.bytes / accelerator.memory_bytes_per_s
        expected = ideal_seconds if prefill else 1e-5 + ideal_seconds / 0.5
        assert op_seconds(op, machine) == pytest.approx(expected)
