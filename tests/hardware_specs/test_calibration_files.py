"""Which calibration a stack gets, and a user's own file, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from magicplan import hardware_specs
from magicplan.errors import SpecError, UnknownName
from magicplan.hardware_specs.calibration_files import STACKS, calibration_for, read

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


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_without_a_calibration_says_that_it_is_ideal(stack: str) -> None:
    found, note = calibration_for(hardware_specs.load("a100"), stack)
    assert found.name == "ideal"
    assert "ideal" in note


def test_an_unknown_stack() -> None:
    with pytest.raises(UnknownName, match="vllm"):
        calibration_for(hardware_specs.load("a100"), "vlm")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    found, note = calibration_for(hardware_specs.load("a100"), str(path))
    assert found.linear_fit("bf16").memory_efficiency == 0.8
    assert found.linear_fit("fp8").memory_efficiency == 1.0
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
