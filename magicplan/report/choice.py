"""The best draft of every cell: table, JSON and two heat maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.prediction.choose import Cell, Choice
from magicplan.report.document.figures import contexts_and_batches, pyplot, save, speedup_map
from magicplan.report.document.terminal import cell_tables, notes
from magicplan.units import human_tokens


def render(found: Choice, console: Console) -> None:
    """A row a batch, a column a context: draft, shape, speedup with its interval."""
    contexts = sorted({cell.ctx_tokens for cell in found.cells})
    ask = found.resolved
    title = f"{ask.model.name} on {ask.machine.accelerator.name}: the best draft"
    columns = [human_tokens(ctx) for ctx in contexts]
    rows = {
        batch: {cell.ctx_tokens: cell for cell in found.cells if cell.batch == batch}
        for batch in dict.fromkeys(cell.batch for cell in found.cells)
    }
    texts = [
        (str(batch), [_text(row[ctx], interval=True) for ctx in contexts])
        for batch, row in rows.items()
    ]
    cell_tables(console, title, columns, texts)
    console.print("Cell: draft, gamma or tree (nodes/levels), speedup, 80 %; '-': fits nowhere.")
    if found.left_out:
        notes(console, "Left out", (f"{e.method}: {e.reason}" for e in found.left_out))
    notes(console, "Rests on", found.assumptions)


def _text(cell: Cell, *, interval: bool = False) -> str:
    if not cell.fits:
        return "-"
    if cell.kind == "none":
        return "off"
    lines = [*_wrapped(cell.draft), _shape(cell)]
    if interval:
        lines[-1] += f" {cell.speedup:.2f}x"
        lines.append(f"{cell.speedup_low:.2f}-{cell.speedup_high:.2f}")
    return "\n".join(lines)


def _wrapped(name: str) -> list[str]:
    """A draft's name on short lines: model or method, then what it reads."""
    return name.replace(" -> ", " ").split(" ")


def _shape(cell: Cell) -> str:
    return f"g{cell.size - 1}" if cell.kind == "chain" else f"{cell.size}/{cell.depth}"


def as_dict(found: Choice) -> dict[str, Any]:
    """The same as JSON, a record a cell."""
    return found.to_dict()


def draw(found: Choice, path: Path) -> None:
    """Heat maps of speedup and of the best choice: colour says which method, text says how."""
    plt = pyplot(path)
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    shape = found.placement.fits.shape
    cells = np.empty(shape, dtype=object)
    cells.flat[:] = found.cells
    fits = np.array([[cell.fits for cell in row] for row in cells])
    speedup = np.array([[cell.speedup for cell in row] for row in cells])
    contexts = [cell.ctx_tokens for cell in cells[0]]
    batches = [row[0].batch for row in cells]
    size = (2 * (1.15 * shape[1] + 1.2) + 1.0, 0.72 * shape[0] + 2.2)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="constrained")
    labels = [[f"{cell.speedup:.2f}x" if cell.size > 1 else "off" for cell in row] for row in cells]
    image = speedup_map(left, np.where(fits, speedup, np.nan), float(speedup.max()), labels)
    figure.colorbar(image, ax=left, label="speedup")
    names = list(dict.fromkeys(cell.method for cell in found.cells if cell.fits))
    colours = {name: colormaps["Pastel1"](i % 9) for i, name in enumerate(names)}
    blank = (1.0, 1.0, 1.0, 1.0)
    right.imshow(
        np.array([[colours[c.method] if c.fits else blank for c in row] for row in cells]),
        origin="lower",
        aspect="auto",
    )
    for (row, column), cell in np.ndenumerate(cells):
        text = _text(cell) if cell.fits else "no fit"
        right.text(column, row, text, ha="center", va="center", fontsize=7.5)
    left.set_title("speedup of the best choice", fontsize=10)
    right.set_title("the best choice: gamma, or tree nodes/levels", fontsize=10)
    for axis in (left, right):
        contexts_and_batches(axis, contexts, batches)
    ask = found.resolved
    figure.suptitle(f"{ask.model.name} on {ask.machine.accelerator.name}", fontsize=11)
    patches = [Patch(color=colours[name], label=name) for name in names]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=max(1, len(patches)), fontsize=8
    )
    save(plt, figure, path)
