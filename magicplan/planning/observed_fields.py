"""Facts of one benchmark run, and how fields of result files become them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.lengths import Lengths
from magicplan.roofline.deployment import Array

STATABLE = ("concurrency", "requests_per_s", "prompts", "prompt", "output")
"""Facts that a file may leave out and its reader then states."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedRun:
    """What a file says. `figures` are seconds by names such as "ttft_p99_seconds", and rates
    "requests_per_s", "output_tokens_per_s"."""

    path: str
    tool: str
    concurrency: float | None
    requests_per_s: float | None
    prompts: float | None
    lengths: Lengths
    figures: Mapping[str, float]
    tokens_per_round: float | None = None
    """Accept length, where the server speculated and the tool saw it."""
    model: str = ""
    """As the file names it, "" where it does not."""
    model_field: str = ""
    failed: float = 0.0
    """Requests that ended in an error, of which no figure speaks."""


def loading(
    path: Path, concurrency: Any, rate: Any, stated: dict[str, float]
) -> tuple[float | None, float | None]:
    """A fixed concurrency wins over a rate; "inf" is no rate."""
    limit = stated.get("concurrency", concurrency)
    if limit is not None:
        return checked(path, "max_concurrency", limit), None
    speed = stated.get("requests_per_s", rate)
    if speed in (None, "inf") or (isinstance(speed, float) and math.isinf(speed)):
        return None, None
    return None, checked(path, "request_rate", speed)


def lengths_of(prompt: Array, output: Array) -> Lengths:
    """Requests of these prompts [n] and outputs [m], the shorter array repeated."""
    size = max(prompt.size, output.size, 64)
    return Lengths(
        prompt=np.maximum(np.rint(np.resize(np.sort(prompt.astype(np.float64)), size)), 1.0),
        output=np.maximum(np.rint(np.resize(output.astype(np.float64), size)), 1.0),
    )


def needed(path: Path, d: dict[str, Any], stated: dict[str, float], name: str, field: str) -> float:
    """A fact as stated, or as the file says it. Raises SpecError that tells how to state it."""
    if name in stated:
        return stated[name]
    if field in d:
        return positive(path, d, field)
    raise SpecError(path, f"does not say {field}: add {example(name)}")


def example(name: str) -> str:
    """The option that adds what a file leaves out."""
    return f"--stated {name}={8 if name == 'concurrency' else 1024}"


def text_of(path: Path, d: dict[str, Any], field: str) -> str:
    """Text, "" where it is left out."""
    value = d.get(field)
    if value is not None and not isinstance(value, str):
        raise SpecError(path, f"{field} is {value!r}, expected text")
    return value or ""


def list_of(path: Path, d: dict[str, Any], field: str) -> list[float]:
    """Positive numbers; zeros stand for requests that failed and are left out."""
    values = d.get(field) or []
    if not isinstance(values, list):
        raise SpecError(path, f"{field} is no list")
    return [checked(path, f"{field}[{i}]", value) for i, value in enumerate(values) if value]


def positive(path: Path, d: dict[str, Any], field: str, prefix: str = "") -> float:
    """A number above zero that must be there; `prefix` completes its name in errors."""
    if field not in d:
        raise SpecError(path, f"{prefix}{field} is missing: another version of the tool?")
    return checked(path, prefix + field, d[field])


def number(path: Path, d: dict[str, Any], field: str, prefix: str = "") -> float:
    """A number from zero that is there."""
    return checked(path, prefix + field, d[field], low=0.0)


def checked(path: Path, field: str, value: Any, low: float = 1e-12) -> float:
    """A finite number from `low`. Raises SpecError naming the field."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= 1e15:
        raise SpecError(path, f"{field} is {value!r}, expected a positive number")
    return float(value)
