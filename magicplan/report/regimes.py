"""What binds a step, and the best draft length of four kinds of drafter, as a page of maps."""

from __future__ import annotations

from magicplan.report.document.charts import HeatMap, Scale, mapped
from magicplan.report.document.page import Bullets, Page, Plot, Section
from magicplan.report.document.parts import rests_on, verdict_text
from magicplan.report.document.record import Record
from magicplan.report.sweep import Cells, axes_of, break_even_lines, ends_text

READING = (
    "Colour says what binds a plain step; a cell says the best draft length, its speedup and 80 % "
    "interval. Lines mark where speculation starts to pay, where KV bytes pass weight bytes, and "
    "where linear layers turn compute-bound."
)


def page(found: Record) -> Page:
    """The JSON of `magicplan regimes`: a map for each way in which a drafter's cache grows."""
    maps = found.records("predictions") or found.fail("predictions", "a list that is not empty")
    first = maps[0]
    name = f"{first.record('model').text('name')} on {first.record('accelerator').text('name')}"
    return Page(
        title=f"What binds a step, and the best draft length: {name}",
        verdict=verdict_text(found),
        subject=f"{name}, stack {first.record('deployment').text('stack')}",
        sections=(
            *(Section(title=p.text("drafter"), blocks=(_map(p),)) for p in maps),
            Section(title="Kinds of layers", blocks=(Bullets(lines=_layers(found)),)),
            rests_on(tuple(line for p in maps for line in p.texts("assumptions"))),
        ),
    )


def _layers(found: Record) -> tuple[str, ...]:
    """A line for every kind of layer: what a verification of five tokens moves, where it turns."""
    lines = []
    for cost in found.records("layers"):
        turn = cost.maybe("turns_at")
        says = f"{cost.text('kind')}, {cost.number('layers'):.0f} layers: a verification of 5 "
        says += f"moves {cost.number('verify_of_5_over_step'):.2f} times a step's bytes"
        lines.append(says + (f"; turns at {turn:.0f} {cost.text('turns_at_unit')}" if turn else ""))
    return tuple(lines)


def _map(p: Record) -> Plot:
    title = "Best draft length, and what binds a step"
    return Plot(title=f"{title}: {p.text('drafter')}", reading=READING, figure=regime_map(p))


def regime_map(p: Record) -> HeatMap:
    """What binds every cell, with its best draft length."""
    batches, contexts = axes_of(p)
    best, base = Cells(p, "best"), Cells(p, "baseline")
    gains, gammas = best.numbers("speedup"), best.numbers("gamma")
    bounds, seconds = base.names("bound"), base.numbers("step_seconds")
    ends = (best.numbers("speedup_low"), best.numbers("speedup_high"))
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=gains,
        texts=mapped(_text, gains, gammas),
        details=mapped(_details, *ends, gammas, bounds, seconds),
        classes=mapped(_class, bounds, seconds),
        lines=tuple(break_even_lines(p)),
        says="the best draft length (γ), its speedup and 80 % interval, what binds a plain step",
    )


def _text(gain: float | None, gamma: float | None) -> str:
    if gain is None:
        return "no fit"
    return f"γ {gamma:.0f}\n{gain:.2f}x" if gamma else "off"


def _class(bound: str, seconds: float | None) -> str:
    return "" if seconds is None else f"bound by {bound}"


def _details(
    low: float | None, high: float | None, gamma: float | None, bound: str, seconds: float | None
) -> str:
    return "" if seconds is None else "\n".join(filter(None, (ends_text(low, high, gamma), bound)))
