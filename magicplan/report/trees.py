"""Trees of drafted tokens as pages: the best of every cell, and what given ones are worth."""

from __future__ import annotations

from magicplan.report.document.charts import HeatMap, Scale, TreePanel, Trees
from magicplan.report.document.page import Grid, Page, Plot, Section
from magicplan.report.document.parts import rests_on, verdict_text
from magicplan.report.document.record import Record
from magicplan.units import show

MOST_DRAWN = 64
"""Trees in a figure."""


def page(found: Record) -> Page:
    """The JSON of `magicplan tree`: the best tree of every cell."""
    points = found.records("points") or found.fail("points", "a list that is not empty")
    name = (
        f"{found.text('model', '')} on {found.text('accelerator', '')}, {found.text('draft', '')}"
    )
    speedups = Plot(
        title="Speedup of the best tree",
        reading="Cells name nodes/levels and speedup, its 80 % interval, and the best chain's "
        "speedup; off does not speculate.",
        figure=tree_map(points),
    )
    trees = Plot(
        title="The trees",
        reading="A node is the darker the likelier it is accepted; the speedup beside each has the "
        "80 % interval of the table above.",
        figure=tree_panels(points[:MOST_DRAWN]),
        quiet=True,
    )
    lines = found.texts("assumptions")
    return Page(
        title="Trees over batch and context",
        verdict=verdict_text(found),
        subject=name if found.text("model", "") else "",
        sections=(
            Section(title="Trees", blocks=(speedups, trees)),
            *((rests_on(lines),) if lines else ()),
        ),
    )


def tree_map(points: tuple[Record, ...]) -> HeatMap:
    """Speedups over the cells that the points name."""
    batches = tuple(sorted({p.number("batch") for p in points}))
    contexts = tuple(sorted({p.number("ctx_tokens") for p in points}))
    at = {(p.number("batch"), p.number("ctx_tokens")): p for p in points}
    cells = [[at.get((batch, ctx)) for ctx in contexts] for batch in batches]
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=tuple(tuple(_value(p) for p in row) for row in cells),
        texts=tuple(tuple(_text(p) for p in row) for row in cells),
        details=tuple(tuple(_details(p) for p in row) for row in cells),
        middle=1.0,
        says="nodes/levels, speedup, its 80 % interval, the best chain's speedup; off: do not "
        "speculate",
    )


def _fits(point: Record) -> bool:
    return point.flag("fits") if "fits" in point.data else True


def _value(point: Record | None) -> float | None:
    return point.maybe("speedup") if point is not None and _fits(point) else None


def _text(point: Record | None) -> str:
    if point is None or _value(point) is None:
        return "no fit"
    if point.number("size") == 1:
        return "off"
    shape = f"{point.number('size'):.0f}/{point.number('depth'):.0f}"
    return f"{shape}\n{show(point.number('speedup'), 'ratio')}"


def _details(point: Record | None) -> str:
    if point is None or _value(point) is None or point.number("size") == 1:
        return ""
    low, high = point.maybe("speedup_low"), point.maybe("speedup_high")
    chain = point.maybe("chain_speedup")
    said = [f"{low:.2f}-{high:.2f}"] if low is not None and high is not None else []
    return "\n".join([*said, *([f"chain {chain:.2f}x"] if chain is not None else [])])


def tree_panels(points: tuple[Record, ...]) -> Trees:
    """Every tree with its nodes' probabilities of being accepted, a batch a row."""
    contexts = {p.number("ctx_tokens") for p in points}
    return Trees(panels=tuple(map(_panel, points)), across=min(len(contexts), 8))


def _panel(point: Record) -> TreePanel:
    parents = []
    for node, parent in enumerate(point.numbers("parents")):
        rooted = parent == -1 if node == 0 else parent is not None and 0 <= parent < node
        if parent is None or parent != int(parent) or not rooted:
            point.fail("parents", "for every node an earlier one")
        parents.append(int(parent))
    weights = point.numbers("accepted") if "accepted" in point.data else (None,) * len(parents)
    if len(weights) != len(parents):
        point.fail("accepted", "a probability for every node")
    nodes, levels = point.number("size"), point.number("depth")
    says = f"{nodes:.0f} nodes, {levels:.0f} levels: {show(point.maybe('speedup'), 'ratio')}"
    where = f"batch {point.number('batch'):.0f}, {show(point.number('ctx_tokens'), 'tokens')}"
    if not _fits(point):
        return TreePanel(title=where, parents=(), weights=(), says="fits nowhere")
    says = says if nodes > 1 else "do not speculate"
    return TreePanel(title=where, parents=tuple(parents), weights=weights, says=says)


def worth_page(found: Record) -> Page:
    """The JSON of `magicplan tree --from`: given trees, in the order of their file."""
    best = found.record("best")
    rows = tuple(
        (
            str(number),
            f"{t.number('size'):.0f}",
            f"{t.number('depth'):.0f}",
            f"{t.number('tokens_per_round'):.2f}",
            show(t.number("round_seconds"), "seconds"),
            show(t.number("speedup"), "ratio"),
            f"{t.number('loss'):.1%}",
        )
        for number, t in enumerate(found.records("trees"), 1)
    )
    columns = ("tree", "nodes", "levels", "tokens", "round", "speedup", "loss")
    note = "loss: throughput lost against the best tree."
    return Page(
        title="What given trees are worth",
        verdict=f"The best tree has {best.number('size'):.0f} nodes and gives "
        f"{show(best.number('speedup'), 'ratio')}.",
        sections=(Section(title="Trees", blocks=(Grid(columns=columns, rows=rows, note=note),)),),
    )
