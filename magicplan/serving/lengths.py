"""Prompt and output lengths as one joint sample of equally likely requests.

Numbers, distributions and traces all become the same few hundred (prompt, output) pairs, so that
every mean, percentile and length-biased moment downstream is an average over an array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from magicplan.errors import FieldError
from magicplan.roofline.deployment import Array

POINTS = 512
"""Requests in a sample: its 99th percentile still stands on five of them."""
STEP = 317
"""Odd, near POINTS / golden ratio: pairs prompts with outputs as a lattice, without correlation."""
MAX_LENGTH = 2.0**24
STEP_SHARE = 0.03
"""Two percentiles nearer than this say where lengths jump, and nothing of the tail beyond."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lengths:
    """Equally likely requests: prompt [n] and output [n] tokens, whole and at least 1."""

    prompt: Array
    output: Array

    def scaled(self, *, prompt: float = 1.0, output: float = 1.0) -> Lengths:
        """Every prompt or output longer by a factor."""
        return Lengths(
            prompt=np.maximum(np.rint(self.prompt * prompt), 1.0),
            output=np.maximum(np.rint(self.output * output), 1.0),
        )


def independent(prompt: Any, output: Any) -> Lengths:
    """Prompts and outputs that know nothing of each other. Raises UsageError naming the field."""
    share = (np.arange(POINTS) + 0.5) / POINTS
    shuffled = share[(np.arange(POINTS) * STEP) % POINTS]
    return Lengths(
        prompt=quantiles(prompt, share, "prompt"), output=quantiles(output, shuffled, "output")
    )


def quantiles(spec: Any, share: Array, field: str) -> Array:
    """Tokens at each `share` (0 to 1) of a distribution, stated as in `Traffic.prompt`.

    Raises FieldError.
    """
    if isinstance(spec, Mapping):
        values = _percentiles(spec, share, field)
    elif isinstance(spec, str) and ":" in spec:
        values = _named(spec, share, field)
    else:
        values = np.full(share.shape, _length(spec, field))
    return np.maximum(np.rint(values), 1.0)


def _named(spec: str, share: Array, field: str) -> Array:
    kind, _, rest = spec.partition(":")
    numbers = [_length(part, field) for part in rest.split(",")]
    if len(numbers) == 2 and kind == "uniform" and numbers[0] <= numbers[1]:
        return np.asarray(numbers[0] + share * (numbers[1] - numbers[0]))
    if len(numbers) == 2 and kind == "lognormal" and numbers[0] < numbers[1]:
        normal = NormalDist()
        sigma = math.log(numbers[1] / numbers[0]) / normal.inv_cdf(0.95)
        return np.asarray(numbers[0] * np.exp(sigma * _normal(share)))
    raise FieldError(
        field,
        f"{spec!r}: expected a number, uniform:LOW,HIGH, lognormal:MEDIAN,P95 or percentiles such "
        "as {p50 = 800, p95 = 4000}",
    )


def _normal(share: Array) -> Array:
    normal = NormalDist()
    return np.asarray([normal.inv_cdf(float(s)) for s in share])


def _percentiles(spec: Mapping[str, Any], share: Array, field: str) -> Array:
    """A lognormal through two percentiles; through more, one piece between each two of them, whose
    outer pieces go on, unless they are a step (`STEP_SHARE`). A single one, p0 and p100 are lengths
    that none exceeds."""
    points = []
    for key, value in spec.items():
        named = re.fullmatch(r"p(\d{1,2}(\.\d+)?|100)", str(key))
        if named is None:
            expected = "expected percentiles p0 to p100, such as p50 and p95"
            raise FieldError(f"{field}.{key}", f": {expected}")
        points.append((float(named[1]) / 100, _length(value, f"{field}.{key}")))
    points.sort()
    tokens = [t for _, t in points]
    if not points or tokens != sorted(tokens):
        raise FieldError(field, ": percentiles must be given and must not fall")
    logs = np.log(tokens)
    inner = [i for i, (p, _) in enumerate(points) if 0 < p < 1]
    if len(inner) < 2:
        return np.asarray(np.exp(np.interp(share, [p for p, _ in points], logs)))
    z = _normal(np.asarray([points[i][0] for i in inner]))
    at, known = _normal(share), logs[inner]
    wide = np.diff([points[i][0] for i in inner]) >= STEP_SHARE
    slopes = np.where(wide, np.diff(known) / np.diff(z), 0.0)
    drawn = np.interp(at, z, known)
    drawn = np.where(at < z[0], known[0] + (at - z[0]) * slopes[0], drawn)
    drawn = np.where(at > z[-1], known[-1] + (at - z[-1]) * slopes[-1], drawn)
    least = float(logs[0]) if points[0][0] == 0 else -math.inf
    most = float(logs[-1]) if points[-1][0] == 1 else math.inf
    return np.asarray(np.exp(np.clip(drawn, least, most)))


def _length(value: Any, field: str) -> float:
    """Tokens, "64k" included."""
    text = str(value).strip().lower()
    scale = 1024.0 if text.endswith("k") else 1.0
    try:
        number = float(text.removesuffix("k")) * scale
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 1 <= number <= MAX_LENGTH:
        raise FieldError(field, f"{value!r}: expected tokens from 1 to {MAX_LENGTH:.0f}")
    return number
