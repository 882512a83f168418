"""Which calibration a stack gets, and a user's own file, good and bad."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from magicplan import hardware_specs
from magicplan.errors import SpecError, UnknownName
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import Residual
from magicplan.hardware_specs.calibration_files import read
from magicplan.hardware_specs.transfer import STACKS, calibration_for, ideal

OWN = """
name = "mine"
origin = "measured by hand"
[step_residual]
low = 0.9
high = 1.1
basis = "10 rows"
[speedup_residual]
low = 0.95
high = 1.05
basis = "10 rows"
[linear.bf16]
launch_seconds = 5e-6
memory_efficiency = 0.8
[host]
step_seconds = 1e-3
"""


@pytest.mark.parametrize("gpu", ["a100", "h100", "b200", "l40s"])
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_the_four_calibrated_gpus_have_every_serving_stack(gpu: str, stack: str) -> None:
    accelerator = hardware_specs.load(gpu)
    found, note = calibration_for(accelerator, stack)
    assert found.name.startswith(f"{accelerator.name}_{stack}_")
    assert "transferred" not in note
    assert "bf16" in found.linear
    assert ("fp8" in found.linear) == ("fp8" in accelerator.dense_flops_per_s)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("accelerator", hardware_specs.all_accelerators(), ids=lambda a: a.name)
def test_every_accelerator_finds_a_calibration(accelerator: Accelerator, stack: str) -> None:
    found, note = calibration_for(accelerator, stack)
    assert (found.name == "ideal") == (stack == "ideal")
    own = found.name.startswith(accelerator.name + "_") or stack == "ideal"
    assert ("transferred" in note) != own


def test_transfer_goes_by_family_then_by_memory_and_widens() -> None:
    def taken(gpu: str) -> str:
        return calibration_for(hardware_specs.load(gpu), "vllm")[0].name.split("_")[0]

    assert [taken(g) for g in ("h20", "gb200", "l4", "a10")] == [
        "h100-sxm", "b200-sxm", "l40s", "a100-sxm-80gb",
    ]  # fmt: skip
    assert (taken("mi355x"), taken("gaudi3"), taken("t4")) == ("mi300x", "h100-sxm", "l40s")
    own = calibration_for(hardware_specs.load("h100"), "vllm")[0].step_residual
    near = calibration_for(hardware_specs.load("h20"), "vllm")[0].step_residual
    far = calibration_for(hardware_specs.load("gaudi3"), "vllm")[0].step_residual
    assert far.low < near.low < own.low < own.high < near.high < far.high


@pytest.mark.parametrize(
    ("asked", "taken"),
    [("sglang", "0.5.10"), ("sglang@0.5.9", "0.5.9"), ("sglang@0.6", "0.5.10"),
     ("sglang@0.4", "0.5.9"), ("trtllm@1.3.0", "1.3.0rc15"), ("trtllm@1.3.0rc12", "1.3.0rc10"),
     ("trtllm@1.3.0.dev1", "1.2.0rc5"), ("trtllm@1.3.0.post1", "1.3.0rc15"),
     ("sglang@0.5.10rc1", "0.5.9"), ("sglang@0.5.9.post2", "0.5.9")],
)  # fmt: skip
def test_the_newest_version_or_the_nearest_to_the_one_named(asked: str, taken: str) -> None:
    found, basis = calibration_for(hardware_specs.load("b200"), asked)
    stack, _, version = asked.partition("@")
    assert found.name == f"b200-sxm_{stack}_{taken}"
    assert ("the nearest to" in basis) == (version not in ("", taken))


@pytest.mark.parametrize("version", ["newest", "²"])
def test_a_version_that_is_none(version: str) -> None:
    with pytest.raises(UnknownName, match=r"0\.5\.9, 0\.5\.10"):
        calibration_for(hardware_specs.load("b200"), f"sglang@{version}")


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.1), (1.2, 0.9), (0.9, math.inf), (math.nan, 1.1)]
)
def test_a_residual_that_is_none(low: float, high: float) -> None:
    with pytest.raises(SpecError, match="two numbers above 0 that rise"):
        replace(ideal(), step_residual=Residual(low=low, high=high, basis="by hand"))


def test_an_unknown_stack() -> None:
    with pytest.raises(UnknownName, match="vllm"):
        calibration_for(hardware_specs.load("a100"), "vlm")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    found, note = calibration_for(hardware_specs.load("a100"), str(path))
    assert found.linear_fit("bf16").memory_efficiency == 0.8
    assert found.linear_fit("fp8").memory_efficiency == 0.8  # the nearest format that was fitted
    assert found.attention_fit("bf16").memory_efficiency == 1.0
    assert found.host.step_seconds == 1e-3
    assert "measured by hand" in note


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("0.8", "1.8", "memory_efficiency"),
        ("5e-6", "-1", "launch_seconds"),
        ("5e-6", '"fast"', "launch_seconds"),
        ("memory_efficiency", "efficiency", "efficiency"),
        ('name = "mine"', "", "name"),
        ("low = 0.9\n", "", "step_residual"),
        ("[host]", "[host", "TOML"),
    ],
)
def test_a_bad_file_names_its_field(tmp_path: Path, old: str, new: str, wrong: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(SpecError, match=wrong):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read(tmp_path / "none.toml")
