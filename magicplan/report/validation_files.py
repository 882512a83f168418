"""A validation as files: one self-contained HTML page, and predicted against measured as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from magicplan.errors import UsageError
from magicplan.report import validation_page
from magicplan.report.document.figures import pyplot, save
from magicplan.report.document.html import render
from magicplan.report.document.record import Record
from magicplan.report.validation import as_dict
from magicplan.validate.compare import QUANTITIES, Comparison


def write(c: Comparison, folder: Path) -> list[Path]:
    """`report.html` and `predicted-against-measured.png` in a folder.

    Raises MissingExtra without the extra `report`, UsageError where it cannot be written.
    """
    picture = folder / "predicted-against-measured.png"
    page = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw(c, picture)
        page.write_text(html(c), encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"--out {folder}: cannot be written ({problem.strerror})") from None
    return [page, picture]


def html(c: Comparison) -> str:
    """The page that `magicplan report` makes of the same validation."""
    return render((validation_page.page(Record(data=as_dict(c), file="run.jsonl")),))


def _draw(c: Comparison, path: Path) -> None:
    """Predicted against measured with intervals: calibrated and ideal, a panel a quantity."""
    plt = pyplot(path)
    figure, axes = plt.subplots(2, 3, figsize=(13, 8))
    for spare in axes.flat[len(QUANTITIES) :]:
        spare.axis("off")
    measured = [p for p in c.points if p.measured]
    for axis, quantity in zip(axes.flat, QUANTITIES, strict=False):
        name = quantity if quantity == "speedup" else f"{quantity}_seconds"
        scale, unit = (1.0, "x") if quantity == "speedup" else (1e3, "ms")
        x = scale * np.asarray([p.measured[name] for p in measured])
        ends = scale * np.asarray(
            [[p.measured[f"{name}_low"], p.measured[f"{name}_high"]] for p in measured]
        ).reshape(-1, 2)
        spread = np.abs(ends - x[:, None]).T
        for side, color in (("ideal", "#bbbbbb"), ("predicted", "#1f6feb")):
            y = scale * np.asarray([getattr(p, side)[name] for p in measured])
            label = "calibrated" if side == "predicted" else side
            axis.errorbar(x, y, xerr=spread, fmt="o", ms=4, color=color, label=label, lw=0.8)
        if measured:
            line = [x.min() * 0.8, x.max() * 1.25]
            axis.plot(line, line, color="black", lw=0.8)
            axis.set(xscale="log", yscale="log")
        axis.set(title=quantity, xlabel=f"measured [{unit}]", ylabel=f"predicted [{unit}]")
        axis.legend(frameon=False)
    figure.tight_layout()
    save(plt, figure, path)
