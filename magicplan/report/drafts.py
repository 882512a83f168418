"""Every draft method on one workload as a page, best first."""

from __future__ import annotations

from magicplan.report.document.charts import Bars, Scale
from magicplan.report.document.page import Bullets, Grid, Page, Plot, Section
from magicplan.report.document.parts import left_out, rests_on, verdict_text, verdict_tone
from magicplan.report.document.record import Record
from magicplan.units import show

SHOWN = 14
"""Plans that a figure and a terminal show."""
EXPLAINED = 3
"""Plans whose acceptance is said to be from where."""


def page(found: Record) -> Page:
    """The JSON of `magicplan drafts`."""
    plans = found.records("plans")
    origins = dict.fromkeys(
        f"{p.text('draft')}: {p.text('acceptance', '')}" for p in plans[:EXPLAINED]
    )
    blocks = (
        (_speedups(plans[:SHOWN]), _table(plans)) if plans else ("No draft is left to compare.",)
    )
    return Page(
        title="Draft methods compared",
        verdict=verdict_text(found),
        tone=verdict_tone(found),
        subject=_subject(found),
        sections=(
            Section(title="Drafts", blocks=blocks),
            *left_out(found),
            *((Section(title="Acceptance", blocks=(Bullets(lines=tuple(origins)),)),) if plans
              else ()),
            rests_on(found.texts("assumptions")),
        ),
    )  # fmt: skip


def _subject(found: Record) -> str:
    step = f"a plain step takes {show(found.number('step_seconds'), 'seconds')}"
    if not found.text("model", ""):
        return f"{step[:1].upper()}{step[1:]}."
    return (
        f"{found.text('model')} on {found.number('gpus'):.0f} x {found.text('accelerator')}, stack "
        f"{found.text('stack')}, batch {found.number('batch'):.0f}, context "
        f"{show(found.number('ctx_tokens'), 'tokens')}; {step}"
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
            show(p.number("speedup"), "ratio"),
            f"{p.number('speedup_low'):.2f}-{p.number('speedup_high'):.2f}",
            _word(p, "runs_on_stack"),
            _word(p, "exists_for_model"),
            f"{p.number('tokens_per_round'):.2f}",
            show(p.number("draft_bytes"), "bytes"),
            f"{p.number('max_batch'):.0f}",
        )
        for p in plans
    )
    return Grid(
        columns=("draft", "speedup", "80 %", "stack", "exists", "tokens", "held", "batch"),
        rows=rows,
        best=frozenset({0} if plans[0].number("speedup") > 1 else ()),
        note="stack: this version runs it; exists: for this model, without training; tree N/L: N "
        "nodes in L levels; held: draft weights and KV a replica; batch: the largest that fits.",
        narrows=True,
        first=SHOWN,
    )


def _word(plan: Record, name: str) -> str:
    """Yes or no; older documents do not say."""
    return ("yes" if plan.flag(name) else "no") if name in plan.data else ""
