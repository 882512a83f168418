"""Several workloads on one fleet as a page: what of which GPU serves whom."""

from __future__ import annotations

from collections.abc import Iterable

from magicplan.report.capacity.words import ENGINES, counts, degrees, draft_words
from magicplan.report.document.page import Block, Bullets, Code, Fact, Grid, Page, Section
from magicplan.report.document.record import Record
from magicplan.units import between, show

COLUMNS = ("workload", "GPUs", "layout", "formats", "draft", "requests/s", "$/hour")


def page(found: Record) -> Page:
    """The JSON of `magicplan fleet`."""
    feasible = found.flag("feasible")
    return Page(
        title="One fleet for several workloads",
        verdict=found.text("verdict"),
        tone="good" if feasible else "bad",
        facts=tuple(facts(found)) if feasible else (),
        sections=(Section(title="Who serves what", blocks=parts(found)),) if feasible else (),
    )


def parts(found: Record) -> tuple[Block, ...]:
    """Every kind of replica, then how to launch each."""
    listed = found.records("parts")
    blocks: list[Block] = [Grid(columns=COLUMNS, rows=tuple(map(_row, listed)))]
    for part in listed:
        where = f" on {part.text('gpu')} for {part.text('workload')}"
        blocks += commands(part.records("launch"), where)
    return tuple(blocks)


def commands(launch: Iterable[Record], where: str = "") -> list[Block]:
    """Commands to paste, by engine: each with its notes, those of all its commands once at the
    end; of an engine that cannot start the plan, why."""
    engines: dict[str, list[Record]] = {}
    for entry in launch:
        engines.setdefault(entry.text("engine"), []).append(entry)
    blocks: list[Block] = []
    for name, entries in engines.items():
        engine = ENGINES.get(name, name)
        every = [set(entry.texts("notes")) for entry in entries if entry.text("role") != "router"]
        shared = set.intersection(*every) if len(every) > 1 else set()
        for entry in entries:
            blocks += _command(entry, engine, where, shared)
        if shared:
            ordered = tuple(note for note in entries[0].texts("notes") if note in shared)
            blocks += [f"Of all replicas with {engine}:", Bullets(lines=ordered)]
    return blocks


TITLES = {
    "serve": "Launch a replica{where} with {engine}",
    "prefill": "Launch a replica{where} that prefills with {engine}",
    "decode": "Launch a replica{where} that decodes with {engine}",
    "router": "Route requests between both with {engine}",
}


def _command(entry: Record, engine: str, where: str, shared: set[str]) -> list[Block]:
    """A command, the file it reads, and what it alone could not express."""
    refused = entry.text("refused", "")
    if refused:
        return [f"No command for {engine}{where}: {refused}."]
    title = TITLES.get(entry.text("role"), TITLES["serve"]).format(where=where, engine=engine)
    blocks: list[Block] = [Code(title=title, text=entry.text("command"))]
    if entry.text("file_name", ""):
        beside = f"{entry.text('file_name')}, beside it"
        blocks.append(Code(title=beside, text=entry.text("file_text")))
    own = tuple(note for note in entry.texts("notes") if note not in shared)
    if own:
        blocks.append(Bullets(lines=own))
    return blocks


def facts(found: Record, *, alone: bool = True) -> Iterable[Fact]:
    """GPUs and cost; with `alone`, what every workload costs by its own plan."""
    yield Fact(name="GPUs", value=counts(found))
    cost, each = found.number("cost_usd_per_hour"), found.maybe("alone_usd_per_hour")
    ends = between(
        found.maybe("cost_low_usd_per_hour"), found.maybe("cost_high_usd_per_hour"), "usd"
    )
    note = f"80 %: {ends}; the mix found anew where every replica bears either end of its capacity"
    yield Fact(name="cost an hour", value=show(cost, "usd"), note=note if ends else "")
    if not alone:
        return
    if each is None:
        yield Fact(name="each alone", value=show(None), note="one has no plan of a single kind")
        return
    note = ""
    if each > cost * 1.0005:
        note = f"{show(100 * (1 - cost / each), 'percent')} saved by the mix"
    elif each < cost / 1.0005:
        note = (
            "cheaper, with more GPUs than are at hand, or prefill and decode on replicas of their "
            "own, which a mix leaves out"
        )
    yield Fact(name="each by its own plan", value=show(each, "usd"), note=note)


def _row(part: Record) -> tuple[str, ...]:
    return (
        part.text("workload"),
        f"{part.number('gpus'):.0f} x {part.text('gpu')}",
        f"{part.number('replicas'):.0f} of {degrees(part)}",
        f"{part.text('dtype')}, KV {part.text('kv_dtype')}",
        draft_words(part) if part.number("gamma") else "none",
        f"{part.number('requests_per_s'):.3g}",
        show(part.number("cost_usd_per_hour"), "usd"),
    )
