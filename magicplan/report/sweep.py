"""A grid of predictions: table, CSV, JSON and heat maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.prediction.result import Prediction
from magicplan.report.document.figures import contexts_and_batches, pyplot, save, speedup_map
from magicplan.report.document.terminal import cell_tables, notes
from magicplan.units import human_tokens

COLUMNS = (
    "gpu", "model", "batch", "ctx_tokens", "gpus", "tp", "replicas", "fits", "bound",
    "step_seconds", "tokens_per_s", "draft", "gamma", "tokens_per_round", "round_seconds",
    "best_tokens_per_s", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip


def render(results: Sequence[Prediction], console: Console) -> None:
    """One table a GPU: best speedup, its draft length, and what binds the plain step."""
    for p in results:
        title = f"{p.model.name} on {p.accelerator.name}"
        contexts = [human_tokens(int(c)) for c in p.workload.ctx_tokens[0]]
        rows = [
            (str(batch), [_cell(p, row, col) for col in range(len(contexts))])
            for row, batch in enumerate(p.workload.batch[:, 0])
        ]
        cell_tables(console, title, contexts, rows)
    console.print("Cell: speedup, gamma, what binds a plain step. '-': fits nowhere.")
    notes(console, "Rests on", dict.fromkeys(n for r in results for n in r.assumptions))


def _cell(p: Prediction, row: int, col: int) -> str:
    if not p.memory.fits[row, col]:
        return "-"
    gamma = p.best.gamma[row, col]
    return f"{p.best.speedup[row, col]:.2f}x g{gamma}\n{p.baseline.bound[row, col]}"


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


def draw(results: Sequence[Prediction], path: Path) -> None:
    """Heat maps, a column a GPU: speedup above, the best draft length below."""
    plt = pyplot(path)

    rows, columns = results[0].workload.batch.shape
    width, height = max(4.5, 0.85 * columns + 1.6), max(2.4, 0.5 * rows + 1.1)
    figure, axes = plt.subplots(
        2,
        len(results),
        figsize=(width * len(results) + 0.8, 2 * height),
        squeeze=False,
        layout="constrained",
    )
    top = max(float(np.nanmax(r.best.speedup, initial=1.0)) for r in results)
    longest = max(int(r.best.gamma.max()) for r in results)
    for column, p in enumerate(results):
        gains = [
            [f"{v:.2f}x" if g else "off" for v, g in zip(*row, strict=True)]
            for row in zip(p.best.speedup, p.best.gamma, strict=True)
        ]
        image = speedup_map(axes[0][column], p.best.speedup, top, gains)
        lengths = _lengths(axes[1][column], p, longest)
        name = p.resolved.draft.name if p.resolved.draft else "no draft"
        title = f"{p.model.name} on {p.accelerator.name}, {name}"
        axes[0][column].set_title(title, fontsize=9)
        for axis in (axes[0][column], axes[1][column]):
            contexts_and_batches(axis, list(p.workload.ctx_tokens[0]), list(p.workload.batch[:, 0]))
    figure.colorbar(image, ax=list(axes[0]), label="speedup")
    figure.colorbar(lengths, ax=list(axes[1]), label="best draft length")
    save(plt, figure, path)


def _lengths(axis: Any, p: Prediction, longest: int) -> Any:
    """The best draft length of every cell, `off` where none pays."""
    gamma = np.where(p.memory.fits, p.best.gamma, np.nan)
    image = axis.imshow(
        gamma, origin="lower", aspect="auto", vmin=0, vmax=max(longest, 1) * 1.3, cmap="Blues"
    )
    for (row, column), value in np.ndenumerate(gamma):
        text = "no fit" if value != value else f"{value:.0f}" if value else "off"
        axis.text(column, row, text, ha="center", va="center", fontsize=8)
    return image
