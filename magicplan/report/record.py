"""JSON documents as a report reads them: every field checked where it is used, errors with a path."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from magicplan.errors import SpecError
from magicplan.report.charts import Numbers

MOST_BYTES = 256 * 2**20
"""A run file beyond this is a mistake: the largest real ones hold a few MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A JSON object and where it stands: "run.json" at "best.memory". Reads raise SpecError."""

    data: dict[str, Any]
    file: str
    path: str = ""

    def number(self, key: str) -> float:
        """A finite number that must be there."""
        value = self.maybe(key)
        return self._fail(key, None, "a number") if value is None else value

    def maybe(self, key: str) -> float | None:
        """A finite number, or None where it is null or absent."""
        return self._number(key, self.data.get(key))

    def numbers(self, key: str) -> Numbers:
        """A list of numbers and nulls."""
        return tuple(self._number(f"{key}[{i}]", v) for i, v in enumerate(self._list(key)))

    def matrix(self, key: str) -> tuple[Numbers, ...]:
        """A list of equally long lists of numbers and nulls."""
        rows = []
        for i, row in enumerate(self._list(key)):
            if not isinstance(row, list):
                self._fail(f"{key}[{i}]", row, "a list of numbers")
            rows.append(tuple(self._number(f"{key}[{i}][{j}]", v) for j, v in enumerate(row)))
        if len({len(row) for row in rows}) > 1:
            self._fail(key, None, "lists of one length")
        return tuple(rows)

    def text(self, key: str, default: str | None = None) -> str:
        """A text; the default where it is null or absent."""
        value = self.data.get(key)
        value = default if value is None else value
        return value if isinstance(value, str) else self._fail(key, value, "a text")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where it is absent."""
        values = self.data.get(key) or []
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            self._fail(key, values, "a list of texts")
        return tuple(values)

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self.data.get(key)
        return value if isinstance(value, bool) else self._fail(key, value, "true or false")

    def record(self, key: str) -> Record:
        """An object that must be there."""
        found = self.maybe_record(key)
        return self._fail(key, self.data.get(key), "an object") if found is None else found

    def maybe_record(self, key: str) -> Record | None:
        """An object, or None where it is null or absent."""
        value = self.data.get(key)
        if value is None:
            return None
        return self._record(key, value)

    def records(self, key: str) -> tuple[Record, ...]:
        """A list of objects; empty where it is null or absent."""
        if self.data.get(key) is None:
            return ()
        return tuple(self._record(f"{key}[{i}]", v) for i, v in enumerate(self._list(key)))

    def items(self) -> Iterator[tuple[str, float | None]]:
        """Names and numbers of an object that holds nothing else."""
        return ((key, self.maybe(key)) for key in self.data)

    def fail(self, key: str, expected: str) -> NoReturn:
        """Refuse a field. Raises SpecError."""
        self._fail(key, self.data.get(key), expected)

    def _record(self, key: str, value: Any) -> Record:
        if not isinstance(value, dict):
            self._fail(key, value, "an object")
        return Record(data=value, file=self.file, path=f"{self._where(key)}")

    def _list(self, key: str) -> list[Any]:
        value = self.data.get(key)
        return value if isinstance(value, list) else self._fail(key, value, "a list")

    def _number(self, key: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(key, value, "a number")
        if abs(value) > 1e300 or not math.isfinite(value):
            self._fail(key, value, "a finite number")
        return float(value)

    def _where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _fail(self, key: str, value: Any, expected: str) -> NoReturn:
        shown = "missing" if value is None else repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise SpecError(self.file, f"{self._where(key)} is {shown}, expected {expected}")


def read(path: Path) -> list[Record]:
    """The documents of a file: one JSON document, or one a line. Raises SpecError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(path, f"is larger than {MOST_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(path, "is not UTF-8 text") from None
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
