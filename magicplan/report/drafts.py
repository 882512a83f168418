"""Every draft on one workload, best first."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from magicplan.prediction.compare_drafts import Comparison, Plan
from magicplan.report.document.terminal import notes, table
from magicplan.units import human_bytes, human_seconds, human_tokens

SHOWN = 14


def render(found: Comparison, console: Console) -> None:
    """The verdict, the ranking, what was left out and why."""
    best = found.plans[0] if found.plans else None
    if best is None or best.speedup <= 1:
        console.print(Text("No draft pays here: do not speculate.", style="bold"))
    else:
        line = f"{best.draft}, {_shape(best)}: {best.speedup:.2f}x"
        doubt = "; the interval holds a loss too, so measure first" if best.speedup_low < 1 else ""
        console.print(Text(f"Speculate with {line} over plain decoding{doubt}.", style="bold"))
    ask = found.resolved
    ctx = human_tokens(int(ask.final_ctx[0, 0] - ask.request.output))
    console.print(
        f"{ask.model.name} on {float(found.placement.layout.gpus.max()):.0f} x "
        f"{ask.machine.accelerator.name}, batch {float(ask.batch[0, 0]):.0f}, context {ctx}; "
        f"a plain step takes {human_seconds(found.step_seconds)}"
    )
    grid = table("draft", "shape", "tokens", "speedup", "80 %", "held", "batch")
    for plan in found.plans[:SHOWN]:
        grid.add_row(*_row(plan), style="bold green" if plan is best and plan.speedup > 1 else None)
    console.print(grid)
    console.print("held: draft weights and KV a replica; batch: the largest that then fits.")
    if len(found.plans) > SHOWN:
        console.print(f"{len(found.plans) - SHOWN} slower plans: --json has all.")
    if found.left_out:
        notes(console, "Left out", (f"{e.method}: {e.reason}" for e in found.left_out))
    notes(
        console, "Acceptance", dict.fromkeys(f"{p.draft}: {p.acceptance}" for p in found.plans[:3])
    )
    notes(console, "Rests on", found.assumptions)


def _shape(plan: Plan) -> str:
    if plan.kind == "chain":
        return f"gamma {plan.tree.size - 1}"
    return f"tree {plan.tree.size}/{plan.tree.depth}"


def _row(plan: Plan) -> tuple[str, ...]:
    return (
        plan.draft,
        _shape(plan),
        f"{plan.tokens_per_round:.2f}",
        f"{plan.speedup:.2f}x",
        f"{plan.speedup_low:.2f}-{plan.speedup_high:.2f}",
        human_bytes(plan.draft_bytes),
        str(plan.max_batch),
    )


def as_dict(found: Comparison) -> dict[str, Any]:
    """The same as JSON."""
    return found.to_dict()
