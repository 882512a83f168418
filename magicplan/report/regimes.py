"""The regime map: what binds a plain step, and the best draft length of three kinds of drafter.

Why one user rightly raises the draft length with context and another rightly lowers it: a drafter
whose KV cache stays constant gets cheaper beside a growing step, one whose cache grows does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.planning.prediction import Prediction
from magicplan.report.figures import pyplot, save
from magicplan.report.terminal import notes, table
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


def render(maps: Sequence[Prediction], console: Console) -> None:
    """A table a drafter: what binds a plain step, the best draft length, its speedup."""
    for p in maps:
        contexts = [human_tokens(int(ctx)) for ctx in p.workload.ctx_tokens[0]]
        grid = table("batch", *contexts, title=name_of(p))
        for row, batch in enumerate(p.workload.batch[:, 0]):
            grid.add_row(str(batch), *(_cell(p, row, col) for col in range(len(contexts))))
        console.print(grid)
    console.print("Cell: what binds a plain step, then gamma and speedup; '-': fits nowhere.")
    notes(console, "Rests on", dict.fromkeys(line for p in maps for line in p.assumptions))


def _cell(p: Prediction, row: int, col: int) -> str:
    if not p.memory.fits[row, col]:
        return "-"
    gamma = p.best.gamma[row, col]
    gain = f"g{gamma} {p.best.speedup[row, col]:.2f}x" if gamma else "off"
    return f"{p.baseline.bound[row, col]}\n{gain}"


def draw(maps: Sequence[Prediction], path: Path) -> None:
    """A panel a drafter: colour says what binds, the line where speculation starts to pay."""
    plt = pyplot(path)
    from matplotlib.patches import Patch

    rows, columns = maps[0].workload.batch.shape
    size = ((1.0 * columns + 1.4) * len(maps), 0.6 * rows + 2.0)
    figure, axes = plt.subplots(1, len(maps), figsize=size, squeeze=False, layout="constrained")
    for axis, p in zip(axes[0], maps, strict=True):
        _panel(axis, p)
    seen = {str(bound) for p in maps for bound in p.baseline.bound.flat}
    patches = [Patch(color=c, label=f"{n}-bound") for n, c in COLOURS.items() if n in seen]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    save(plt, figure, path)


def _panel(axis: Any, p: Prediction) -> None:
    from matplotlib.colors import to_rgb

    bounds = p.baseline.bound
    axis.imshow(
        np.array([[to_rgb(COLOURS[str(b)]) for b in row] for row in bounds]),
        origin="lower",
        aspect="auto",
    )
    # a cell that fits nowhere draws no line of its own
    pays = ~p.memory.fits | (p.best.speedup > 1)
    if pays.any() and not pays.all():
        axis.contour(pays.astype(float), levels=[0.5], colors="black", linewidths=1.5)
    for (row, col), gamma in np.ndenumerate(p.best.gamma):
        text = f"γ {gamma}\n{p.best.speedup[row, col]:.2f}x" if gamma else "off"
        text = text if p.memory.fits[row, col] else "no fit"
        axis.text(col, row, text, ha="center", va="center", fontsize=7)
    contexts = [human_tokens(int(c)) for c in p.workload.ctx_tokens[0]]
    axis.set_xticks(range(len(contexts)), contexts)
    axis.set_yticks(range(len(bounds)), [str(b) for b in p.workload.batch[:, 0]])
    axis.set_xlabel("context [tokens]")
    axis.set_ylabel("batch [sequences]")
    axis.set_title(name_of(p), fontsize=9)
