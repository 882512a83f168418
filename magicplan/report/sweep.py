"""A grid of predictions: table, CSV, JSON and heat maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from magicplan.planning.prediction import Prediction
from magicplan.planning.settings import Settings
from magicplan.report.figures import pyplot, save
from magicplan.report.terminal import notes, table
from magicplan.units import human_tokens

COLUMNS = (
    "gpu", "model", "batch", "ctx_tokens", "gpus", "tp", "replicas", "fits", "bound",
    "step_seconds", "tokens_per_s", "draft", "gamma", "tokens_per_round", "round_seconds",
    "best_tokens_per_s", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip


def render(results: Sequence[Prediction], console: Console) -> None:
    """One table a GPU: best speedup, its draft length, and what binds the plain step."""
    for result in results:
        console.print(_table(result))
    console.print("Cell: speedup, gamma, what binds a plain step. '-': fits nowhere.")
    notes(console, "Rests on", dict.fromkeys(n for r in results for n in r.assumptions))


def _table(p: Prediction) -> Table:
    title = f"{p.model.name} on {p.accelerator.name}"
    contexts = [human_tokens(int(c)) for c in p.workload.ctx_tokens[0]]
    grid = table("batch", *contexts, title=title)
    for row, batch in enumerate(p.workload.batch[:, 0]):
        grid.add_row(str(batch), *(_cell(p, row, col) for col in range(len(contexts))))
    return grid


def _cell(p: Prediction, row: int, col: int) -> str:
    if not p.memory.fits[row, col]:
        return "-"
    gamma = p.best.gamma[row, col]
    return f"{p.best.speedup[row, col]:.2f}x g{gamma} {p.baseline.bound[row, col]}"


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


def render_settings(found: Settings, console: Console) -> None:
    """What to paste, the schedule over batch and context, and what was lost."""
    if found.text:
        console.print(found.text, soft_wrap=True)
    grid = table("batch", "context", "gamma", "loss")
    for row in found.schedule:
        contexts = f"{human_tokens(row.ctx_lo)} - {human_tokens(row.ctx_hi)}"
        batches = f"{row.batch_lo} - {row.batch_hi}"
        grid.add_row(batches, contexts, str(row.gamma) if row.gamma else "off", f"{row.loss:.1%}")
    console.print(grid)
    notes(console, "Mind", found.notes)


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


def draw(results: Sequence[Prediction], path: Path) -> None:
    """Heat maps of speedup with the best draft length written in, a panel a GPU."""
    plt = pyplot(path)

    width = max(5.0, 1.1 * results[0].workload.ctx_tokens.shape[1] + 2)
    height = max(3.0, 0.6 * results[0].workload.batch.shape[0] + 1.5)
    figure, axes = plt.subplots(
        1, len(results), figsize=(width * len(results), height), squeeze=False, layout="constrained"
    )
    top = max(float(np.nanmax(r.best.speedup, initial=1.0)) for r in results)
    for axis, result in zip(axes[0], results, strict=True):
        image = _panel(axis, result, top)
    figure.colorbar(image, ax=axes, label="speedup of the best draft length")
    save(plt, figure, path)


def _panel(axis: Any, p: Prediction, top: float) -> Any:
    image = axis.imshow(p.best.speedup, origin="lower", aspect="auto", vmin=1, vmax=max(top, 1.01))
    axis.set_xticks(
        range(p.workload.ctx_tokens.shape[1]),
        [human_tokens(int(c)) for c in p.workload.ctx_tokens[0]],
    )
    axis.set_yticks(range(p.workload.batch.shape[0]), [str(b) for b in p.workload.batch[:, 0]])
    axis.set_xlabel("context [tokens]")
    axis.set_ylabel("batch [sequences]")
    axis.set_title(f"{p.model.name} on {p.accelerator.name}")
    middle = 1 + (top - 1) / 2
    for (row, col), gamma in np.ndenumerate(p.best.gamma):
        if p.memory.fits[row, col]:
            value = p.best.speedup[row, col]
            colour = "black" if value > middle else "white"
            text = f"{value:.2f}x\nγ {gamma}" if gamma else "off"
            axis.text(col, row, text, ha="center", va="center", color=colour, fontsize=8)
    return image
