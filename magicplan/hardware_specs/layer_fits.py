"""What recurrent layers take on a part under a stack, where kernel tables hold them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from magicplan.fields import Table, read_toml
from magicplan.hardware_specs.calibration import LinearFit

FILE = Path(__file__).parent / "layers.toml"
MEASURED = ("gated_delta", "kda")
LIKE = {
    "mamba2": "gated_delta", "mamba": "gated_delta", "lightning": "gated_delta", "rg_lru": "kda",
}  # fmt: skip
"""Recurrences without a table, and whose form they take: a state is read, updated, written back."""


@cache
def entries() -> tuple[Table, ...]:
    """Every fit of the file."""
    return tuple(read_toml(FILE).tables("fits"))


def layer_fits(accelerator: str, stack: str) -> dict[str, LinearFit]:
    """Fits by kind of layer for a part under a stack: its own, else another stack's on that part,
    else nothing, which is the datasheet's roofline."""
    found = {}
    for kind in MEASURED:
        entry = _nearest(kind, accelerator, stack)
        if entry is not None:
            found[kind] = LinearFit(
                launch_seconds=entry.get("launch_seconds", float),
                memory_efficiency=entry.get("memory_efficiency", float),
            )
    for kind, like in LIKE.items():
        lent = found.get(like) or found.get("gated_delta") or found.get("kda")
        if lent is not None:
            found[kind] = lent
    return found


def basis(kind: str, accelerator: str, stack: str) -> str:
    """A sentence on what a kind's times rest on; "" where nothing was measured."""
    entry = _nearest(LIKE.get(kind, kind), accelerator, stack)
    if entry is None or kind not in {*MEASURED, *LIKE}:
        return ""
    whose = f"{entry.get('stack', str)} {entry.get('version', str)} on {accelerator}"
    lent = f", lent by {LIKE[kind]}, whose form it shares" if kind in LIKE else ""
    return (
        f"{kind} layers: kernel times of {whose}{lent} (aiconfigurator, commit 095f58a; held-out "
        f"error {entry.get('held_out_mean_error', float):.1%})"
    )


def _nearest(kind: str, accelerator: str, stack: str) -> Table | None:
    mine = [
        e for e in entries()
        if e.get("layer", str) == kind and e.get("accelerator", str) == accelerator
    ]  # fmt: skip
    own = [e for e in mine if e.get("stack", str) == stack]
    return next(iter([*own, *mine]), None)
