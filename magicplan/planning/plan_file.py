"""Plan files: a TOML becomes a resolved question; what is wrong is named by line and field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicplan.errors import FieldError
from magicplan.fields import Table, read_toml
from magicplan.planning.question import CapacityQuestion, question_of
from magicplan.planning.request import SECTIONS, request_from

TEMPLATE = Path(__file__).parent / "plan_template.toml"
PATHS = ("trace", "prices")
"""Fields that may hold a path, which is relative to the plan file."""


def template() -> str:
    """The commented file that `magicplan plan --init` writes."""
    return TEMPLATE.read_text(encoding="utf-8")


def read_plan(path: Path | str, over: Mapping[str, Any] | None = None) -> CapacityQuestion:
    """The question of a TOML file, resolved: `plan` answers it without reading anything again.

    Paths in the file are relative to it. `over` replaces fields of the file, limits of `slo` one by
    one. Raises SpecError naming the file, the line and the field, or another file that it leads to;
    FieldError for what `over` brought.
    """
    path, given = Path(path), dict(over or {})
    document = read_toml(path)
    options = _options(document)
    for name in PATHS:
        if isinstance(options.get(name), str):
            options[name] = str(path.parent / options[name])
    limits, slo = given.pop("slo", {}), options.get("slo", {})
    try:
        return question_of(request_from(options | {"slo": slo | limits} | given))
    except FieldError as problem:
        if problem.field.removeprefix("slo.") in limits or _top(problem.field) in given:
            raise
        raise _in_file(document, problem) from None


def _top(field: str) -> str:
    return field.partition(".")[0]


def _in_file(document: Table, problem: FieldError) -> Exception:
    """An error of a field with the line where the file has it."""
    top = _top(problem.field)
    section = next((s for s, names in SECTIONS.items() if s and top in names), "")
    return document.placed(problem, f"{section}.{problem.field}" if section else problem.field)


def _options(document: Table) -> dict[str, Any]:
    """Keywords of a request from the sections of a file. Raises SpecError for unknown fields."""
    found: dict[str, Any] = {}
    for key, value in document.data.items():
        section = key if isinstance(value, Mapping) and key in SECTIONS else ""
        entries = value if section else {key: value}
        for name in entries:
            if name not in SECTIONS[section]:
                label = f"{section}.{name}" if section else name
                document.fail(label, f"is unknown; {_home(section, name)}")
        if section == "slo":
            found["slo"] = dict(value)
        else:
            found |= entries
    return found


def _home(section: str, name: str) -> str:
    """Where a field belongs, or what is known where it stands."""
    if name and name in SECTIONS:
        return f"expected a section [{name}] of its own"
    home = next((s for s, names in SECTIONS.items() if name in names), None)
    return f"it belongs into [{home}]" if home else _known(section, name)


def _known(section: str, name: str) -> str:
    known = SECTIONS[section]
    titles = () if section else tuple(SECTIONS)
    near = difflib.get_close_matches(name, (*known, *titles), n=3)
    offer = f"did you mean {', '.join(near)}? " if near else ""
    if not section:
        sections = ", ".join(f"[{title}]" for title in SECTIONS if title)
        return f"{offer}expected {', '.join(known)}, or sections {sections}"
    return f"{offer}known there: {', '.join(known)}"
