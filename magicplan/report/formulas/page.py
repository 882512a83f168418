"""The closed forms behind a prediction as a page, a section each."""

from __future__ import annotations

from magicplan.report.document.page import Block, Bullets, Code, Page, Section
from magicplan.report.document.parts import verdict_text
from magicplan.report.document.record import Record
from magicplan.report.formulas.formula import number


def page(found: Record) -> Page:
    """The JSON of `magicplan explain`."""
    name = f"{found.text('model', '')} on {found.text('accelerator', '')}"
    name = name if found.text("model", "") else "a prediction"
    sections = [_section(entry) for entry in found.records("formulas")]
    if lines := found.texts("evidence"):
        title = f"Constants of calibration {found.record('calibration').text('name')}"
        sections.append(Section(title=title, blocks=(Bullets(lines=lines),)))
    return Page(
        title=f"The closed forms behind {name}",
        verdict=verdict_text(found),
        subject=name,
        sections=tuple(sections),
    )


def _section(entry: Record) -> Section:
    """The form, where it comes from, this workload's numbers, and what they say."""
    drawn = entry.text("drawn", "") or entry.text("formula")
    blocks: list[Block] = [Code(title="", text=drawn), entry.text("derivation")]
    inputs = entry.maybe_record("inputs")
    numbers = ", ".join(
        f"{name} = {'none' if value is None else number(value)}"
        for name, value in (inputs.items() if inputs else ())
    )
    value = entry.maybe("value")
    if value is not None:
        numbers += f" -> {number(value)} {entry.text('unit')}".rstrip()
    return Section(
        title=entry.text("name"),
        blocks=(*blocks, *((numbers,) if numbers else ()), entry.text("says")),
    )
