"""The page of accuracy's section on speculation: speedups and accept lengths of sources held out.

    python scripts/accuracy_speculation.py PUBLISHED

PUBLISHED holds speculation.csv. Rewrites the section of docs/accuracy.md, or appends it.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_layout import table

import magicplan as mp
from magicplan.acceptance_specs.entry import methods
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit
from magicplan.hardware_specs.stacks import stack_tables
from magicplan.replay import published
from magicplan.replay.outcomes import Outcome, replay
from tools.stack_constants.lengths_held_out import Length, lengths_held_out
from tools.stack_constants.round_fit import fit_rounds
from tools.stack_constants.round_tables import FORGOTTEN

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
TITLE = "Speculation, by sources held out"
NEAR = 0.25
"""Measured speedups this near 1 are near break-even."""
DECIDED = 0.02
DATASET = 4
"""Where a sweep's key holds the name of its data set."""
HEADER = (
    "engine | batch | draft | n | MAPE | median | bias | sign | sign near 1 | in 80 % | "
    "half-width | naive MAPE | naive sign near 1"
)
ABOUT = """\
Speedups of chains on parts whose family is calibrated, with the accept length that their source
states. Each source's rows of one draft are predicted by constants fitted on the others; naive is
the datasheet's roofline of drafts and verification. Sign: of measured speedups more than 2 % from
1, the share predicted on the right side; near 1: of those within 25 % of it. The interval that
ships spans what sweeps and versions of an engine disagree on.

"""
LENGTHS = """\

### Accept lengths by `auto`

Mean accept lengths at three drafted tokens (or as many as were measured) of every row of the
tables, predicted without the rows of its target, or of its source; with the row's task named, and
without.

"""
REGRET = """\

### Throughput lost by the chosen draft length

Of sweeps over draft lengths, by the length chosen among those measured, against the best of them.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One published speedup: measured, predicted without its source, naive."""

    outcome: Outcome
    predicted: float
    low: float
    high: float

    @property
    def error(self) -> float:
        return self.predicted / self.outcome.measured - 1


def speedups(path: Path) -> list[Told]:
    """Every chain that its stack's rounds were fitted on, held out."""
    cases = published.read([path / "speculation.csv"]).cases
    shipped = {o.case.id: o for o in replay(cases)[0] if o.kind == "speedup"}
    found = []
    for stack, of_stack in stack_tables().items():
        try:
            fit = fit_rounds(stack, cases, HostFit(**(of_stack["host"] | FORGOTTEN)))
        except UsageError:
            continue
        for case, ratio in zip(fit.cases, fit.held_out, strict=True):
            outcome = shipped.get(case.id)
            if outcome is not None:
                predicted = outcome.measured / float(ratio)
                scale = predicted / outcome.predicted
                ends = outcome.low * scale, outcome.high * scale
                found.append(Told(outcome=outcome, predicted=predicted, low=ends[0], high=ends[1]))
    return found


def lines(told: list[Told]) -> list[str]:
    """A line an engine, batch band and draft, and one an engine and band, and one of all."""
    keys: tuple[Callable[[Told], tuple[str, str, str]], ...] = (
        lambda t: (_engine(t), _band(t), str(t.outcome.case.ask["draft"])),
        lambda t: (_engine(t), _band(t), "all"),
        lambda t: ("all", _band(t), "all"),
        lambda t: ("all", "all", "all"),
    )
    found = []
    for key in keys:
        for name in sorted({key(t) for t in told}):
            found.append(_line(name, [t for t in told if key(t) == name]))
    return list(dict.fromkeys(found))


def _engine(t: Told) -> str:
    return str(t.outcome.case.ask["stack"])


def _band(t: Told) -> str:
    batch = t.outcome.case.ask["batch"]
    return "1" if batch == 1 else "2 to 8" if batch <= 8 else "16 to 64"


def _line(name: tuple[str, str, str], told: list[Told]) -> str:
    errors = 100 * np.array([t.error for t in told])
    naive = 100 * np.array([t.outcome.naive / t.outcome.measured - 1 for t in told])
    near = [t for t in told if abs(t.outcome.measured - 1) <= NEAR]
    inside = 100 * np.mean([t.low <= t.outcome.measured <= t.high for t in told])
    wide = 100 * np.mean([(t.high - t.low) / 2 / t.predicted for t in told])
    return (
        f"{' | '.join(name)} | {len(told)} | {np.abs(errors).mean():.1f} | "
        f"{np.median(np.abs(errors)):.1f} | {errors.mean():+.1f} | "
        f"{_sign(told, lambda t: t.predicted)} | {_sign(near, lambda t: t.predicted)} | "
        f"{inside:.0f} | {wide:.0f} | {np.abs(naive).mean():.1f} | "
        f"{_sign(near, lambda t: t.outcome.naive)}"
    )


def _sign(told: Iterable[Told], predicted: Callable[[Told], float]) -> str:
    clear = [t for t in told if abs(t.outcome.measured - 1) > DECIDED]
    if not clear:
        return "-"
    right = [(predicted(t) > 1) == (t.outcome.measured > 1) for t in clear]
    return f"{100 * np.mean(right):.0f} of {len(clear)}"


def length_lines() -> list[str]:
    """Accept lengths by method and fold."""
    found: dict[tuple[str, str, str], list[Length]] = {}
    for method in methods():
        for length in lengths_held_out(method):
            for name in (method, "all"):
                key = name, length.without, "named" if length.task_named else "not named"
                found.setdefault(key, []).append(length)
    return [
        f"{' | '.join(key)} | {len(rows)} | "
        f"{100 * np.mean([abs(r.error) for r in rows]):.1f} | "
        f"{100 * np.median([abs(r.error) for r in rows]):.1f} | "
        f"{100 * np.mean([r.error for r in rows]):+.1f} | "
        f"{100 * np.mean([r.low <= r.measured <= r.high for r in rows]):.0f} | "
        f"{100 * np.mean([(r.high - r.low) / 2 / r.predicted for r in rows]):.0f}"
        for key, rows in sorted(found.items())
    ]


def regret_lines(told: list[Told]) -> list[str]:
    """Throughput lost by draft lengths chosen with acceptance given and with `auto`."""
    sweeps: dict[tuple[str, ...], list[Told]] = {}
    for t in told:
        sweeps.setdefault(t.outcome.case.sweep, []).append(t)
    lost: dict[str, list[float]] = defaultdict(list)
    for rows in sweeps.values():
        if len({t.outcome.case.ask["gamma"] for t in rows}) < 2:
            continue
        measured = [1.0, *(t.outcome.measured for t in rows)]
        task = rows[0].outcome.case.sweep[DATASET]
        for name, chosen in (
            ("given", [1.0, *(t.predicted for t in rows)]),
            ("auto, no task named", [1.0, *(_by_auto(t.outcome.case.ask, None) for t in rows)]),
            ("auto, task named", [1.0, *(_by_auto(t.outcome.case.ask, task) for t in rows)]),
        ):
            lost[name].append(100 * (1 - measured[int(np.argmax(chosen))] / max(measured)))
    return [
        f"{name} | {len(values)} | {np.median(values):.1f} | {max(values):.1f}"
        for name, values in lost.items()
    ]


def _by_auto(ask: dict[str, Any], task: str | None) -> float:
    """The speedup of a row's question by the published acceptance nearest to it."""
    found = mp.predict(**(ask | {"acceptance": "auto", "task": task}))
    return float(found.gammas[ask["gamma"]].speedup)


def section(path: Path) -> str:
    """The whole section."""
    told = speedups(path)
    return (
        ABOUT
        + table(HEADER, lines(told))
        + LENGTHS
        + table(
            "method | without its | task | n | MAPE | median | bias | in 80 % | half-width",
            length_lines(),
        )
        + REGRET
        + table("acceptance | sweeps | median, % | worst, %", regret_lines(told))
    )


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    text = section(Path(sys.argv[1]))
    page = PAGE.read_text(encoding="utf-8")
    whole = f"## {TITLE}\n\n{text}\n"
    old = re.search(rf"^## {TITLE}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    page = page[: old.start()] + whole + page[old.end() :] if old else f"{page}\n{whole}"
    PAGE.write_text(page.rstrip() + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
