"""The best draft of every cell as a page: which method, and what it brings."""

from __future__ import annotations

from dataclasses import replace

from magicplan.report.document.charts import HeatMap, Scale
from magicplan.report.document.page import Grid, Page, Plot, Section
from magicplan.report.document.parts import left_out, rests_on, verdict_text
from magicplan.report.document.record import Record
from magicplan.units import show


def page(found: Record) -> Page:
    """The JSON of `magicplan sweep --choice`."""
    cells = found.records("cells") or found.fail("cells", "a list that is not empty")
    name = f"{found.text('model')} on {found.text('accelerator')}"
    methods = method_map(cells)
    gains = Plot(
        title="Speedup of the best choice",
        reading="Blue gains; 80 % intervals are in the hover box and in the table.",
        figure=replace(methods, classes=(), middle=1.0),
        repeated=True,
    )
    chosen = Plot(
        title="The best choice",
        reading="Colour says the method; a cell says the draft with its length (γ) or its tree "
        "(nodes/levels), its speedup and 80 % interval.",
        figure=methods,
    )
    return Page(
        title=f"{name}: the best draft of every batch and context",
        verdict=verdict_text(found),
        subject=name,
        sections=(
            Section(title="The best draft", blocks=(chosen, gains)),
            *_elsewhere(cells),
            *left_out(found),
            rests_on(found.texts("assumptions")),
        ),
    )


def _elsewhere(cells: tuple[Record, ...]) -> tuple[Section, ...]:
    """The cells in which a draft that only another stack runs would bring more."""
    better = [
        cell for cell in cells
        if (cell.maybe("alternative_speedup") or 0.0) > max(cell.number("speedup"), 1.0)
    ]  # fmt: skip
    if not better:
        return ()
    rows = tuple(
        (
            f"batch {c.number('batch'):.0f}, context {show(c.number('ctx_tokens'), 'tokens')}",
            c.text("alternative"),
            show(c.number("alternative_speedup"), "ratio"),
            f"{c.text('draft')}, {show(c.number('speedup'), 'ratio')}",
        )
        for c in better
    )
    grid = Grid(columns=("cell", "draft", "speedup", "chosen here"), rows=rows, prose=True)
    said = "Drafts that exist for this model and that another stack runs, where they bring more."
    return (Section(title="Better on another stack", blocks=(said, grid)),)


def method_map(cells: tuple[Record, ...]) -> HeatMap:
    """Draft, shape and speedup over the cells that the document names."""
    batches = tuple(sorted({c.number("batch") for c in cells}))
    contexts = tuple(sorted({c.number("ctx_tokens") for c in cells}))
    at = {(c.number("batch"), c.number("ctx_tokens")): c for c in cells}
    grid = [[at.get((batch, ctx)) for ctx in contexts] for batch in batches]
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=tuple(tuple(_value(c) for c in row) for row in grid),
        texts=tuple(tuple(_text(c) for c in row) for row in grid),
        details=tuple(tuple(_ends(c) for c in row) for row in grid),
        classes=tuple(tuple(_method(c) for c in row) for row in grid),
        says="draft, length (γ) or tree (nodes/levels), speedup, 80 % interval; off: do not "
        "speculate",
    )


def _value(cell: Record | None) -> float | None:
    return cell.number("speedup") if cell is not None and cell.flag("fits") else None


def _method(cell: Record | None) -> str:
    return cell.text("method") if cell is not None and cell.flag("fits") else ""


def _text(cell: Record | None) -> str:
    if cell is None or not cell.flag("fits"):
        return "no fit"
    size, kind = cell.number("size"), cell.text("kind")
    if kind == "none":
        return "off"
    shape = f"γ {size - 1:.0f}" if kind == "chain" else f"{size:.0f}/{cell.number('depth'):.0f}"
    name = cell.text("draft").replace(" -> ", "\n").replace(" ", "\n")
    return f"{name}\n{shape}\n{cell.number('speedup'):.2f}x"


def _ends(cell: Record | None) -> str:
    if cell is None or not cell.flag("fits") or cell.text("kind") == "none":
        return ""
    return f"{cell.number('speedup_low'):.2f}-{cell.number('speedup_high'):.2f}"
