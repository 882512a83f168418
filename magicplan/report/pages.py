"""From documents to pages: a document says by its `schema` what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError
from magicplan.report.document.files import read
from magicplan.report.document.page import Page
from magicplan.report.document.record import Record

HOMES = {
    "magicplan.plan/1": "capacity.plan.page",
    "magicplan.mixed_fleet/1": "capacity.fleet.page",
    "magicplan.prediction/1": "pages.prediction_page",
    "magicplan.sweep/1": "pages.sweep_page",
    "magicplan.choice/1": "choice.page",
    "magicplan.regimes/1": "regimes.page",
    "magicplan.settings/1": "settings.page",
    "magicplan.tree/1": "trees.page",
    "magicplan.tree_worth/1": "trees.worth_page",
    "magicplan.drafts/1": "drafts.page",
    "magicplan.explain/1": "formulas.page.page",
    "magicplan.replay/1": "replay.page",
    "magicplan.bench/1": "bench.page",
    "magicplan.calibration/1": "calibrations.page",
    "magicplan.validation/1": "validation.page",
}
"""The function that makes the page of each schema, by its path: only its file is loaded."""


def pages_of(path: Path) -> list[Page]:
    """A page for every document of a file; a validation's run file is judged as `validate` does,
    within its own tolerance. Raises SpecError naming the file and the field, UsageError for a run
    that stopped before its prediction."""
    from magicplan.validate.run_file import begins_run

    if begins_run(path):
        from magicplan.validate.account import as_dict
        from magicplan.validate.compare import compare_file

        return [page_of(as_dict(compare_file(path)), str(path))]
    return [_page(document) for document in read(path)]


def page_of(document: dict[str, Any], name: str) -> Page:
    """The page of a document that no file holds."""
    return _page(Record(data=document, file=name))


def _page(document: Record) -> Page:
    schema = document.text("schema", "")
    if schema not in HOMES:
        from magicplan.validate.run_file import SCHEMA as RUN

        known = ", ".join(sorted([*HOMES, RUN]))
        raise SpecError(document.file, f"schema is {schema!r}, expected one of {known}")
    module, _, name = HOMES[schema].rpartition(".")
    make: Callable[[Record], Page] = getattr(import_module(f"magicplan.report.{module}"), name)
    return make(document)


def prediction_page(document: Record) -> Page:
    """One workload, or a grid, whose fields are lists."""
    if isinstance(document.record("workload").data.get("batch"), list):
        return _sweep([document])
    from magicplan.report.prediction import page

    return page(document)


def sweep_page(document: Record) -> Page:
    """Grids of predictions, one a GPU."""
    found = document.records("predictions")
    return _sweep(found or document.fail("predictions", "a list that is not empty"))


def _sweep(predictions: Sequence[Record]) -> Page:
    from magicplan.report.sweep import page

    return page(tuple(predictions))
