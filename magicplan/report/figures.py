"""What every picture shares: the plotting library, found or asked for, and the file it goes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicplan.errors import MissingExtra, UsageError


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
