"""JSON documents as a report reads them: fields checked where they are used, errors with a path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from magicplan.errors import SpecError
from magicplan.report.document.charts import Numbers


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

    def positive(self, key: str) -> float:
        """A number above zero."""
        value = self.number(key)
        return value if value > 0 else self._fail(key, value, "a number above zero")

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
