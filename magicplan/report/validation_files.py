"""A validation as files: one self-contained HTML page, and predicted against measured as PNG."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import MissingExtra, UsageError
from magicplan.report.figures import pyplot, save
from magicplan.report.validation import basis, flagged, headline, name_of, shown, verdict
from magicplan.units import human_tokens
from magicplan.validate.compare import QUANTITIES, Comparison
from magicplan.validate.forecast import TIMES

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>magicplan validate: {{ headline }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } td.name { text-align: left }
.fail, .impossible { color: #b00020 } .pass { color: #1a7f37 } .skipped { color: #777 }
img { max-width: 100% } small { color: #555 }
</style></head><body>
<h1>{{ headline }}</h1>
<p><strong class="{{ 'pass' if passed else 'fail' }}">{{ verdict }}</strong></p>
<table><caption>milliseconds: measured [95 % interval] / calibrated / ideal</caption>
<tr><th>batch<th>context<th>draft{% for q in times %}<th>{{ q }}{% endfor %}<th>tokens a round
<th>speedup<th>verdict</tr>
{% for p in points %}<tr><td>{{ p.batch }}<td>{{ p.ctx }}<td>{{ p.length }}
{% for cell in p.cells %}<td>{{ cell }}{% endfor %}
<td class="{{ p.verdict }}" title="{{ p.reason }}">{{ p.verdict }}</tr>
{% endfor %}</table>
<table><caption>errors in percent</caption>
<tr><th>quantity<th>MAPE<th>p95<th>bias<th>ideal MAPE<th>ideal bias</tr>
{% for row in errors %}<tr>{% for cell in row %}<td{% if loop.first %} class="name"{% endif %}>
{{ cell }}{% endfor %}</tr>{% endfor %}</table>
<img alt="Predicted against measured" src="data:image/png;base64,{{ plot }}">
{% for title, lines in notes %}<h2>{{ title }}</h2><ul>{% for line in lines %}<li>{{ line }}
{% endfor %}</ul>{% endfor %}
<small>prediction sha256 {{ sha }}</small>
</body></html>
"""


def write(c: Comparison, folder: Path) -> list[Path]:
    """`report.html` and `predicted-against-measured.png` in a folder.

    Raises MissingExtra without jinja2 or matplotlib, UsageError where it cannot be written.
    """
    picture = folder / "predicted-against-measured.png"
    page = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw(c, picture)
        page.write_text(html(c, picture.read_bytes()), encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"--out {folder}: cannot be written ({problem.strerror})") from None
    return [page, picture]


def html(c: Comparison, picture: bytes) -> str:
    """The page; every text from a run file is escaped."""
    try:
        from jinja2 import Environment
    except ImportError:
        raise MissingExtra("the HTML report", "report") from None
    environment = Environment(autoescape=True)
    reasons = [f"{name_of(p)}: {p.reason}" for p in c.points if p.reason]
    titled = [("Shown here", shown(c)), ("Not passed", reasons), ("Flags", flagged(c)),
              ("Rests on", basis(c))]  # fmt: skip
    return environment.from_string(PAGE).render(
        headline=headline(c),
        verdict=verdict(c),
        passed=c.passed,
        times=[name.removesuffix("_seconds") for name in TIMES],
        points=[_cells(p) for p in c.points],
        errors=list(_errors(c)),
        plot=base64.b64encode(picture).decode(),
        notes=[(title, lines) for title, lines in titled if lines],
        sha=c.digest,
    )


def _cells(p: Any) -> dict[str, Any]:
    cells = []
    for name in TIMES:
        told = f"{1e3 * p.predicted[name]:.3g} / {1e3 * p.ideal[name]:.3g}"
        if not p.measured:
            cells.append(f"\u2013 / {told}")
            continue
        low, high = (1e3 * p.measured[f"{name}_{end}"] for end in ("low", "high"))
        cells.append(f"{1e3 * p.measured[name]:.3g} [{low:.3g}, {high:.3g}] / {told}")
    for name in ("tokens_per_round", "speedup"):
        sides = [side[name] for side in (p.measured, p.predicted, p.ideal) if side]
        cells.append(" / ".join(f"{value:.2f}" for value in sides))
    return {
        "batch": p.batch,
        "ctx": human_tokens(p.ctx_tokens),
        "length": p.draft_length,
        "cells": cells,
        "verdict": p.verdict,
        "reason": p.reason,
    }


def _errors(c: Comparison) -> Any:
    for quantity in QUANTITIES:
        e, ideal = c.errors.get(quantity), c.ideal_errors.get(quantity)
        if e and ideal:
            yield (quantity, f"{e.mape:.1f}", f"{e.p95:.1f}", f"{e.bias:+.1f}",
                   f"{ideal.mape:.0f}", f"{ideal.bias:+.0f}")  # fmt: skip


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
