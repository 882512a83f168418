"""Accept lengths that `auto` predicts for rows of the tables that it does not see."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from magicplan.acceptance_specs.choose import BY_POSITION, Wanted, choose
from magicplan.acceptance_specs.entry import Entry, entries
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array

DRAFTED = 3
"""Drafted tokens at which lengths are compared, or as many as a row measured."""
SHORT = 1000.0
"""Context at which they are compared [tokens], or the nearest one that a row covers."""
FOLDS: dict[str, Callable[[Entry], str]] = {
    "target": lambda row: row.target,
    "source": lambda row: row.source,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """A row's mean accept length, bonus token included, and what is predicted without its fold."""

    row: Entry
    without: str
    task_named: bool
    measured: float
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.measured - 1


def lengths_held_out(method: str) -> Iterator[Length]:
    """Every row of a method's table whose target and task are known, by every fold."""
    rows = entries(method)
    known = [r for r in rows if r.kind in BY_POSITION and "not recorded" not in (r.target, r.task)]
    for without, name in FOLDS.items():
        for row in known:
            left = tuple(other for other in rows if name(other) != name(row))
            if left and row.target != "any":
                yield from (_length(method, row, left, without, named) for named in (True, False))


def _length(
    method: str, row: Entry, left: tuple[Entry, ...], without: str, task_named: bool
) -> Length:
    drafted = min(DRAFTED, len(row.numbers))
    ctx = np.array([float(np.clip(SHORT, *row.ctx))])
    wanted = Wanted(
        method=method,
        target=row.target,
        family=row.family,
        task=row.task if task_named else None,
        ctx=(float(ctx[0]), float(ctx[0])),
    )
    # the package gives a function the name of the module that holds it
    module = importlib.import_module("magicplan.acceptance_specs.choose")
    with patch.object(module, "entries", lambda _: left):
        found = choose(wanted)
    low, high = (_tokens(end, drafted, ctx) for end in found.interval())
    return Length(
        row=row,
        without=without,
        task_named=task_named,
        measured=_tokens(row.model("", 0.0), drafted, ctx),
        predicted=_tokens(found, drafted, ctx),
        low=low,
        high=high,
    )


def _tokens(model: Acceptance, drafted: int, ctx: Array) -> float:
    return 1 + float(model.survival(drafted, ctx).sum())
