"""From run files to pages: a document says by its `schema` what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError
from magicplan.report import draft_pages, prediction_page, replay_page, sweep_page, validation_page
from magicplan.report.capacity import fleet, plan
from magicplan.report.document.files import read
from magicplan.report.document.page import Page
from magicplan.report.document.record import Record
from magicplan.validate.run_file import SCHEMA as RUN
from magicplan.validate.run_file import begins_run

PAGES: dict[str, Callable[[Record], Page]] = {
    "magicplan.plan/1": plan.page,
    "magicplan.mixed_fleet/1": fleet.page,
    "magicplan.prediction/1": lambda d: _prediction(d),
    "magicplan.sweep/1": lambda d: sweep_page.page(_predictions(d)),
    "magicplan.tree/1": draft_pages.tree_page,
    "magicplan.drafts/1": draft_pages.drafts_page,
    "magicplan.replay/1": replay_page.page,
    "magicplan.validation/1": validation_page.page,
}


def pages_of(path: Path) -> list[Page]:
    """A page for every document of a file; a validation's run file is judged as `validate` does,
    within its own tolerance. Raises SpecError naming the file and the field, UsageError for a run
    that stopped before its prediction."""
    if begins_run(path):
        from magicplan.report.validation import as_dict
        from magicplan.validate.compare import compare_file

        return [page_of(as_dict(compare_file(path)), str(path))]
    return [_page(document) for document in read(path)]


def page_of(document: dict[str, Any], name: str) -> Page:
    """The page of a document that no file holds."""
    return _page(Record(data=document, file=name))


def _page(document: Record) -> Page:
    schema = document.text("schema", "")
    if schema not in PAGES:
        known = ", ".join(sorted([*PAGES, RUN]))
        raise SpecError(document.file, f"schema is {schema!r}, expected one of {known}")
    return PAGES[schema](document)


def _prediction(document: Record) -> Page:
    """One workload, or a grid, whose fields are lists."""
    if isinstance(document.record("workload").data.get("batch"), list):
        return sweep_page.page((document,))
    return prediction_page.page(document)


def _predictions(document: Record) -> tuple[Record, ...]:
    found = document.records("predictions")
    return found or document.fail("predictions", "a list that is not empty")
