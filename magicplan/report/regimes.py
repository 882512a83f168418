"""The regime map: what binds a plain step, and the best draft length of four kinds of drafter.

Why one user rightly raises the draft length with context and another rightly lowers it: a drafter
whose KV cache stays constant gets cheaper beside a growing step, one whose cache grows does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.prediction.regimes import RegimeMap
from magicplan.prediction.result import Prediction
from magicplan.report.document.figures import pyplot, save
from magicplan.report.document.terminal import cell_tables, notes
from magicplan.units import human_tokens

COLOURS = {
    "weights": "#cfe2f3",
    "kv": "#d9ead3",
    "compute": "#f4cccc",
    "overhead": "#eeeeee",
    "communication": "#fff2cc",
}


def name_of(p: Prediction) -> str:
    """The drafter and how its KV cache grows."""
    draft = p.resolved.draft
    if draft is None:
        return "none"
    growth = {"constant": "constant KV", "growing": "growing KV", "none": "no KV"}
    return f"{draft.name} ({growth[draft.kv_growth]})"


def render(maps: Sequence[RegimeMap], console: Console) -> None:
    """A table a drafter: what binds a plain step, the best draft length, its speedup."""
    for p in (found.cells for found in maps):
        contexts = [human_tokens(int(ctx)) for ctx in p.workload.ctx_tokens[0]]
        batches = p.workload.batch[:, 0]
        rows = [
            (str(batch), [_cell(p, row, col) for col in range(len(contexts))])
            for row, batch in enumerate(batches)
        ]
        cell_tables(console, name_of(p), contexts, rows)
    console.print("Cell: what binds a plain step, then gamma and speedup; '-': fits nowhere.")
    notes(
        console,
        "Rests on",
        dict.fromkeys(line for found in maps for line in found.cells.assumptions),
    )


def _cell(p: Prediction, row: int, col: int) -> str:
    if not p.memory.fits[row, col]:
        return "-"
    gamma = p.best.gamma[row, col]
    gain = f"g{gamma} {p.best.speedup[row, col]:.2f}x" if gamma else "off"
    return f"{p.baseline.bound[row, col]}\n{gain}"


def draw(maps: Sequence[RegimeMap], path: Path) -> None:
    """A panel a drafter: colour says what binds a plain step, the thick line where speculation
    starts to pay, dashes where KV outlasts weights and arithmetic outlasts memory."""
    plt = pyplot(path)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows, columns = maps[0].cells.workload.batch.shape
    size = (max(3.6, 0.85 * columns + 1.0) * len(maps), max(3.0, 0.62 * rows + 2.0))
    figure, axes = plt.subplots(
        1, len(maps), figsize=size, squeeze=False, layout="constrained", sharey=True
    )
    first = maps[0].cells
    name = f"{first.model.name} on {first.accelerator.name}, {first.deployment.stack}"
    figure.suptitle(f"What binds a step, and the best draft length: {name}", fontsize=10)
    drawn: set[str] = set()
    for axis, found in zip(axes[0], maps, strict=True):
        drawn |= _panel(axis, found)
    axes[0][0].set_ylabel("batch [sequences]")
    seen = {str(bound) for found in maps for bound in found.fine.baseline.bound.flat}
    keys: list[Any] = [Patch(color=c, label=f"{n}-bound") for n, c in COLOURS.items() if n in seen]
    keys += [
        Line2D([], [], label=name, color=style["colors"], linestyle=style["linestyles"])
        for name, style in LINES.items()
        if name in drawn
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize=8)
    save(plt, figure, path)


LINES: dict[str, dict[str, Any]] = {
    "speculation breaks even": {"colors": "black", "linestyles": "-", "linewidths": 2},
    "KV bytes = weight bytes": {"colors": "tab:green", "linestyles": "--"},
    "linear layers turn compute-bound": {"colors": "tab:red", "linestyles": "--"},
}


def _panel(axis: Any, found: RegimeMap) -> set[str]:
    """Draw one drafter's map; the lines that it has."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    fine, cells = found.fine, found.cells
    contexts, batches = fine.workload.ctx_tokens[0], fine.workload.batch[:, 0]
    fits = np.broadcast_to(fine.memory.fits, fine.baseline.bound.shape)
    colours = np.array([[to_rgb(COLOURS[str(b)]) for b in row] for row in fine.baseline.bound])
    colours[~fits] = 1.0
    axis.pcolormesh(contexts, batches, colours, shading="nearest")
    drawn = set()
    gain = np.where(fits, fine.best.speedup, np.nan) - 1 - 1e-6
    for name, values in zip(
        LINES, (gain, found.kv_over_weights, found.compute_over_memory), strict=True
    ):
        if min(fits.shape) > 1 and np.nanmin(values) < 0 < np.nanmax(values):
            axis.contour(contexts, batches, values, levels=[0], **LINES[name])
            drawn.add(name)
    for (row, col), gamma in np.ndenumerate(cells.best.gamma):
        text = f"γ {gamma}\n{cells.best.speedup[row, col]:.2f}x" if gamma else "off"
        text = text if cells.memory.fits[row, col] else "no fit"
        where = (cells.workload.ctx_tokens[0, col], cells.workload.batch[row, 0])
        halo = [withStroke(linewidth=2, foreground="white", alpha=0.8)]
        axis.text(*where, text, ha="center", va="center", fontsize=7.5, path_effects=halo)
    asked = cells.workload.ctx_tokens[0]
    axis.set_xscale("log", base=2)
    axis.set_xticks([int(c) for c in asked], [human_tokens(int(c)) for c in asked])
    asked = cells.workload.batch[:, 0]
    axis.set_yscale("log", base=2)
    axis.set_yticks([int(b) for b in asked], [str(b) for b in asked])
    axis.set_xlim(contexts[0] / 1.6, contexts[-1] * 1.6)
    axis.set_ylim(batches[0] / 1.6, batches[-1] * 1.6)
    axis.set_xlabel("context [tokens]")
    axis.set_title(name_of(cells), fontsize=9)
    return drawn
