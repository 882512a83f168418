"""Published serving runs: mean TPOT and TTFT of each, from its stated inputs."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.prediction.request import Request
from magicplan.replay.harnesses import prefill_share, streamed_rounds
from magicplan.replay.published import Case, Row, Skipped, read
from magicplan.serving.benchmark_run import Run, expect
from magicplan.serving.lengths import Lengths

INFERENCEMAX = re.compile(r"^\d{4}_\d\d_\d\d_|_cfg\d+$|_gap_analysis_")
"""Identifiers of InferenceMAX runs."""
WAVES = 10.0
"""Requests that their harness sends for each that it keeps in flight. The rows do not say: it is
what their time to first token and the share of prefill in their time per token agree on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One run: measured and predicted means in seconds; TTFT is NaN where none was published."""

    row: Row
    model: str
    """Name of the preset."""
    dense: bool
    tpot: float
    tpot_predicted: float
    ttft: float
    ttft_predicted: float


def served(path: Path) -> tuple[list[Served], list[Skipped]]:
    """Every row that the package covers, and why the others are not."""
    found = read([path])
    rows = _rows(path)
    kept, skipped = [], list(found.skipped)
    for case in found.cases:
        try:
            kept.append(_predicted(case, rows[case.id]))
        except UsageError as problem:
            skipped.append(Skipped(id=case.id, source=case.source, reason=str(problem)))
    return kept, skipped


def _rows(path: Path) -> dict[str, Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def _predicted(case: Case, row: Row) -> Served:
    options = {k: v for k, v in case.ask.items() if k not in ("batch", "ctx")}
    concurrency = float(case.ask["batch"])
    run = Run(
        ask=Request(**options),
        lengths=Lengths(
            prompt=np.full(64, float(row["input_tokens"])),
            output=np.full(64, float(row["output_tokens"])),
        ),
        concurrency=concurrency,
        prompts=concurrency * waves(row, str(options["stack"])),
    )
    answer = expect(run)
    return Served(
        row=row,
        model=str(options["model"]),
        dense=model_specs.load(str(options["model"])).experts is None,
        tpot=float(row["tpot_ms"]) / 1e3,
        tpot_predicted=answer.tpot_seconds,
        ttft=float(row["ttft_ms"] or "nan") / 1e3,
        ttft_predicted=answer.ttft_seconds
        + streamed_rounds(str(options["stack"])) * answer.tpot_seconds,
    )


def waves(row: Row, stack: str) -> float:
    """How many requests a run sends for each that it keeps in flight.

    InferenceMAX is taken to send ten (see WAVES). Of other harnesses it is not known; what the
    stack's rows show of their neighbours' prompts tells it: of w waves, the first replaces nobody,
    so that a share 1 - 1 / (2 w) of the prompts is met.
    """
    if INFERENCEMAX.search(row["id"]):
        return WAVES
    return min(max(1 / max(2 * (1 - prefill_share(stack)), 1e-3), 1.0), WAVES)
