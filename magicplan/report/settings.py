"""Settings of a serving engine as a page: what to paste, with the schedule behind it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from magicplan.engines.settings import Settings
from magicplan.report.document.page import Block, Bullets, Code, Grid, Page, Section
from magicplan.report.document.record import Record
from magicplan.units import show


def as_dict(found: Settings) -> dict[str, Any]:
    """The JSON of settings; a schedule entry is [batch_lo, batch_hi, ctx_lo, ctx_hi, k], with the
    largest share of throughput lost in `losses`."""
    document = asdict(found) | {"notes": list(found.notes)}
    document["schedule"] = [
        [t.batch_lo, t.batch_hi, t.ctx_lo, t.ctx_hi, t.gamma] for t in found.schedule
    ]
    losses = [t.loss for t in found.schedule]
    return {"schema": "magicplan.settings/1", **document, "losses": losses}


def page(found: Record) -> Page:
    """The JSON of `--settings`."""
    engine, text, name = found.text("engine"), found.text("text"), found.text("file_name")
    blocks: list[Block] = [Code(title=f"Settings of {engine}", text=text)] if text else []
    if name:
        blocks.append(Code(title=f"{name}, beside them", text=found.text("file_text")))
    schedule = _schedule(found)
    sections = [Section(title="Paste", blocks=tuple(blocks))] if blocks else []
    sections += [Section(title="Schedule", blocks=(schedule,))] if schedule.rows else []
    if notes := found.texts("notes"):
        sections.append(Section(title="Mind", blocks=(Bullets(lines=notes),)))
    verdict = f"{engine} runs this with the settings below."
    if not text:
        verdict = f"{engine} has no settings for this: the notes say why."
    return Page(title=f"Settings of {engine}", verdict=verdict, sections=tuple(sections))


def _schedule(found: Record) -> Grid:
    rows = found.matrix("schedule")
    losses = found.numbers("losses") if "losses" in found.data else (None,) * len(rows)
    if any(len(row) != 5 or None in row for row in rows) or len(losses) != len(rows):
        found.fail("schedule", "rows of batch_lo, batch_hi, ctx_lo, ctx_hi, k, each with its loss")
    cells = tuple(
        (
            f"{batch_lo:.0f} - {batch_hi:.0f}",
            f"{show(ctx_lo, 'tokens')} - {show(ctx_hi, 'tokens')}",
            f"{gamma:.0f}" if gamma else "off",
            "" if loss is None else f"{loss:.1%}",
        )
        for (batch_lo, batch_hi, ctx_lo, ctx_hi, gamma), loss in zip(rows, losses, strict=True)
    )
    note = "loss: most throughput lost in any cell against the best draft length."
    return Grid(columns=("batch", "context", "gamma", "loss"), rows=cells, note=note)
