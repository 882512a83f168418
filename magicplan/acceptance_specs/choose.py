"""`--acceptance auto`: the nearest published measurement, and how far it has to be stretched.

Draft, target and family decide first; of each task the row nearest in context then speaks (of
several such the median), and where no task is named the median over tasks stands for them; of two
the lower one. A row whose
target was not recorded stands behind those of the family wanted, and beside those of others.

The interval grows with the stretch: by .05 for another model family, .02 for another model or
draft of the family, .01 for every doubling of context or KV budget outside what was measured.
These steps are the differences seen between neighbouring rows of the tables, rounded up. Positions
beyond those measured follow `positions.beyond_measured`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from magicplan.acceptance_specs.entry import Entry, entries, methods
from magicplan.acceptance_specs.positions import beyond_measured
from magicplan.errors import FieldError
from magicplan.roofline.acceptance import Acceptance, Both, PerPosition

OTHER_FAMILY, OTHER_MODEL, A_DOUBLING = 0.05, 0.02, 0.01
WIDEST = 0.3

__all__ = ["choose", "choose_both", "methods"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wanted:
    """What acceptance is needed for. `ctx` is the range of contexts asked about."""

    method: str
    target: str
    family: str
    draft: str = ""
    task: str | None = None
    ctx: tuple[float, float] = (1.0, 1.0)
    budget: float | None = None


def choose(wanted: Wanted) -> Acceptance:
    """The published rates nearest to what is wanted. Raises UsageError where there are none."""
    if wanted.method not in methods():
        raise FieldError(
            "acceptance",
            f"auto: none published ships for drafting by {wanted.method}; state it, such as 0.8",
        )
    rows = entries(wanted.method)
    row = _nearest(rows, wanted)
    stretch = _stretches(row, wanted)
    related = [r for r in rows if r.family in (wanted.family, "any")] or list(rows)
    if wanted.task is None and len({_key(entry.task) for entry in related}) > 1:
        rates = [_first_position(entry) for entry in related]
        words = f"no --task given, and tasks differ from {min(rates):.2f} to {max(rates):.2f}"
        stretch.append(((max(rates) - min(rates)) / 2, words))
    uncertainty = min(WIDEST, row.half_width + sum(width for width, _ in stretch))
    model = row.model("", uncertainty)
    said = [words for _, words in stretch]
    if isinstance(model, PerPosition):
        model, words = beyond_measured(model, rows, WIDEST)
        said.append(words)
    how_far = "; stretched: " + ", ".join(said) if said else ""
    pair = f"{row.draft} for {row.target}" if row.draft else row.target
    origin = (
        f"auto: {wanted.method}, {pair}, {row.task} ({row.source}; {row.basis}){how_far}; "
        f"80 % interval +-{uncertainty:.3f} a position"
    )
    return replace(model, origin=origin)


def choose_both(cache: Wanted, weights: Wanted) -> Acceptance:
    """A target that drafts with quantised weights over a part of its cache: a token has to pass
    both, taken as independent, so their rates multiply. Raises UsageError."""
    kept, narrow = choose(cache).of_self_draft(), choose(weights)
    return Both(
        parts=(kept, narrow),
        origin=f"{cache.method} times {weights.method}, as if independent: "
        f"[{kept.origin}] and [{narrow.origin}]",
        uncertainty=min(WIDEST, math.hypot(kept.uncertainty, narrow.uncertainty)),
    )


def _nearest(rows: tuple[Entry, ...], wanted: Wanted) -> Entry:
    """The median over tasks of each task's row nearest in context, among the rows nearest in
    everything else."""
    known = any(row.family == wanted.family for row in rows)
    least = min(_distance(row, wanted, known) for row in rows)
    by_task: dict[str, list[Entry]] = {}
    for row in rows:
        if _distance(row, wanted, known) == least:
            by_task.setdefault(_key(row.task), []).append(row)
    return _median([_median(_nearest_context(same, wanted)) for same in by_task.values()])


def _nearest_context(rows: list[Entry], wanted: Wanted) -> list[Entry]:
    beyond = [_doublings(row.ctx, wanted.ctx) for row in rows]
    return [row for row, doublings in zip(rows, beyond, strict=True) if doublings == min(beyond)]


def _median(rows: list[Entry]) -> Entry:
    """By first position, the lower one of two."""
    return sorted(rows, key=_first_position)[(len(rows) - 1) // 2]


def _key(task: str) -> str:
    """A task's name without the ways in which sources spell it: MT-Bench, mtbench."""
    return "".join(c for c in task.lower() if c.isalnum())


def _first_position(row: Entry) -> float:
    """Acceptance of the first drafted token, for comparing rows."""
    return row.numbers[0] if row.numbers else row.near


def _distance(row: Entry, wanted: Wanted, family_known: bool) -> tuple[float, ...]:
    """Task first where one is named, then draft, target, family; `family_known` says whether the
    table has rows of the family wanted."""
    elsewhere = 2.0 if row.family == "any" and family_known else 1.0
    return (
        float(wanted.task is not None and _key(wanted.task) not in _key(row.task)),
        float(bool(row.draft) and row.draft != wanted.draft),
        float(row.target != wanted.target),
        0.0 if row.family == wanted.family else elsewhere,
    )


def _stretches(row: Entry, wanted: Wanted) -> list[tuple[float, str]]:
    """Each way in which the row is not what is wanted: width and words."""
    found: list[tuple[float, str]] = []
    if row.family not in (wanted.family, "any"):
        found.append((OTHER_FAMILY, f"measured on {row.target}, not {wanted.target}"))
    elif row.target != wanted.target:
        found.append((OTHER_MODEL, f"measured on {row.target}, not {wanted.target}"))
    if row.draft and row.draft != wanted.draft:
        found.append((OTHER_MODEL, f"with {row.draft}, not {wanted.draft}"))
    if wanted.task and _key(wanted.task) not in _key(row.task):
        found.append((OTHER_FAMILY, f"on {row.task}, not {wanted.task}"))
    outside = _doublings(row.ctx, wanted.ctx)
    if outside:
        covers = f"{row.ctx[0]:.0f} to {row.ctx[1]:.0f} tokens"
        found.append((A_DOUBLING * outside, f"context measured at {covers}"))
    if row.budget is not None and wanted.budget not in (None, row.budget):
        doublings = abs(math.log2(float(wanted.budget or row.budget) / row.budget))
        found.append((A_DOUBLING * doublings, f"KV budget measured at {row.budget:.0f}"))
    return found


def _doublings(covered: tuple[float, float], wanted: tuple[float, float]) -> float:
    """How many doublings the wanted range reaches beyond the covered one."""
    below = math.log2(covered[0] / wanted[0]) if wanted[0] < covered[0] else 0.0
    above = math.log2(wanted[1] / covered[1]) if wanted[1] > covered[1] else 0.0
    return max(below, above)
