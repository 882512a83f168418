"""What the drawings of all figures share: colours, axes, layers of marks, hover boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from magicplan.report.document.charts import Scale

COLOURS = 8
"""Series colours in the style sheet, `--s1` and on; a ninth series starts over."""
LABELS = {
    "seconds": "format(datum.value, '~s') + 's'",
    "bytes": "format(datum.value, '~s') + 'B'",
    "flops": "format(datum.value, '~s') + 'FLOP/s'",
    "ratio": "format(datum.value, '~g') + 'x'",
    "percent": "format(datum.value, '~g') + ' %'",
    "share": "format(datum.value, '~%')",
    "usd": "'$' + format(datum.value, ',~g')",
    "count": "abs(datum.value) < 1 ? format(datum.value, '~g') : format(datum.value, '~s')",
    "tokens": "datum.value >= 1048576 ? datum.value / 1048576 + 'm' : "
    "datum.value >= 1024 ? datum.value / 1024 + 'k' : datum.value + ''",
}
"""What an axis writes beside a tick, by its unit."""
Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def layer(mark: Spec, rows: Rows, encoding: Spec) -> Spec:
    """Marks of one kind over rows of data."""
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}


def quantity(field: str, **more: Any) -> Spec:
    """A quantity to be placed; one without scale is taken as it stands."""
    return {"field": field, "type": "quantitative", **more}


def nominal(field: str, **more: Any) -> Spec:
    """A name."""
    return {"field": field, "type": "nominal", **more}


BARE: Spec = {"scale": None, "legend": None}


def tooltip(*fields: tuple[str, str]) -> list[Spec]:
    """What a hover box says: fields of a row with their titles."""
    return [nominal(field, title=title) for field, title in fields]


def axis_of(channel: str, scale: Scale, values: Sequence[float | None]) -> Spec:
    """Ticks of a logarithmic or token axis are chosen here: few decades would show none."""
    known = [value for value in values if value and value > 0]
    axis: Spec = {"labelExpr": LABELS[scale.unit]}
    if scale.unit == "tokens" or scale.log:
        axis["values"] = _powers(known) if scale.unit == "tokens" else _round_values(known)
    elif scale.unit == "count":
        axis["tickMinStep"] = 1
    kind: Spec = {"type": "log"} if scale.log else {"zero": False}
    return quantity(
        channel, title=scale.title, axis=axis, scale=kind | {"padding": 12, "nice": False}
    )


def _powers(values: Sequence[float]) -> list[float]:
    """Powers of two, or of four over a wide range, that span the values."""
    if not values:
        return []
    first, last = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return [2.0**k for k in range(first, last + 1, 1 if last - first <= 7 else 2)]


def _round_values(values: Sequence[float]) -> list[float]:
    """Powers of ten around the values, with more between them over few decades."""
    if not values:
        return []
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = max(values) / min(values)
    steps = (
        (1.0,) if span > 100 else (1.0, 2.0, 5.0) if span > 5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    )
    return [float(f"{step}e{power}") for power in range(first - 1, last + 1) for step in steps]


def named(labels: Sequence[str]) -> str:
    """An expression that puts a label in the place of its number; several lines where it has."""
    lines = [label.split("\n") for label in labels]
    return f"{json.dumps(lines)}[datum.value]"
