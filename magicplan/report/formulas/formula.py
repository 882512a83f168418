"""A closed form with a workload's numbers put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from magicplan.units import human_count


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Formula:
    """A closed form, why it holds, this workload's value, and what that says."""

    name: str
    formula: Any
    derivation: str
    inputs: dict[str, float]
    value: float | None
    unit: str
    says: str


def number(value: float) -> str:
    """A readable number: scientific only where it must be."""
    if value and not 1e-3 <= abs(value) < 1e3:
        return f"{value:.3e}" if abs(value) < 1 else human_count(value)
    return f"{value:.3g}"
