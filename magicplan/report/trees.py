"""Best trees over a grid: table, JSON and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import TreePlan, TreePoint, Valued
from magicplan.report.document.figures import pyplot, save
from magicplan.report.document.terminal import cell_tables, notes, table
from magicplan.roofline.tree_speculation import LEAST_GAIN
from magicplan.units import human_seconds, human_tokens


def render(plan: TreePlan, console: Console) -> None:
    """A row a batch, a column a context: nodes/levels and speedup, against the best chain."""
    contexts = sorted({point.ctx_tokens for point in plan.points})
    batches = sorted({point.batch for point in plan.points})
    at = {(point.batch, point.ctx_tokens): point for point in plan.points}
    draft = plan.resolved.draft.name if plan.resolved.draft else "none"
    title = f"{plan.resolved.model.name} on {plan.resolved.machine.accelerator.name}, {draft}"
    rows = [(str(batch), [_cell(at[(batch, ctx)]) for ctx in contexts]) for batch in batches]
    cell_tables(console, title, [human_tokens(ctx) for ctx in contexts], rows)
    console.print(
        "Cell: nodes/levels, speedup, its 80 % interval, the best chain's speedup; off: no tree "
        f"gains {100 * (LEAST_GAIN - 1):.0f} %, do not speculate; '-' fits nowhere."
    )
    notes(console, "Rests on", plan.assumptions)


def _cell(point: TreePoint) -> str:
    if not point.fits:
        return "-"
    if point.size == 1:
        return "off"
    interval = f"{point.speedup_low:.2f}-{point.speedup_high:.2f}"
    return (
        f"{point.size}/{point.depth}\n{point.speedup:.2f}x\n{interval}\n{point.chain_speedup:.2f}x"
    )


def as_dict(plan: TreePlan) -> dict[str, Any]:
    """The JSON of `tree`, which is also its file."""
    return plan.to_dict()


def render_worths(found: Valued, console: Console) -> None:
    """A row a given tree, in the order of its file."""
    grid = table("tree", "nodes", "levels", "tokens", "round", "speedup", "loss")
    for number, worth in enumerate(found.worths, 1):
        grid.add_row(
            str(number), str(worth.tree.size), str(worth.tree.depth),
            f"{worth.tokens_per_round:.2f}", human_seconds(worth.round_seconds),
            f"{worth.speedup:.2f}x", f"{worth.loss:.1%}",
        )  # fmt: skip
    console.print(grid)
    console.print(f"The best tree has {found.best_size} nodes and gives {found.best_speedup:.2f}x.")


def worths_as_dict(found: Valued) -> dict[str, Any]:
    """The same as JSON."""
    names = ("tokens_per_round", "round_seconds", "speedup", "loss")
    return {
        "schema": "magicplan.tree_worth/1",
        "best": {"size": found.best_size, "speedup": found.best_speedup},
        "trees": [
            {"size": worth.tree.size, "depth": worth.tree.depth}
            | {name: getattr(worth, name) for name in names}
            for worth in found.worths
        ],
    }


def draw(plan: TreePlan, path: Path) -> None:
    """A panel a cell: nodes coloured by the probability that they survive."""
    plt = pyplot(path)
    from matplotlib.cm import ScalarMappable

    contexts = sorted({point.ctx_tokens for point in plan.points})
    batches = sorted({point.batch for point in plan.points})
    if len(contexts) * len(batches) > 64:
        raise UsageError(f"--figure draws at most 64 trees, not {len(contexts) * len(batches)}")
    size = (2.6 * len(contexts) + 1.2, 2.3 * len(batches) + 0.6)
    figure, axes = plt.subplots(
        len(batches), len(contexts), figsize=size, squeeze=False, layout="constrained"
    )
    at = {(point.batch, point.ctx_tokens): point for point in plan.points}
    for row, batch in enumerate(batches):
        for column, ctx in enumerate(contexts):
            _panel(axes[row][column], at[(batch, ctx)])
    colours = ScalarMappable(norm=_scale(), cmap=COLOURS)
    figure.colorbar(colours, ax=axes, label="probability that a node is accepted", shrink=0.7)
    save(plt, figure, path)


def _places(point: TreePoint) -> list[tuple[float, float]]:
    """Leaves side by side, parents above the middle of their children."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(point.tree.parents):
        children.setdefault(parent, []).append(node)
    across: dict[int, float] = {}
    leaves = 0

    def visit(node: int) -> float:
        nonlocal leaves
        below = [visit(child) for child in children.get(node, [])]
        if not below:
            leaves += 1
        across[node] = sum(below) / len(below) if below else float(leaves)
        return across[node]

    visit(0)
    return [(across[node], -level) for node, level in enumerate(point.tree.levels)]


def _panel(axis: Any, point: TreePoint) -> None:
    where = f"batch {point.batch}, {human_tokens(point.ctx_tokens)}"
    gain = f"{point.size} nodes, {point.depth} levels: {point.speedup:.2f}x"
    if point.size == 1:
        gain = "do not speculate"
    axis.set_axis_off()
    axis.margins(0.12)
    axis.set_title(f"{where}\n{gain if point.fits else 'fits nowhere'}", fontsize=9)
    if not point.fits:
        return
    places = _places(point)
    for node, parent in enumerate(point.tree.parents):
        if parent >= 0:
            (x0, y0), (x1, y1) = places[parent], places[node]
            axis.plot([x0, x1], [y0, y1], color="0.7", linewidth=0.8, zorder=1)
    axis.scatter(
        [x for x, _ in places], [y for _, y in places], c=np.maximum(point.weights, FAINTEST),
        cmap=COLOURS, norm=_scale(), s=max(14, 70 - point.size), zorder=2,
        edgecolors="0.25", linewidths=0.4,
    )  # fmt: skip


COLOURS = "viridis_r"
FAINTEST = 0.01
"""Survival below which all nodes share a colour."""


def _scale() -> Any:
    """Logarithmic, for survival falls by a factor a level."""
    from matplotlib.colors import LogNorm

    return LogNorm(vmin=FAINTEST, vmax=1)
