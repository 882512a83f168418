"""Predicted beside published: errors by source, signs, regret, worst rows, a scatter plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.replay.outcomes import Outcome, Summary, regrets, sign_accuracy
from magicplan.replay.published import Skipped
from magicplan.report.document.figures import pyplot, save
from magicplan.report.document.terminal import notes, table

KINDS = ("step", "speedup")
WORST = 5
NAME = 23
Key = Callable[[Outcome], str]


def by_source(o: Outcome) -> str:
    """The file and the first words of the source."""
    return o.case.source


def summaries(outcomes: list[Outcome], key: Key = by_source) -> dict[tuple[str, str], Summary]:
    """(group, kind) -> errors, sorted; groups are sources unless another key is given."""
    names = sorted({(key(o), o.kind) for o in outcomes})
    return {
        (name, kind): Summary.of([o for o in outcomes if key(o) == name and o.kind == kind])
        for name, kind in names
    }


def worst(outcomes: list[Outcome], count: int = WORST) -> list[Outcome]:
    """The rows that are furthest off."""
    return sorted(outcomes, key=lambda o: -abs(np.log(o.predicted / o.measured)))[:count]


def render(outcomes: list[Outcome], skipped: list[Skipped], console: Console) -> None:
    """The whole account, in percent: `in 80 %` is the share of rows inside their interval, `naive`
    the MAPE of the naive roofline. Sources stand below whether the stack's constants were fitted
    on such rows: errors of those are no test, and no total adds them to predictions."""
    for kind in KINDS:
        chosen = [o for o in outcomes if o.kind == kind]
        if not chosen:
            continue
        grid = table(
            f"{kind}, errors in %", "n", "MAPE", "median", "p95", "bias", "in 80 %", "naive"
        )
        for fitted in (True, False):
            part = [o for o in chosen if o.fitted == fitted]
            if not part:
                continue
            grid.add_row("fitted on such rows" if fitted else "not fitted on such rows")
            for (name, _), s in summaries(part).items():
                short = name if len(name) <= NAME else name[: NAME - 1] + "\u2026"
                grid.add_row(short, *_cells(s))
            grid.add_row("all fitted" if fitted else "all predicted", *_cells(Summary.of(part)))
        console.print(grid)
    lines = list(_verdicts(outcomes))
    if lines:
        notes(console, "Decisions", lines)
    notes(console, "Worst rows", [_line(o) for o in worst(outcomes)])
    impossible = [_line(o) for o in outcomes if o.impossible]
    if impossible:
        notes(console, "Impossible: better than the datasheet allows", impossible)
    if skipped:
        reasons = Counter(s.reason for s in skipped)
        listed = [f"{count} rows: {reason}" for reason, count in reasons.most_common()]
        notes(console, f"Not used: {len(skipped)} rows", listed)


def _cells(s: Summary) -> tuple[str, ...]:
    return (
        f"{s.rows}",
        f"{s.mape:.1f}",
        f"{s.median:.1f}",
        f"{s.p95:.1f}",
        f"{s.bias:+.1f}",
        f"{s.coverage:.0f}",
        f"{s.naive_mape:.1f}",
    )


def _verdicts(outcomes: list[Outcome]) -> list[str]:
    found = []
    share, count = sign_accuracy(outcomes)
    if count:
        found.append(
            f"sign: {share:.1f} % of {count} speedups are on the right side of 1"
            + _partly(o for o in outcomes if o.kind == "speedup")
        )
    lost = list(regrets(outcomes).values())
    if lost:
        found.append(
            f"regret of the chosen draft length over {len(lost)} sweeps: median "
            f"{np.median(lost):.1f} %, worst {max(lost):.1f} %"
            + _partly(o for o in outcomes if o.kind == "speedup" and o.case.sweep)
        )
    return found


def _partly(outcomes: Iterable[Outcome]) -> str:
    """How many of the rows behind a verdict had constants fitted on their like."""
    fitted = [o.fitted for o in outcomes]
    return f"; fitted on such rows: {sum(fitted)} of {len(fitted)}" if any(fitted) else ""


def _line(o: Outcome) -> str:
    unit, scale = ("ms", 1e3) if o.kind == "step" else ("x", 1.0)
    a = o.case.ask
    found = "by constants fitted on such rows" if o.fitted else "predicted"
    return (
        f"{o.case.id}: {o.kind} {o.measured * scale:.3g} {unit} measured, "
        f"{o.predicted * scale:.3g} {found}, {o.naive * scale:.3g} naive "
        f"({a['model']} on {a['gpu']}, batch {a['batch']}, {a['ctx']} tokens)"
    )


def as_dict(outcomes: list[Outcome], skipped: list[Skipped]) -> dict[str, Any]:
    """The same as JSON, row by row."""
    share, count = sign_accuracy(outcomes)
    return {
        "schema": "magicplan.replay/1",
        "summaries": [
            {"source": name, "kind": kind, "fitted": fitted, **asdict(s)}
            for fitted in (True, False)
            for (name, kind), s in summaries([o for o in outcomes if o.fitted == fitted]).items()
        ],
        "sign_accuracy_percent": share if count else None,
        "sign_rows": count,
        "regret_percent": {" | ".join(k): v for k, v in regrets(outcomes).items()},
        "rows": [
            {
                "id": o.case.id,
                "source": o.case.source,
                "kind": o.kind,
                "measured": o.measured,
                "predicted": o.predicted,
                "low": o.low,
                "high": o.high,
                "naive": o.naive,
                "impossible": o.impossible,
                "fitted": o.fitted,
            }
            for o in outcomes
        ],
        "skipped": [asdict(s) for s in skipped],
    }


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Predicted against measured, one panel for steps and one for speedups; rows whose like the
    stack's constants were fitted on are hollow."""
    plt = pyplot(path)
    kinds = [kind for kind in KINDS if any(o.kind == kind for o in outcomes)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(6 * len(kinds), 5.5), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        rows = [o for o in outcomes if o.kind == kind]
        scale = 1e3 if kind == "step" else 1.0
        measured = scale * np.asarray([o.measured for o in rows])
        naive = scale * np.asarray([o.naive for o in rows])
        axis.scatter(measured, naive, s=10, alpha=0.6, color="#bbbbbb", label="naive", linewidths=0)
        predicted = scale * np.asarray([o.predicted for o in rows])
        fitted = np.asarray([o.fitted for o in rows])
        for name, mask, face in (("fitted", fitted, "none"), ("predicted", ~fitted, "#1f6feb")):
            if mask.any():
                axis.scatter(measured[mask], predicted[mask], s=10, alpha=0.6, facecolors=face,
                             edgecolors="#1f6feb", linewidths=0.6, label=name)  # fmt: skip
        ends = [measured.min(), measured.max()]
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.set(xscale="log", yscale="log", title=f"{kind}, {len(rows)} rows")
        axis.set_xlabel("measured" + (" [ms]" if kind == "step" else ""))
        axis.set_ylabel("predicted" + (" [ms]" if kind == "step" else ""))
        axis.legend(frameon=False)
    save(plt, figure, path)
