"""Every datasheet file, names and aliases, and a user's own file, good and bad."""

from __future__ import annotations

import datetime
from dataclasses import fields
from pathlib import Path

import pytest

from magicplan import hardware_specs
from magicplan.errors import SpecError
from magicplan.hardware_specs.accelerator import Accelerator

NUMBERS = (
    "memory_bytes", "memory_bytes_per_s", "units", "l2_bytes", "link_bytes_per_s",
    "link_peer_bytes_per_s", "link_domain", "pcie_bytes_per_s", "node_size", "tdp_watts",
    "price_usd_per_hour",
)  # fmt: skip

FAST_FP8 = ("vr200", "trainium3")
"""Parts that are published with an fp8 rate of about four times their 16-bit rate."""


def test_there_are_enough() -> None:
    assert len(hardware_specs.names()) >= 45


@pytest.mark.parametrize("a", hardware_specs.all_accelerators(), ids=lambda a: a.name)
def test_every_file(a: Accelerator) -> None:
    assert a.sources, "a number without a source is not a number"
    for source in a.sources:
        assert source.title
        datetime.date.fromisoformat(source.seen)
    for name in NUMBERS:
        value = getattr(a, name)
        assert value is None or value > 0, name
    assert 10 <= a.ridge_flops_per_byte(a.math_dtype) <= 1000
    assert 8e9 < a.memory_bytes < 500e9
    assert 0.2e12 < a.memory_bytes_per_s < 25e12
    # a sparse peak would be twice as high; GeForce runs int8 at four times its 16-bit rate
    for dtype, most in (("fp8", 4.4 if a.name in FAST_FP8 else 2.3), ("int8", 4.1)):
        assert a.dense_flops_per_s.get(dtype, 0) <= most * a.dense_flops_per_s[a.math_dtype]
    known = {field.name for field in fields(Accelerator)}
    for field in a.provisional:
        assert field in known or field.startswith("dense_flops_per_s."), field


def test_a100_by_hand() -> None:
    a = hardware_specs.load("a100-sxm-80gb")
    assert a.memory_bytes == 81920 * 2**20
    assert a.memory_bytes_per_s == 2.039e12
    assert a.dense_flops_per_s["bf16"] == 312e12
    assert a.link_bytes_per_s == 300e9
    assert (a.link_domain, a.units, a.math_dtype) == (8, 108, "bf16")


OWN = """
name = "mine"
units = 100
memory_bytes = 80e9
memory_bytes_per_s = 2e12
[dense_flops_per_s]
bf16 = 300e12
"""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    found, note = hardware_specs.resolve(str(path))
    assert (found.name, found.units, found.link_domain) == ("mine", 100, 1)
    assert str(path) in note


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("units = 100", "", "units"),
        ("units = 100", "units = 1.5", "units"),
        ("80e9", "-80e9", "memory_bytes"),
        ("80e9", "nan", "memory_bytes"),
        ("80e9", '"80 GB"', "memory_bytes"),
        ("2e12", "2e9", "FLOP a byte"),
        ("bf16 = 300e12", "bf8 = 300e12", "bf8"),
        ("bf16 = 300e12", "fp32 = 300e12", "bf16 or fp16"),
        ('name = "mine"', 'name = "mine"\nspeed = 3', "speed is unknown"),
        ("[dense", "[dense", None),
        ("name = ", "name == ", "TOML"),
    ],
)
def test_a_bad_file_names_its_field(tmp_path: Path, old: str, new: str, wrong: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(old, new))
    if wrong is None:
        assert hardware_specs.load(str(path)).name == "mine"
        return
    with pytest.raises(SpecError, match=wrong) as problem:
        hardware_specs.load(str(path))
    assert str(path) in str(problem.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        hardware_specs.load(str(tmp_path / "none.toml"))
