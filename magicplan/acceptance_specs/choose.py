"""`--acceptance auto`: the nearest published measurement, and how far it has to be stretched.

Draft, task and target decide, in that order: of the rows left, each task speaks by its rows nearest
in context, and the middle task speaks for all. A task that is named and measured narrows the rows;
one that no row measured does not, and widens. Of two in the middle the mean speaks.

The interval grows with every stretch: another model, another size of it, another task of the same
kind, tasks not told apart, contexts and KV budgets outside what was measured. The widths are those
at which 80 % of rows held out were covered (docs/accuracy.md), rounded up. Beyond the context that
heads are trained on their rates fall by `Fading`; positions beyond those measured follow
`positions.beyond_measured`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from magicplan.acceptance_specs.entry import Entry, context_of, entries, methods, targets
from magicplan.acceptance_specs.positions import beyond_measured, mean_of
from magicplan.acceptance_specs.tasks import KINDS, checked, kind_of, plain
from magicplan.errors import FieldError
from magicplan.roofline.acceptance import Acceptance, Both, PerPosition
from magicplan.roofline.acceptance_context import Fading

OTHER_MODEL = 0.06
"""Width added for another target: 80 % of rows whose target was held out lie within it, their task
known."""
OTHER_TASK = 0.1
"""Width added for another task of the same kind, or a task that nobody measured."""
A_KIND = 0.05
"""Width added where a kind of work stands for one of its data sets, or where no task is named and
only one was measured. All widths are half widths of an 80 % interval of a position's rate."""
OTHER_METHOD = 0.1
"""Width added where the rates of another drafting method are taken."""
A_DOUBLING = 0.01
"""Width added for each doubling of context or KV budget outside what was measured."""
A_DOUBLING_OF_A_HEAD = 0.03
"""Width added for each doubling of context where a head drafts: four heads measured at 32k tokens
and more lose between none and .06."""
A_SIZE_DOUBLING = 0.02
"""Width added for each doubling of parameters between the target measured and the one wanted."""
WIDEST = 0.3
STANDS_IN = {"suffix": "ngram", "ngram-mod": "ngram", "pard": "peagle", "eagle3.1": "eagle3"}
"""Methods without a table of their own, and whose table is taken."""

BY_POSITION = ("marginal", "conditional", "length")
MEASURED_FALL = 1.15
"""How far a measured half context may be off: 4 % of the accept length at its steepest."""

__all__ = ["choose", "choose_both", "methods"]

Stretch = tuple[float, str]


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
    """The published rates nearest to what is wanted. Raises UsageError where there are none, and
    for a task that no table knows."""
    if wanted.task is not None:
        checked(wanted.task)
    method = STANDS_IN.get(wanted.method, wanted.method)
    if method not in methods():
        raise FieldError(
            "acceptance",
            f"auto: none published is known for {wanted.method} drafts; state it, such as 0.8",
        )
    rows = entries(method)
    asked = replace(wanted, method=method)
    left, stretch = _narrowed(rows, asked)
    if method != wanted.method:
        stretch.append((OTHER_METHOD, f"rates of {method}: none of {wanted.method} are published"))
    middle = _middle(left, asked)
    stretch += _stretches(middle[0], asked)
    uncertainty = min(
        WIDEST, max(r.half_width for r in middle) + sum(width for width, _ in stretch)
    )
    said = [words for _, words in stretch]
    models = [row.model("", uncertainty) for row in middle]
    model, by_position = models[0], [m for m in models if isinstance(m, PerPosition)]
    if by_position:
        found = [beyond_measured(part, rows, WIDEST) for part in by_position]
        longest = max(len(row.numbers) for row in rows if row.kind in BY_POSITION)
        model = replace(mean_of([part for part, _ in found]), measured=longest)
        said.append(found[0][1])
    model = _faded(model, middle[0], method, said)
    how_far = "; stretched: " + ", ".join(said) if said else ""
    origin = (
        f"auto: {wanted.method}, {' and '.join(_named(row) for row in middle)} "
        f"({middle[0].source}; {middle[0].basis}){how_far}; "
        f"80 % interval +-{uncertainty:.3f} a position"
    )
    return replace(model, origin=origin)


def measured_on(method: str, target: str) -> bool:
    """Whether a method's own table has rows of a target."""
    return method in methods() and target in targets(method)


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


def _named(row: Entry) -> str:
    pair = f"{row.draft} for {row.target}" if row.draft else row.target
    return f"{pair}, {row.task}"


def _narrowed(rows: tuple[Entry, ...], wanted: Wanted) -> tuple[list[Entry], list[Stretch]]:
    """The rows of the draft, the task and the target that are wanted, each as far as there are
    any, and what is not met by them."""
    left, stretch = list(rows), list[Stretch]()
    if any(row.draft == wanted.draft for row in rows if row.draft):
        left = [row for row in left if row.draft == wanted.draft]
    measured = _of_task(left, wanted.task)
    if measured:
        left = measured
        if wanted.task and not any(plain(wanted.task) in plain(row.task) for row in left):
            width = A_KIND if plain(wanted.task) in KINDS else OTHER_TASK
            stretch.append((width, f"of {wanted.task}, only {left[0].task} was measured"))
    own = [row for row in left if row.target in (wanted.target, "any")]
    left = own or left
    if not measured:
        rates = [_first_position(row) for row in left]
        differ = f"tasks differ from {min(rates):.2f} to {max(rates):.2f}"
        low, high = _at_shares(rates, (0.1, 0.9))
        half = (high - low) / 2
        if wanted.task is None and len({plain(row.task) for row in left}) > 1:
            stretch.append((half, f"no task named, and {differ}"))
        elif wanted.task is None and context_of(wanted.method):
            stretch.append((A_KIND, f"no task named, and only {left[0].task} was measured"))
        elif wanted.task is not None:
            stretch.append((half + OTHER_TASK, f"{wanted.task} was not measured, and {differ}"))
    return left, stretch


def _at_shares(values: list[float], shares: tuple[float, ...]) -> list[float]:
    """Quantiles by straight lines between ordered values, as NumPy's default has them; NumPy's own
    takes longer to start than all the rest here."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [float(np.interp(share * last, range(len(ordered)), ordered)) for share in shares]


def _of_task(rows: list[Entry], task: str | None) -> list[Entry]:
    """Rows of that very task, else of its kind; none without a task."""
    if task is None:
        return []
    same = [row for row in rows if plain(task) in plain(row.task)]
    return same or [row for row in rows if kind_of(task) and kind_of(row.task) == kind_of(task)]


def _middle(rows: list[Entry], wanted: Wanted) -> list[Entry]:
    """The median over tasks of each task's rows nearest in context, and of two the pair, where
    their rates go by position; else the lower one."""
    by_task: dict[str, list[Entry]] = {}
    for row in rows:
        by_task.setdefault(plain(row.task), []).append(row)
    one_each = [_lower_median(_nearest_context(same, wanted)) for same in by_task.values()]
    if len(one_each) == 1:
        one_each = _nearest_context(rows, wanted)
    ordered = sorted(one_each, key=_first_position)
    pair = [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]
    by_position = all(row.kind in BY_POSITION for row in pair)
    return pair if by_position and pair[0] is not pair[1] else pair[:1]


def _nearest_context(rows: list[Entry], wanted: Wanted) -> list[Entry]:
    beyond = [_doublings(row.ctx, wanted.ctx) for row in rows]
    return [row for row, doublings in zip(rows, beyond, strict=True) if doublings == min(beyond)]


def _lower_median(rows: list[Entry]) -> Entry:
    return sorted(rows, key=_first_position)[(len(rows) - 1) // 2]


def _first_position(row: Entry) -> float:
    """Acceptance of the first drafted token, for comparing rows."""
    return row.numbers[0] if row.numbers else row.near


def _faded(model: Acceptance, row: Entry, method: str, said: list[str]) -> Acceptance:
    """Acceptance that falls beyond the context which the method's heads are trained on, or `model`
    itself where the method has no such context. What was assumed is added to `said`."""
    context = context_of(method)
    if context is None:
        return model
    half = row.half_tokens or context.half_tokens
    spread = MEASURED_FALL if row.half_tokens else context.spread
    said.append(f"half of the rate is left at {half:.0f} tokens of context")
    return Fading(
        origin="",
        uncertainty=model.uncertainty,
        measured=model.measured,
        base=model,
        half_tokens=half,
        spread=spread,
        windowed=context.window_keeps,
    )


def _stretches(row: Entry, wanted: Wanted) -> list[Stretch]:
    """Each way in which the row is not what is wanted: width and words."""
    found: list[Stretch] = []
    if row.target not in (wanted.target, "any"):
        sizes = _size_doublings(row.target, wanted.target)
        width = OTHER_MODEL + A_SIZE_DOUBLING * sizes
        found.append((width, f"measured on {row.target}, not {wanted.target}"))
    if row.draft and row.draft != wanted.draft:
        found.append((OTHER_MODEL, f"with {row.draft}, not {wanted.draft}"))
    outside = _doublings(row.ctx, wanted.ctx)
    if outside:
        covers = f"{row.ctx[0]:.0f} to {row.ctx[1]:.0f} tokens"
        step = A_DOUBLING_OF_A_HEAD if context_of(wanted.method) else A_DOUBLING
        found.append((step * outside, f"context measured at {covers}"))
    if row.budget is not None and wanted.budget not in (None, row.budget):
        doublings = abs(math.log2(float(wanted.budget or row.budget) / row.budget))
        found.append((A_DOUBLING * doublings, f"KV budget measured at {row.budget:.0f}"))
    return found


def _doublings(covered: tuple[float, float], wanted: tuple[float, float]) -> float:
    """How many doublings the wanted range reaches beyond the covered one."""
    below = math.log2(covered[0] / wanted[0]) if wanted[0] < covered[0] else 0.0
    above = math.log2(wanted[1] / covered[1]) if wanted[1] > covered[1] else 0.0
    return max(below, above)


def _size_doublings(one: str, other: str) -> float:
    """Doublings of parameters between two models, by the sizes in their names; 0 where one has
    none."""
    found = [re.search(r"(\d+(?:\.\d+)?)b(?:-|$)", name) for name in (one, other)]
    sizes = [float(size[1]) for size in found if size]
    return abs(math.log2(sizes[0] / sizes[1])) if len(sizes) == 2 else 0.0
