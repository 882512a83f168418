"""Finding and reading calibrations: shipped ones by (accelerator, stack), a user's own by path."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError, UnknownName
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    HostFit,
    LinearFit,
    Residual,
)
from magicplan.hardware_specs.load import load, names

CALIBRATIONS = Path(__file__).parent / "calibrations"
STACKS = ("vllm", "sglang", "trtllm", "magicdec", "ideal")

# What `benchmarks/naive_roofline.py` prints: published steps take 1.44 to 2.41 times the naive
# roofline (20th and 80th percentile), and speedups reach .63 to .74 of the naive one. Until a
# calibration ships, this is all that is known of a stack.
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
    name, _, version = stack.partition("@")
    if name not in STACKS:
        raise UnknownName("stack", name, STACKS, f"known: {', '.join(STACKS)}, or a path to a TOML")
    if name == "ideal":
        return ideal(), "calibration ideal: datasheet peaks, no launch or host time"
    found = _shipped(accelerator.name, name, version)
    if found is not None:
        return found, f"calibration {found.name}{_stands_in(found, version)}: {found.origin}"
    for relative, why, spread in relatives(accelerator):
        found = _shipped(relative, name, version)
        if found is not None:
            lent, linked = _linked_alike(found, accelerator, relative, name)
            return widened(lent, spread, f"transfer from {relative}"), (
                f"calibration {found.name}{_stands_in(found, version)}, transferred to "
                f"{accelerator.name} ({why}){linked}: efficiencies and launch times are kept, "
                "rates are the datasheet's, intervals are wider"
            )
    return ideal(), (
        f"calibration ideal: none ships for {stack}, so times are datasheet floors and real steps "
        "take longer"
    )


CALIBRATED = {
    "Ampere": ("a100-sxm-80gb",),
    "Hopper": ("h100-sxm",),
    "Blackwell": ("b200-sxm",),
    "Ada": ("l40s", "l40"),
}
"""The parts of each architecture family whose kernels were measured, the best known first."""
AMD = "mi300x"
"""No table of kernels holds an AMD part: published steps of this one give a single slowdown."""
TRANSFER_SPREAD = 1.10
"""Factor added to an interval, in quadrature of logarithms, within an architecture family. No
public pair of kernel tables within one tells it: versions of one engine on one GPU differ by up to
this much."""
STRANGER_SPREAD = 1.35
"""The same between families. Of the eight (GPU, stack) pairs that can be tried, six have 80 % of
their steps within it; SGLang's attention on A100 and H100 differs by more (docs/accuracy.md)."""


EXPERT_SPREAD = 1.25
"""The same for mixtures of experts, which took no part in the fit of a stack: what brings four of
five published steps of theirs inside."""


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
            "the AMD part that published runs know",
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
    peer = CALIBRATED["Ada" if over_pcie else "Hopper"][0]
    alike = _shipped(peer, stack, "")
    if alike is None:
        return found, ""
    way = "PCIe" if over_pcie else "a fast link"
    return (
        replace(found, collective=alike.collective),
        f", all-reduces of {alike.name}, as they run over {way}",
    )


def widened(found: Calibration, spread: float, why: str) -> Calibration:
    """The same constants with both intervals moved out by a factor; `ideal` has nothing to add."""
    if found.name == "ideal":
        return found
    return replace(
        found,
        step_residual=_wider(found.step_residual, spread, why),
        speedup_residual=_wider(found.speedup_residual, spread, why),
    )


def _wider(residual: Residual, spread: float, why: str) -> Residual:
    """Both ends moved out: independent causes add in quadrature of logarithms."""
    middle = math.sqrt(residual.low * residual.high)
    reach = math.exp(math.hypot(math.log(residual.high / middle), math.log(spread)))
    basis = f"{residual.basis}; widened for {why}"
    return Residual(low=middle / reach, high=middle * reach, basis=basis)


@cache
def _shipped(accelerator: str, stack: str, version: str) -> Calibration | None:
    """The newest shipped version of a stack on that part, or the nearest to the one asked for."""
    prefix = f"{accelerator}_{stack}_"
    versions = [entry[len(prefix) : -5] for entry in _files() if entry.startswith(prefix)]
    if not versions:
        return None
    versions.sort(key=version_key)
    if version and not version[0].isdigit():
        known = f"known: {', '.join(versions)}"
        raise UnknownName("version", f"{stack}@{version}", versions, known)
    older = [v for v in versions if not version or version_key(v) <= version_key(version)]
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


def version_key(version: str) -> list[int]:
    """Sorts versions by their numbers: 0.5.10 after 0.5.9, release candidates before a release."""
    plain = version.replace("-", " ").replace("rc", " -1 ")
    spaced = "".join(c if c.isdigit() or c == "-" else " " for c in plain)
    numbers = [int(part) for part in spaced.split()]
    return numbers + [0] * (8 - len(numbers))


def stack_constants(stack: str) -> dict[str, Any]:
    """Host constants and residuals of a serving stack, as a calibration file holds them."""
    kept = ("host", "step_residual", "speedup_residual")
    return {k: v for k, v in _stack(stack).items() if k in kept}


def stack_evidence(stack: str) -> list[dict[str, Any]]:
    """What a serving stack's constants rest on, a table a group of them."""
    return list(_stack(stack).get("evidence", []))


def prefill_share(stack: str, *, dense: bool = True) -> float:
    """Of the prefill of neighbours, what a serving benchmark of that stack shows in its time per
    token; the rest overlaps or falls into the time to first token."""
    found = _stack(stack)
    return float((found if dense else found.get("experts", {})).get("prefill_share", 1.0))


def streamed_rounds(stack: str) -> float:
    """Rounds that a first token waits in published runs of that stack: they send several at once,
    and do not say how many."""
    return float(_stack(stack).get("streamed_rounds", 0.0))


def engine_fits(stack: str, fp8: LinearFit, bf16: LinearFit, *, fp4: bool) -> dict[str, LinearFit]:
    """Linear layers that no public table holds, by the slowdown against 8-bit ones that published
    runs of whole engines show: those in 4 bits, and grouped products of experts."""
    found, seen = _stack(stack), {}
    if fp4 and found.get("fp4"):
        seen["fp4"] = _slower(fp8, bf16, found["fp4"]["launch_seconds"], found["fp4"]["slowdown"])
    for dtype in ("fp8", "fp4") if fp4 else ("fp8",):
        slowdown = found.get("experts", {}).get(f"{dtype}_slowdown")
        if slowdown:
            seen[f"{dtype}_experts"] = _slower(fp8, bf16, 0.0, slowdown)
    return seen


def _slower(fp8: LinearFit, bf16: LinearFit, launch: float, slowdown: float) -> LinearFit:
    """Launched as 16-bit layers are: engines fuse quantisation into the kernel before."""
    return replace(
        fp8,
        launch_seconds=bf16.launch_seconds + launch,
        memory_efficiency=min(fp8.memory_efficiency / slowdown, 1.0),
        compute_efficiency=min(fp8.compute_efficiency / slowdown, 1.0),
        requantise_efficiency=math.inf,
    )


@cache
def stack_tables() -> dict[str, Any]:
    """What kernels leave out, by stack, as `stacks.toml` holds it."""
    return tomllib.loads((CALIBRATIONS.parent / "stacks.toml").read_text(encoding="utf-8"))


def _stack(stack: str) -> dict[str, Any]:
    return dict(stack_tables().get(stack, {}))


def as_toml(data: dict[str, Any]) -> Calibration:
    """A calibration from TOML's tables. Raises SpecError with the field."""
    return _build(str(data.get("name", "calibration")), data)


def read(path: Path) -> Calibration:
    """A calibration file. Raises SpecError with the file and the field."""
    try:
        return _build(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None


def _build(where: str, data: dict[str, Any]) -> Calibration:
    return Calibration(
        name=_text(where, data, "name"),
        origin=_text(where, data, "origin"),
        step_residual=_part(where, data, "step_residual", Residual),
        speedup_residual=_part(where, data, "speedup_residual", Residual),
        linear=_by_dtype(where, data, "linear", LinearFit),
        attention=_by_dtype(where, data, "attention", AttentionFit),
        draft_attention=_by_dtype(where, data, "draft_attention", AttentionFit),
        accelerator=_text(where, data, "accelerator") if "accelerator" in data else "",
        collective=_part(where, data, "collective", CollectiveFit),
        host=_part(where, data, "host", HostFit),
        evidence=_evidence(where, data),
    )


def _evidence(where: str, data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    found = data.get("evidence", [])
    told = isinstance(found, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("part"), str) for entry in found
    )
    if not told:
        raise SpecError(where, "evidence is not a list of tables that each name their part")
    return tuple(found)


def _text(where: str, data: dict[str, Any], key: str) -> str:
    if not isinstance(data.get(key), str):
        raise SpecError(where, f"{key} is missing, expected a text")
    return str(data[key])


def _by_dtype(where: str, data: dict[str, Any], key: str, kind: type[Any]) -> dict[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise SpecError(where, f"{key} is not a table of dtypes")
    return {dtype: _part(where, table, dtype, kind) for dtype in table}


def _part(where: str, data: dict[str, Any], key: str, kind: type[Any]) -> Any:
    table = data.get(key, {})
    known = {entry.name: entry for entry in fields(kind)}
    if not isinstance(table, dict) or (unknown := set(table) - set(known)):
        raise SpecError(
            where,
            f"[{key}] takes {', '.join(known)}"
            + (f", not {', '.join(sorted(unknown))}" if isinstance(table, dict) else ""),
        )
    for name, value in table.items():
        wanted = str if name == "basis" else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SpecError(where, f"{key}.{name} is {value!r}, expected a number")
    try:
        return kind(**table)
    except TypeError:
        raise SpecError(where, f"[{key}] needs {', '.join(known)}") from None
