"""JSON documents as a report reads them: fields checked where they are used, errors with a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn

from magicplan.fields import Span, Table, told
from magicplan.report.document.charts import Numbers

FINITE = Annotated[float, Span(-1e300, 1e300)]
ABOVE_ZERO = Annotated[float, Span(0, 1e300, above=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A JSON object and where it stands: "run.json" at "best.memory". Reads raise SpecError."""

    data: dict[str, Any]
    file: str
    path: str = ""

    def number(self, key: str) -> float:
        """A finite number that must be there."""
        return float(self._table.get(key, FINITE))

    def positive(self, key: str) -> float:
        """A number above zero that must be there."""
        return float(self._table.get(key, ABOVE_ZERO))

    def maybe(self, key: str) -> float | None:
        """A finite number, or None where it is null or absent."""
        return None if self.data.get(key) is None else self.number(key)

    def numbers(self, key: str) -> Numbers:
        """A list of numbers and nulls."""
        return self._each(key, self._list(key))

    def matrix(self, key: str) -> tuple[Numbers, ...]:
        """A list of equally long lists of numbers and nulls."""
        rows = []
        for i, row in enumerate(self._list(key)):
            if not isinstance(row, list):
                self._refuse(f"{key}[{i}]", row, "a list of numbers")
            rows.append(self._each(f"{key}[{i}]", row))
        if len({len(row) for row in rows}) > 1:
            self._refuse(key, self.data[key], "lists of one length")
        return tuple(rows)

    def text(self, key: str, default: str | None = None) -> str:
        """A text; the default where it is null or absent."""
        if self.data.get(key) is None and default is not None:
            return default
        return str(self._table.get(key, str))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where it is absent."""
        values = self.data.get(key) or []
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            self._refuse(key, values, "a list of texts")
        return tuple(values)

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self._table.get(key, bool))

    def record(self, key: str) -> Record:
        """An object that must be there."""
        found = self.maybe_record(key)
        return self._refuse(key, None, "an object") if found is None else found

    def maybe_record(self, key: str) -> Record | None:
        """An object, or None where it is null or absent."""
        value = self.data.get(key)
        return None if value is None else self._record(key, value)

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
        self._refuse(key, self.data.get(key), expected)

    @property
    def _table(self) -> Table:
        return Table(data=self.data, file=self.file, path=self.path)

    def _each(self, key: str, values: list[Any]) -> Numbers:
        """Numbers and nulls of a list that stands at `key`."""
        cells = replace(self, data={f"{key}[{i}]": value for i, value in enumerate(values)})
        return tuple(value for _, value in cells.items())

    def _record(self, key: str, value: Any) -> Record:
        if not isinstance(value, dict):
            self._refuse(key, value, "an object")
        return Record(data=value, file=self.file, path=self._table.label(key))

    def _list(self, key: str) -> list[Any]:
        value = self.data.get(key)
        return value if isinstance(value, list) else self._refuse(key, value, "a list")

    def _refuse(self, key: str, value: Any, expected: str) -> NoReturn:
        self._table.fail(key, f"{told(value)}: expected {expected}")
