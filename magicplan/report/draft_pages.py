"""Comparisons of drafts, and trees over a grid, as pages."""

from __future__ import annotations

from magicplan.report.document.charts import Bars, HeatMap, Scale, show
from magicplan.report.document.page import Bullets, Grid, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.report.prediction_page import rests_on

SHOWN = 14


def drafts_page(found: Record) -> Page:
    """Every draft method on one workload, best first."""
    plans = found.records("plans")
    best = plans[0] if plans else None
    pays = best is not None and best.number("speedup") > 1
    verdict = "No draft pays here: do not speculate."
    if best is not None and pays:
        gain = show(best.number("speedup"), "ratio")
        verdict = f"Speculate with {_name(best)}: {gain} over plain decoding."
    left_out = found.records("left_out")
    sections = [Section(title="Drafts", blocks=(_speedups(plans[:SHOWN]), _table(plans)))]
    if left_out:
        lines = tuple(f"{e.text('method')}: {e.text('reason')}" for e in left_out)
        sections.append(Section(title="Left out", blocks=(Bullets(lines=lines),)))
    sections.append(rests_on(found.texts("assumptions")))
    return Page(
        title="Draft methods compared",
        verdict=verdict,
        tone="good" if pays else "plain",
        subject=f"A plain step takes {show(found.number('step_seconds'), 'seconds')}.",
        sections=tuple(sections),
    )


def _name(plan: Record) -> str:
    gamma = plan.maybe("gamma")
    shape = f"tree {plan.number('size'):.0f}/{plan.number('depth'):.0f}"
    return f"{plan.text('draft')}, {shape if gamma is None else f'gamma {gamma:.0f}'}"


def speedup_bars(plans: tuple[Record, ...]) -> Bars:
    """Speedups with their intervals, beside plain decoding."""
    return Bars(
        labels=tuple(map(_name, plans)),
        value=Scale(title="speedup", unit="ratio"),
        parts=(("speedup", tuple(p.number("speedup") for p in plans)),),
        low=tuple(p.maybe("speedup_low") for p in plans),
        high=tuple(p.maybe("speedup_high") for p in plans),
        limits=tuple(1.0 for _ in plans),
        limit_name="plain decoding",
    )


def _speedups(plans: tuple[Record, ...]) -> Plot:
    return Plot(
        title="Speedup by draft",
        reading="Bars with 80 % intervals, from acceptance and times; red marks plain decoding.",
        figure=speedup_bars(plans),
        repeated=True,
    )


def _table(plans: tuple[Record, ...]) -> Grid:
    rows = tuple(
        (
            _name(p),
            f"{p.number('tokens_per_round'):.2f}",
            show(p.number("speedup"), "ratio"),
            f"{p.number('speedup_low'):.2f}-{p.number('speedup_high'):.2f}",
            show(p.number("draft_bytes"), "bytes"),
            f"{p.number('max_batch'):.0f}",
        )
        for p in plans
    )
    return Grid(
        columns=("draft", "tokens", "speedup", "80 %", "held", "batch"),
        rows=rows,
        best=frozenset({0} if rows else ()),
        note="held: draft weights and KV a replica; batch: the largest that then fits.",
    )


def tree_page(found: Record) -> Page:
    """The best tree of every cell."""
    points = found.records("points")
    if not points:
        found.fail("points", "a list that is not empty")
    top = max(points, key=lambda p: p.maybe("speedup") or 0)
    at = f"batch {top.number('batch'):.0f}, context {show(top.number('ctx_tokens'), 'tokens')}"
    rows = tuple(
        (
            f"{p.number('batch'):.0f}",
            show(p.number("ctx_tokens"), "tokens"),
            f"{p.number('size'):.0f}",
            f"{p.number('depth'):.0f}",
            _widths(p),
            f"{p.number('tokens_per_round'):.2f}",
            show(p.maybe("speedup"), "ratio"),
            show(p.maybe("chain_speedup"), "ratio"),
        )
        for p in points
    )
    columns = ("batch", "context", "nodes", "levels", "nodes a level", "tokens", "speedup", "chain")
    plot = Plot(
        title="Speedup of the best tree",
        reading="Cells name nodes/levels and speedup; 1/1 does not speculate. A tree's speedup has "
        "the interval of its draft: magicplan drafts prints it.",
        figure=tree_map(points),
    )
    grid = Grid(columns=columns, rows=rows)
    return Page(
        title="Trees over batch and context",
        verdict=f"Trees bring up to {show(top.maybe('speedup'), 'ratio')}, at {at}.",
        sections=(Section(title="Trees", blocks=(plot, grid)),),
    )


def _widths(point: Record) -> str:
    """Nodes of every level, from the root down."""
    levels: list[int] = []
    counts: dict[int, int] = {}
    for node, parent in enumerate(point.numbers("parents")):
        rooted = parent == -1 if node == 0 else parent is not None and 0 <= parent < node
        if parent is None or parent != int(parent) or not rooted:
            point.fail("parents", "for every node an earlier one")
        levels.append(0 if parent < 0 else levels[int(parent)] + 1)
        counts[levels[-1]] = counts.get(levels[-1], 0) + 1
    return " ".join(str(counts[level]) for level in sorted(counts))


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
        values=tuple(tuple(p.maybe("speedup") if p else None for p in row) for row in cells),
        texts=tuple(tuple(_cell(p) for p in row) for row in cells),
        middle=1.0,
    )


def _cell(point: Record | None) -> str:
    if point is None or point.maybe("speedup") is None:
        return "–"
    shape = f"{point.number('size'):.0f}/{point.number('depth'):.0f}"
    return f"{shape}\n{show(point.maybe('speedup'), 'ratio')}"
