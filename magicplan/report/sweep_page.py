"""Predictions over batch and context as a page: maps of speedup and of step time, a GPU each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from magicplan.report.document.charts import HeatMap, Numbers, Scale, mapped, show, speedup_text
from magicplan.report.document.page import Block, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.report.prediction_page import REST, rests_on

CELLS = "The 80 % interval of a cell is in its hover box and in the table."


def page(predictions: tuple[Record, ...]) -> Page:
    """Maps over batch and context, a section a GPU."""
    first = predictions[0]
    model = first.record("model").text("name")
    names = [p.record("accelerator").text("name") for p in predictions]
    pairs = zip(names, predictions, strict=True)
    gains = [max((v or 0 for row in p.record("best").matrix("speedup") for v in row), default=0)
             for p in predictions]  # fmt: skip
    best = max(range(len(gains)), key=lambda i: gains[i])
    verdict = (
        f"Speculation brings up to {gains[best]:.2f}x, on {names[best]}."
        if gains[best] > 1
        else "Speculation pays nowhere on this grid."
    )
    return Page(
        title=f"{model} over batch and context",
        verdict=verdict,
        subject=", ".join(dict.fromkeys(names)),
        sections=(
            *(Section(title=name, blocks=tuple(_maps(p))) for name, p in pairs),
            rests_on(tuple(line for p in predictions for line in p.texts("assumptions"))),
        ),
    )


def _maps(p: Record) -> Iterator[Block]:
    draft = _draft(p)
    deployment = p.record("deployment")
    reading = (
        f"{draft}; stack {deployment.text('stack')}, calibration {deployment.text('calibration')}. "
        f"Blue gains, orange loses. {CELLS} {REST}"
    )
    yield Plot(title="Speedup of the best draft length", reading=reading, figure=speedup_map(p))
    reading = f"A plain decode step and what binds it. {CELLS} {REST}"
    yield Plot(title="A decode step", reading=reading, figure=step_map(p))


def _draft(p: Record) -> str:
    names = {name for row in _Cells(p, "best").names("draft") for name in row} - {"none"}
    return f"Draft: {', '.join(sorted(names))}" if names else "No draft"


def _axes(p: Record) -> tuple[Numbers, Numbers]:
    """Batches and contexts of a grid."""
    w = p.record("workload")
    batches, contexts = w.matrix("batch"), w.matrix("ctx_tokens")
    if not batches or not batches[0] or not contexts:
        w.fail("batch", "a grid of batch and context")
    return tuple(row[0] for row in batches), contexts[0]


def speedup_map(p: Record) -> HeatMap:
    """Speedup, draft length and interval over the grid, with the break-even lines."""
    batches, contexts = _axes(p)
    best = _Cells(p, "best")
    gammas = best.numbers("gamma")
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=best.numbers("speedup"),
        texts=mapped(speedup_text, best.numbers("speedup"), gammas),
        details=mapped(_ends, best.numbers("speedup_low"), best.numbers("speedup_high"), gammas),
        middle=1.0,
        lines=tuple(_lines(p)),
    )


class _Cells:
    """Fields of a part of a prediction over its grid, checked to be [batch][ctx]."""

    def __init__(self, p: Record, part: str) -> None:
        batches, contexts = _axes(p)
        self.record, self.shape = p.record(part), [len(contexts)] * len(batches)

    def numbers(self, key: str) -> tuple[Numbers, ...]:
        return self._checked(key, self.record.matrix(key))

    def names(self, key: str) -> tuple[tuple[str, ...], ...]:
        rows = self.record.data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            self.record.fail(key, "a name for every batch and context")
        return self._checked(key, tuple(tuple(map(str, row)) for row in rows))

    def _checked(self, key: str, rows: tuple[tuple[Any, ...], ...]) -> tuple[tuple[Any, ...], ...]:
        if [len(row) for row in rows] != self.shape:
            self.record.fail(key, "an entry for every batch and context")
        return rows


def _ends(low: float | None, high: float | None, gamma: float | None) -> str:
    return f"80 % {low:.2f}-{high:.2f}" if gamma and low is not None and high is not None else ""


def _lines(p: Record) -> Iterator[tuple[str, Numbers, Numbers]]:
    batches, contexts = _axes(p)
    even = p.record("break_even")
    for key, name in (
        ("speedup_one_ctx_tokens", "speculation pays from here"),
        ("kv_equals_weights_ctx_tokens", "KV bytes = weight bytes"),
    ):
        at = tuple(row[0] if row else None for row in even.matrix(key))
        if len(at) == len(batches) and any(at):
            yield name, at, batches
    bound = even.matrix("compute_bound_batch")
    if len(bound) == 1 and len(bound[0]) == len(contexts) and any(bound[0]):
        yield "linear layers compute-bound", contexts, bound[0]


def step_map(p: Record) -> HeatMap:
    """Seconds of a plain step, what binds it, and its interval."""
    batches, contexts = _axes(p)
    base = _Cells(p, "baseline")
    seconds = base.numbers("step_seconds")
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="a step", unit="seconds"),
        columns=contexts,
        rows=batches,
        values=seconds,
        texts=mapped(_step_text, seconds, base.names("bound")),
        details=mapped(_range, base.numbers("low_seconds"), base.numbers("high_seconds")),
    )


def _step_text(seconds: float | None, bound: str) -> str:
    return "no fit" if seconds is None else f"{show(seconds, 'seconds')}\n{bound}"


def _range(low: float | None, high: float | None) -> str:
    ends = (show(low, "seconds"), show(high, "seconds"))
    return "" if low is None or high is None else f"80 % {ends[0]}-{ends[1]}"
