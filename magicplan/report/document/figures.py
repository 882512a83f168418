"""What every picture shares: the plotting library, found or asked for, and the file it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicplan.errors import MissingExtra, UsageError
from magicplan.roofline.deployment import Array
from magicplan.units import human_tokens


def pyplot(path: Path) -> Any:
    """matplotlib's pyplot without a screen, for a picture that `path` can hold.

    Raises UsageError for another ending than .png or .svg, MissingExtra without matplotlib.
    """
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--figure {path}: expected a file ending in .png or .svg")
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtra("--figure", "report") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(plt: Any, figure: Any, path: Path) -> None:
    """Write and close a figure. Raises UsageError where the file cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except OSError as problem:
        raise UsageError(f"--figure {path}: cannot be written ({problem.strerror})") from None
    finally:
        plt.close(figure)


def contexts_and_batches(axis: Any, contexts: Sequence[int], batches: Sequence[int]) -> None:
    """Name the cells of a heat map."""
    axis.set_xticks(range(len(contexts)), [human_tokens(int(ctx)) for ctx in contexts])
    axis.set_yticks(range(len(batches)), [str(batch) for batch in batches])
    axis.set_xlabel("context [tokens]")
    axis.set_ylabel("batch [sequences]")


def speedup_map(axis: Any, speedup: Array, top: float, labels: list[list[str]]) -> Any:
    """A heat map from 1 to `top`; cells that fit nowhere (NaN) stay white and say so."""
    top = max(top, 1.01)
    image = axis.imshow(speedup, origin="lower", aspect="auto", vmin=1, vmax=top, cmap="viridis")
    for row, texts in enumerate(labels):
        for column, text in enumerate(texts):
            value = float(speedup[row, column])
            absent = value != value
            colour = "0.4" if absent else "black" if value > 1 + (top - 1) * 0.55 else "white"
            axis.text(
                column, row, "no fit" if absent else text,
                ha="center", va="center", color=colour, fontsize=8,
            )  # fmt: skip
    return image
