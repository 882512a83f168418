"""Run files in, reports out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from magicplan.errors import SpecError, UsageError
from magicplan.fields import read_text
from magicplan.report.document.record import Record

MOST_BYTES = 256 * 2**20
"""A run file beyond this is a mistake: the largest real ones hold a few MB."""


def read(path: Path) -> list[Record]:
    """The documents of a file: one JSON document, or one a line. Raises SpecError."""
    text = read_text(path, MOST_BYTES)
    if not text.strip():
        raise SpecError(path, "is empty: expected a JSON document")
    try:
        values = [_parse(text)]
    except (ValueError, RecursionError) as problem:
        values = _lines(path, text, problem)
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise SpecError(path, f"document {number} is no JSON object")
    return [Record(data=value, file=str(path)) for value in values]


def _lines(path: Path, text: str, problem: Exception) -> list[Any]:
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for _, line in lines):
        raise SpecError(path, f"is not JSON ({problem})")
    values = []
    for number, line in lines:
        try:
            values.append(_parse(line))
        except (ValueError, RecursionError) as wrong:
            raise SpecError(path, f"line {number} is not JSON ({wrong})") from None
    return values


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def write(path: Path, text: str, *, option: str) -> None:
    """Raises UsageError where the file cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{option} {path}: cannot be written ({problem.strerror})") from None
