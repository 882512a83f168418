"""Names of accelerators as drivers, tools, clouds and people write them: in full, or refused."""

from __future__ import annotations

import random
import tomllib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from magicplan import hardware_specs
from magicplan.errors import UnknownName
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.load import DATA, families
from magicplan.hardware_specs.part_names import bare_key, key, parse

EVERY = hardware_specs.all_accelerators()
OWN_NAMES = [(a, text) for a in EVERY for text in (a.name, *a.driver_names, *a.aliases)]


def test_no_name_stands_for_two_parts() -> None:
    for kind in (key, bare_key):
        owners: dict[str, set[str]] = {}
        for a, text in OWN_NAMES:
            owners.setdefault(kind(text), set()).add(a.name)
        assert {k: v for k, v in owners.items() if len(v) > 1} == {}
    assert not set(families()) & set(hardware_specs.names())


def test_every_family_names_files_that_exist() -> None:
    for members in families().values():
        for name in members:
            assert hardware_specs.load(name).name == name


def test_every_machine_holds_a_part_that_ships_and_says_how_many() -> None:
    machines = tomllib.loads((DATA / "machines.toml").read_text(encoding="utf-8"))
    for name, (part, count) in machines.items():
        found, note = hardware_specs.resolve(name.upper())
        assert found.name == part
        assert f"{count} x {part}" in note


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("a100", "a100-sxm-80gb"), ("h100", "h100-sxm"), ("h200", "h200-sxm"), ("b200", "b200-sxm"),
        ("b300", "b300-sxm"), ("l40", "l40"), ("l40s", "l40s"), ("gb200", "gb200"),
        ("gb300", "gb300"), ("H100-SXM", "h100-sxm"), ("v100", "v100-sxm2-32gb"),
    ],
)  # fmt: skip
def test_families_have_defaults_and_say_so(alias: str, name: str) -> None:
    found, note = hardware_specs.resolve(alias)
    assert found.name == name
    assert (name in note) == (alias.lower() != name)


DRIVERS = {
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40gb", "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 80GB HBM2e": "h100-pcie", "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA H20-3e": "h20-141gb", "NVIDIA GH200 144G HBM3e": "gh200-144gb",
    "GH200 480GB": "gh200-96gb", "NVIDIA GB200": "gb200", "NVIDIA L4": "l4", "Tesla T4": "t4",
    "Tesla V100-SXM2-16GB": "v100-sxm2-16gb", "NVIDIA GeForce RTX 3090": "rtx-3090",
    "AMD Instinct MI300X": "mi300x", "AMD Instinct MI300X OAM": "mi300x",
    "AMD Instinct MI300X VF": "mi300x", "AMD Instinct MI355X": "mi355x",
    "AMD_Instinct_MI325X_OAM": "mi325x", "AMD Instinct MI210": "mi210",
    "Intel(R) Gaudi(R) 3": "gaudi3", "HL-225": "gaudi2",
    "GPU 3: NVIDIA L40S (UUID: GPU-0b5f)": "l40s",
    "NVIDIA Corporation GH100 [H100 PCIe] (rev a1)": "h100-pcie",
    "NVIDIA Corporation AD104GL [L4] (rev a1)": "l4",
    "NVIDIA Corporation GV100GL [Tesla V100 SXM2 32GB]": "v100-sxm2-32gb",
    "Advanced Micro Devices, Inc. [AMD/ATI] Aqua Vanjaram [Instinct MI300X]": "mi300x",
    "NVIDIA-H100-80GB-HBM3": "h100-sxm", "nvidia-h200-141gb": "h200-sxm",
    "TPU v6 lite": "tpu-v6e", "TPU v4": "tpu-v4", "TPU7x": "tpu-v7", "tpu-v5p-slice": "tpu-v5p",
    "Trainium 2": "trainium2", "DGX H100": "h100-sxm",
}  # fmt: skip
PEOPLE = {
    "H100 SXM5 80GB": "h100-sxm", "h100sxm": "h100-sxm", "H100-80GB-PCIe": "h100-pcie",
    "H100_NVL": "h100-nvl", "h100 94gb": "h100-nvl", "A100-40GB": "a100-sxm-40gb",
    "a100 pcie": "a100-pcie-80gb", "A100 PCIe 40 GB": "a100-pcie-40gb", "H200 PCIe": "h200-nvl",
    "H20 96GB": "h20-96gb", "H20 141GB": "h20-141gb", "B200 192GB": "b200-sxm",
    "b300 sxm6": "b300-sxm", "GB200 NVL72": "gb200", "rtx4090": "rtx-4090",
    "RTX PRO 6000 Blackwell": "rtx-pro-6000-server", "rtx pro 6000 ws": "rtx-pro-6000-ws",
    "RTX 6000 Ada": "rtx-6000-ada", "MI 300X": "mi300x", "V100-16GB": "v100-sxm2-16gb",
    "L40 48GB": "l40", "tesla t4": "t4", "TPU v5e": "tpu-v5e", "gaudi 2": "gaudi2",
}  # fmt: skip


@pytest.mark.parametrize(("text", "name"), [*DRIVERS.items(), *PEOPLE.items()])
def test_names_of_tools_and_people(text: str, name: str) -> None:
    assert hardware_specs.load(text).name == name


def test_a_choice_that_a_name_leaves_is_said() -> None:
    assert "also a100-pcie-80gb" in hardware_specs.resolve("nvidia-a100-80gb")[1]
    assert "also mi250" in hardware_specs.resolve("AMD Instinct MI250X / MI250")[1]
    assert "machine of 8 x h100-sxm" in hardware_specs.resolve("p5.48xlarge")[1]
    assert hardware_specs.resolve("NVIDIA A100-SXM4-80GB")[1] == ""


@pytest.mark.parametrize(
    "text",
    [
        "h10", "a1000", "", "l40ss", "NVIDIA L2", "NVIDIA H100 64GB", "H100 SXM4", "A100X",
        "Tesla V100-PCIE-16GB", "Tesla V100S-PCIE-32GB", "AMD H100", "a10 80gb", "MI308X",
        "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "Quadro RTX 6000",
        "RTX 6000 Blackwell", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA L40S-48C", "gfx942", "8xH100", "80GB", "SXM",
        "NVIDIA", "[", "()", "nvidia pcie",
    ],
)  # fmt: skip
def test_no_other_part_is_guessed(text: str) -> None:
    with pytest.raises(UnknownName, match="unknown accelerator"):
        hardware_specs.load(text)


@pytest.mark.parametrize(
    ("text", "offered", "never"),
    [
        ("h10", "h100-sxm", "a10"), ("NVIDIA L41", "l40", "a100"), ("MI308X", "mi300x", "h100"),
        ("NVIDIA GeForce RTX 5060", "rtx-5090", "a100"), ("NVIDIA GB100", "gb200", "h100"),
        ("NVIDIA H100 64GB", "h100-nvl", "a100"), ("AMD Radeon RX 7900 XTX", "gpus", "rtx-"),
    ],
)  # fmt: skip
def test_what_is_offered_is_of_the_same_family(text: str, offered: str, never: str) -> None:
    with pytest.raises(UnknownName) as problem:
        hardware_specs.load(text)
    after = str(problem.value).partition(repr(text))[2]
    assert offered in after
    assert never not in after


def test_a_count_belongs_elsewhere() -> None:
    with pytest.raises(UnknownName, match="--gpus 8"):
        hardware_specs.load("8xH100")


@given(which=st.sampled_from(OWN_NAMES), seed=st.integers(0, 2**32))
def test_case_spaces_hyphens_and_underscores_never_matter(
    which: tuple[Accelerator, str], seed: int
) -> None:
    accelerator, text = which
    chance = random.Random(seed)
    typed = "".join(
        chance.choice(" -_") if c in " -_" else chance.choice((c.lower(), c.upper())) for c in text
    )
    assert hardware_specs.load(typed).name == accelerator.name


@given(which=st.sampled_from(OWN_NAMES), extra=st.text("abcdefghijklmnopqrstuvwxyz", min_size=4))
def test_another_word_is_another_part(which: tuple[Accelerator, str], extra: str) -> None:
    assume(parse(extra).base != "")
    with pytest.raises(UnknownName):
        hardware_specs.load(f"{which[1]} {extra}")


def test_devices_are_identified_by_their_whole_name() -> None:
    assert hardware_specs.identify("NVIDIA L40").name == "l40"
    assert hardware_specs.identify("NVIDIA L4").name == "l4"
    for near in ("NVIDIA RTX A4000", "NVIDIA L40 ", "L40"):
        with pytest.raises(UnknownName):
            hardware_specs.identify(near)
