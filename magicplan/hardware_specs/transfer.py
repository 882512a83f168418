"""Which calibration an accelerator gets: its own, that of its nearest relative, or none.

The rule of transfer stands in `relatives`; docs/accuracy.md says how far it carries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from magicplan.errors import UnknownName
from magicplan.hardware_specs import spelling
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import Calibration, Residual
from magicplan.hardware_specs.calibration_files import CALIBRATIONS, MORE_RESIDUALS, read
from magicplan.hardware_specs.layer_fits import layer_fits
from magicplan.hardware_specs.load import load, names
from magicplan.hardware_specs.spread import combined_spread
from magicplan.hardware_specs.stacks import stack_tables

STACKS = tuple(spelling.STACKS)

# What `benchmarks/naive_roofline.py` prints: published steps take 1.44 to 2.41 times the naive
# roofline (20th and 80th percentile), and speedups reach .63 to .74 of the naive one.
IDEAL_STEP = Residual(
    low=1.0,
    high=2.41,
    basis="from the naive floor to the 80th percentile of 51 published steps (median 1.81 floors)",
)
IDEAL_SPEEDUP = Residual(
    low=0.63,
    high=1.0,
    basis="times from the 20th percentile of 34 MagicDec speedups (median .68 of naive) to naive",
)


def ideal() -> Calibration:
    """The naive roofline: all efficiencies 1, all constants 0."""
    return Calibration(
        name="ideal",
        origin="datasheet peaks",
        step_residual=IDEAL_STEP,
        speedup_residual=IDEAL_SPEEDUP,
    )


def calibration_for(accelerator: Accelerator, stack: str) -> tuple[Calibration, str]:
    """The calibration of a stack on an accelerator, and a sentence on what it rests on.

    `stack` is a name of `STACKS`, a name with a version as in "vllm@0.19.0", or a TOML's path. A
    version that none was fitted to takes the nearest older one, else the oldest, and says so.
    Raises UnknownName for a stack or a version that is none.
    """
    if stack.endswith(".toml") or "/" in stack:
        own = read(Path(stack))
        if own.accelerator in ("", accelerator.name):
            return own, f"calibration {own.name} of {stack}: {own.origin}"
        spread = _spread_from(own.accelerator, accelerator)
        return widened(own, spread, f"transfer from {own.accelerator}"), (
            f"warning: calibration {own.name} of {stack} was fitted on {own.accelerator}, not on "
            f"{accelerator.name}: efficiencies and host times are kept, rates are the datasheet's, "
            "intervals are wider"
        )
    name, _, version = spelling.stack(stack).partition("@")
    if name not in STACKS:
        raise UnknownName("stack", name, STACKS, f"known: {', '.join(STACKS)}, or a path to a TOML")
    if name == "ideal":
        return ideal(), "calibration ideal: datasheet peaks, no launch or host time"
    found = _shipped(accelerator.name, name, version)
    if found is not None:
        found = replace(found, layers=layer_fits(accelerator.name, name))
        return found, f"calibration {found.name}{_stands_in(found, version)}: {found.origin}"
    for relative, why, spread in relatives(accelerator):
        found = _shipped(relative, name, version)
        if found is not None:
            lent, linked = _linked_alike(found, accelerator, relative, name)
            states = layer_fits(accelerator.name, name) or layer_fits(relative, name)
            lent = replace(lent, layers=states)
            return widened(lent, spread, f"transfer from {relative}"), (
                f"calibration {found.name}{_stands_in(found, version)}, transferred to "
                f"{accelerator.name} ({why}){linked}: efficiencies and launch times are kept, "
                "rates are the datasheet's, intervals are wider"
            )
    return ideal(), f"calibration ideal: none ships for {stack}"  # as while they are being fitted


CALIBRATED = {
    "Ampere": ("a100-sxm-80gb",),
    "Hopper": ("h100-sxm", "h200-sxm"),
    "Blackwell": ("b200-sxm",),
    "Ada": ("l40s", "l40"),
}
"""The parts of each architecture family whose kernels were measured, the best known first."""
AMD = "mi300x"
"""No table of kernels holds an AMD part: published steps of this one give a single slowdown."""
TRANSFER_SPREAD = 1.10
"""Factor added to an interval, in quadrature of logarithms, within an architecture family: H200's
steps lie within it of H100's calibrations (docs/accuracy.md), as versions of one engine on one GPU
do of each other's."""
STRANGER_SPREAD = 1.35
"""Factor added to an interval, in quadrature of logarithms, between architecture families: of the
eight (GPU, stack) pairs that can be tried, five have 80 % of their steps within it; SGLang's on
A100, H100 and L40S differ by more (docs/accuracy.md)."""
EXPERT_SPREAD = 1.30
"""Factor added to an interval, in quadrature of logarithms, for mixtures of experts of a stack that
no published step of such a model says a residual of."""


def relatives(accelerator: Accelerator) -> Iterator[tuple[str, str, float]]:
    """Calibrated accelerators nearest to one without a calibration, why, and the spread to add.

    The same architecture family first; then the part that is best known of those with the same
    kind of memory, HBM or not.
    """
    family = accelerator.architecture.split()[0]
    for name in CALIBRATED.get(family, ()):
        yield name, f"the calibrated {family} part", TRANSFER_SPREAD
    if accelerator.vendor == "AMD":
        same = accelerator.architecture == "CDNA3"
        yield (
            AMD,
            "the AMD part that published runs used",
            (TRANSFER_SPREAD if same else STRANGER_SPREAD),
        )
    stacked = accelerator.memory_type.upper().startswith("HBM")
    nearest = CALIBRATED["Hopper" if stacked else "Ada"]
    kind = "HBM" if stacked else "GDDR"
    for name in (*nearest, *CALIBRATED["Ampere"]):
        yield (
            name,
            f"no {family} part is calibrated for it, the nearest with {kind}",
            STRANGER_SPREAD,
        )


def _spread_from(other: str, accelerator: Accelerator) -> float:
    """What to add to an interval of a calibration of another part."""
    family = load(other).architecture.split()[0] if other in names() else ""
    return TRANSFER_SPREAD if family == accelerator.architecture.split()[0] else STRANGER_SPREAD


def _linked_alike(
    found: Calibration, accelerator: Accelerator, relative: str, stack: str
) -> tuple[Calibration, str]:
    """All-reduces of a part that meets its peers in the same way, and what a sentence adds."""
    over_pcie = accelerator.link_domain <= 1
    if over_pcie == (relative in CALIBRATED["Ada"]):
        return found, ""
    peers = CALIBRATED["Ada" if over_pcie else "Hopper"]
    alike = next(filter(None, (_shipped(peer, stack, "") for peer in peers)), None)
    if alike is None:
        return found, ""
    way = "PCIe" if over_pcie else "a fast link"
    return (
        replace(found, collective=alike.collective),
        f", all-reduces of {alike.name}, as they run over {way}",
    )


def widened(found: Calibration, spread: float, why: str) -> Calibration:
    """A calibration with its residuals' intervals widened by a factor, and the reason added to
    their basis; `ideal` is returned as it is."""
    if found.name == "ideal":
        return found
    names = ("step_residual", "speedup_residual", *MORE_RESIDUALS)
    wider: dict[str, Any] = {
        name: _wider(residual, spread, why)
        for name in names
        if (residual := getattr(found, name)) is not None
    }
    return replace(found, **wider)


def _wider(residual: Residual, spread: float, why: str) -> Residual:
    """The interval with both ends moved out around its middle by another, independent cause."""
    middle = math.sqrt(residual.low * residual.high)
    reach = float(combined_spread(residual.high / middle, spread))
    basis = f"{residual.basis}; widened for {why}"
    return Residual(low=middle / reach, high=middle * reach, basis=basis)


@cache
def _shipped(accelerator: str, stack: str, version: str) -> Calibration | None:
    """The newest shipped version of a stack on that part, or the nearest to the one asked for."""
    prefix = f"{accelerator}_{stack}_"
    versions = [entry[len(prefix) : -5] for entry in _files() if entry.startswith(prefix)]
    if not versions:
        return None
    versions.sort(key=Version)
    try:
        wanted = Version(version or versions[-1])
    except InvalidVersion:
        known = f"known: {', '.join(versions)}"
        raise UnknownName("version", f"{stack}@{version}", versions, known) from None
    older = [v for v in versions if Version(v) <= wanted]
    return read(CALIBRATIONS / f"{prefix}{(older or versions[:1])[-1]}.toml")


def _stands_in(found: Calibration, version: str) -> str:
    """What a sentence adds where another version was asked for."""
    if version in ("", found.name.rpartition("_")[2]):
        return ""
    return f", the nearest to {version} (versions differ by 3 to 9 %)"


@cache
def _files() -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in CALIBRATIONS.glob("*.toml")))


def forget() -> None:
    """Read shipped files anew: a script has written them."""
    for kept in (_shipped, _files, stack_tables):
        kept.cache_clear()
