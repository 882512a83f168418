"""Settings to paste, with the schedule behind them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from magicplan.engines.settings import Settings
from magicplan.report.document.terminal import notes, table
from magicplan.units import human_tokens


def render(found: Settings, console: Console) -> None:
    """What to paste, the file it names, the schedule over batch and context, and what was lost."""
    if found.text:
        console.print(found.text, soft_wrap=True)
    if found.file_name:
        console.print(f"{found.file_name}: {found.file_text}", soft_wrap=True)
    if found.schedule:
        grid = table("batch", "context", "gamma", "loss")
        for row in found.schedule:
            contexts = f"{human_tokens(row.ctx_lo)} - {human_tokens(row.ctx_hi)}"
            batches = f"{row.batch_lo} - {row.batch_hi}"
            gamma = str(row.gamma) if row.gamma else "off"
            grid.add_row(batches, contexts, gamma, f"{row.loss:.1%}")
        console.print(grid)
    notes(console, "Mind", found.notes)


def as_dict(found: Settings) -> dict[str, Any]:
    """The same as JSON; a schedule entry is [batch_lo, batch_hi, ctx_lo, ctx_hi, k]."""
    document = asdict(found)
    document["schedule"] = [
        [t.batch_lo, t.batch_hi, t.ctx_lo, t.ctx_hi, t.gamma] for t in found.schedule
    ]
    return {"schema": "magicplan.settings/1", **document}
