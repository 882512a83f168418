"""Several workloads on one fleet as a page: what of which GPU serves whom."""

from __future__ import annotations

from collections.abc import Iterable

from magicplan.report.charts import show
from magicplan.report.figure_tables import between
from magicplan.report.page import Block, Fact, Grid, Page, Section
from magicplan.report.record import Record

COLUMNS = ("workload", "GPUs", "layout", "formats", "draft", "requests/s", "$/hour")


def page(found: Record) -> Page:
    """The JSON of `magicplan fleet`."""
    parts = found.records("parts")
    verdict, feasible = found.text("verdict"), found.flag("feasible")
    blocks: tuple[Block, ...] = (Grid(columns=COLUMNS, rows=tuple(map(_row, parts))),)
    return Page(
        title="One fleet for several workloads",
        verdict=f"Rent {verdict}." if feasible else f"{verdict[:1].upper()}{verdict[1:]}.",
        tone="good" if feasible else "bad",
        facts=tuple(_facts(found)) if feasible else (),
        sections=(Section(title="Who serves what", blocks=blocks),) if parts else (),
    )


def _facts(found: Record) -> Iterable[Fact]:
    cost, alone = found.number("cost_usd_per_hour"), found.maybe("alone_usd_per_hour")
    ends = between(
        found.maybe("cost_low_usd_per_hour"), found.maybe("cost_high_usd_per_hour"), "usd"
    )
    note = f"80 %: {ends}; the mix found anew where every replica bears either end of its capacity"
    yield Fact(name="cost an hour", value=show(cost, "usd"), note=note if ends else "")
    if alone is None:
        yield Fact(name="each alone", value=show(None), note="one has no plan of a single kind")
        return
    note = (
        f"{show(100 * (1 - cost / alone), 'percent')} saved by the mix"
        if alone > cost * 1.0005
        else ""
    )
    yield Fact(name="each by its own plan", value=show(alone, "usd"), note=note)


def _row(part: Record) -> tuple[str, ...]:
    pipeline = f" PP{part.number('pp'):.0f}" if part.number("pp") > 1 else ""
    gamma = part.number("gamma")
    return (
        part.text("workload"),
        f"{part.number('gpus'):.0f} x {part.text('gpu')}",
        f"{part.number('replicas'):.0f} of TP{part.number('tp'):.0f}{pipeline}",
        f"{part.text('dtype')}, KV {part.text('kv_dtype')}",
        f"{part.text('draft')}, {gamma:.0f} tokens" if gamma else "none",
        f"{part.number('requests_per_s'):.3g}",
        show(part.number("cost_usd_per_hour"), "usd"),
    )
