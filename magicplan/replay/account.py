"""The account of a replay: errors by source, signs and regrets, worst rows, as its JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from magicplan.replay.outcomes import Outcome, Summary, regrets, sign_accuracy
from magicplan.replay.published import Skipped

WORST = 5
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


def as_dict(outcomes: list[Outcome], skipped: list[Skipped]) -> dict[str, Any]:
    """The JSON of `magicplan replay`. Sources stand apart by whether the stack's constants were
    fitted on such rows: errors of those are no test."""
    share, count = sign_accuracy(outcomes)
    return {
        "schema": "magicplan.replay/1",
        "summaries": [
            {"source": name, "kind": kind, "fitted": fitted, **asdict(s)}
            for fitted in (True, False)
            for (name, kind), s in summaries([o for o in outcomes if o.fitted == fitted]).items()
        ],
        "totals": [
            {"kind": kind, "fitted": fitted, **asdict(Summary.of(part))}
            for fitted in (True, False)
            for kind in sorted({o.kind for o in outcomes})
            if (part := [o for o in outcomes if o.fitted == fitted and o.kind == kind])
        ],
        "sign_accuracy_percent": share if count else None,
        "sign_rows": count,
        "regret_percent": {" | ".join(k): v for k, v in regrets(outcomes).items()},
        "rows": [_row(o) for o in outcomes],
        "skipped": [asdict(s) for s in skipped],
    }


def _row(o: Outcome) -> dict[str, Any]:
    names = ("kind", "measured", "predicted", "low", "high", "naive", "impossible", "fitted")
    asked = {name: o.case.ask[name] for name in ("model", "gpu", "batch", "ctx")}
    return {"id": o.case.id, "source": o.case.source, "asked": asked} | {
        name: getattr(o, name) for name in names
    }
