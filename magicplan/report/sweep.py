"""Predictions over batch and context: a page of maps, a GPU each, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from magicplan.prediction.result import Prediction
from magicplan.report.document.charts import HeatMap, Numbers, Scale, mapped, speedup_text
from magicplan.report.document.page import Block, Page, Plot, Section
from magicplan.report.document.parts import rests_on, verdict_text
from magicplan.report.document.record import Record
from magicplan.report.prediction import REST
from magicplan.units import show

CELLS = "The 80 % interval of a cell is in its hover box and in the table."
COLUMNS = (
    "gpu", "model", "batch", "ctx_tokens", "gpus", "tp", "replicas", "fits", "bound",
    "step_seconds", "tokens_per_s", "draft", "gamma", "tokens_per_round", "round_seconds",
    "best_tokens_per_s", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip


def page(predictions: tuple[Record, ...]) -> Page:
    """Maps over batch and context, a section a GPU."""
    model = predictions[0].record("model").text("name")
    names = [p.record("accelerator").text("name") for p in predictions]
    pairs = zip(names, predictions, strict=True)
    return Page(
        title=f"{model} over batch and context",
        verdict=" ".join(dict.fromkeys(map(verdict_text, predictions))),
        subject=f"{model} on {', '.join(dict.fromkeys(names))}",
        sections=(
            *(Section(title=f"{model} on {name}", blocks=tuple(_maps(p))) for name, p in pairs),
            rests_on(tuple(line for p in predictions for line in p.texts("assumptions"))),
        ),
    )


def _maps(p: Record) -> Iterator[Block]:
    deployment = p.record("deployment")
    reading = (
        f"{_draft(p)}; stack {deployment.text('stack')}, calibration "
        f"{deployment.text('calibration')}. Blue gains, orange loses. {CELLS} {REST}"
    )
    yield Plot(title="Speedup of the best draft length", reading=reading, figure=speedup_map(p))
    reading = f"A plain decode step and what binds it. {CELLS} {REST}"
    yield Plot(title="A decode step", reading=reading, figure=step_map(p), quiet=True)


def _draft(p: Record) -> str:
    names = {name for row in Cells(p, "best").names("draft") for name in row} - {"none"}
    return f"Draft: {', '.join(sorted(names))}" if names else "No draft"


def axes_of(p: Record) -> tuple[Numbers, Numbers]:
    """Batches and contexts of a grid."""
    w = p.record("workload")
    batches, contexts = w.matrix("batch"), w.matrix("ctx_tokens")
    if not batches or not batches[0] or not contexts:
        w.fail("batch", "a grid of batch and context")
    return tuple(row[0] for row in batches), contexts[0]


class Cells:
    """Fields of a part of a prediction over its grid, checked to be [batch][ctx]."""

    def __init__(self, p: Record, part: str) -> None:
        batches, contexts = axes_of(p)
        self.record, self.shape = p.record(part), [len(contexts)] * len(batches)

    def numbers(self, key: str) -> tuple[Numbers, ...]:
        """A number or null for every cell."""
        return self._checked(key, self.record.matrix(key))

    def names(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A text for every cell."""
        rows = self.record.data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            self.record.fail(key, "a name for every batch and context")
        return self._checked(key, tuple(tuple(map(str, row)) for row in rows))

    def _checked(self, key: str, rows: tuple[tuple[Any, ...], ...]) -> tuple[tuple[Any, ...], ...]:
        if [len(row) for row in rows] != self.shape:
            self.record.fail(key, "an entry for every batch and context")
        return rows


def speedup_map(p: Record) -> HeatMap:
    """Speedup, draft length and interval over the grid, with the break-even lines."""
    batches, contexts = axes_of(p)
    best = Cells(p, "best")
    gains, gammas = best.numbers("speedup"), best.numbers("gamma")
    ends = (best.numbers("speedup_low"), best.numbers("speedup_high"))
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=gains,
        texts=mapped(speedup_text, gains, gammas),
        details=mapped(_details, *ends, gammas, gains, Cells(p, "baseline").names("bound")),
        middle=1.0,
        lines=tuple(break_even_lines(p)),
        says="speedup, draft length (γ), 80 % interval, what binds a plain step",
    )


def _details(
    low: float | None, high: float | None, gamma: float | None, gain: float | None, bound: str
) -> str:
    return "" if gain is None else "\n".join(filter(None, (ends_text(low, high, gamma), bound)))


def ends_text(low: float | None, high: float | None, gamma: float | None) -> str:
    """The interval of a cell that drafts."""
    return f"{low:.2f}-{high:.2f}" if gamma and low is not None and high is not None else ""


def break_even_lines(p: Record) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Lines over a sweep's cells: from where speculation pays, KV outweighs weights, and arithmetic
    takes longer than memory. Each is a name, its contexts and its batches."""
    batches, contexts = axes_of(p)
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
    batches, contexts = axes_of(p)
    base = Cells(p, "baseline")
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


def cells(p: Prediction) -> Iterator[dict[str, Any]]:
    """One flat record a cell, in SI units."""
    for (row, col), batch in np.ndenumerate(p.workload.batch):
        at = (row, col)
        yield {
            "gpu": p.accelerator.name,
            "model": p.model.name,
            "batch": int(batch),
            "ctx_tokens": int(p.workload.ctx_tokens[at]),
            "gpus": int(p.deployment.gpus[at]),
            "tp": int(p.deployment.tp[at]),
            "replicas": int(p.deployment.replicas[at]),
            "fits": bool(p.memory.fits[at]),
            "bound": str(p.baseline.bound[at]),
            "step_seconds": p.baseline.step_seconds[at],
            "tokens_per_s": p.baseline.tokens_per_s[at],
            "draft": str(p.best.draft[at]),
            "gamma": int(p.best.gamma[at]),
            "tokens_per_round": p.best.tokens_per_round[at],
            "round_seconds": p.best.round_seconds[at],
            "best_tokens_per_s": p.best.tokens_per_s[at],
            "speedup": p.best.speedup[at],
            "speedup_low": p.best.speedup_low[at],
            "speedup_high": p.best.speedup_high[at],
        }


def as_csv(results: Sequence[Prediction]) -> str:
    """A header and a row a cell; empty where a cell fits nowhere."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for cell in cells(result):
            writer.writerow({k: "" if v != v else v for k, v in cell.items()})
    return out.getvalue()


def as_dict(results: Sequence[Prediction]) -> dict[str, Any]:
    """Every grid as the JSON of a prediction."""
    return {"schema": "magicplan.sweep/1", "predictions": [r.to_dict() for r in results]}
