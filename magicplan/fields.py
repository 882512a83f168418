"""Outside data becomes checked values: numbers, names, lists, tables, refused in one sentence.

A value of a question (a keyword, an option) is refused with a `FieldError` that carries its field;
a value of a file with a `SpecError` that carries file, line and dotted field. Files are read up to
a size, so that none fills the memory. Annotations of frozen records are the schema, as in msgspec,
whose errors leave out the wrong value and the keys of tables.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from magicplan.errors import FieldError, SpecError

MOST_BYTES = 64 * 2**20
"""Size of the largest file of settings or of results that is read, some hundred times the usual."""
UNBOUNDED = 1e15
"""Upper end of a span from which an error leaves it out."""
LONGEST_SHOWN = 60
KEY = r"[\w.\-]+|\"[^\"]*\"|'[^']*'"


def is_number(value: object) -> bool:
    """Whether a value is a real number; true and false are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as an error repeats it, cut where it is long."""
    text = f"{value:.10g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise the FieldError of a value that is not what was expected; None is a missing one."""
    raise FieldError(
        name, f"{'is missing' if value is None else shown(value)}: expected {expected}"
    )


def number(name: str, value: Any, *, low: float, high: float, above: bool = False) -> float:
    """A number from `low` (or above it) to `high`. Raises FieldError."""
    if not is_number(value) or not low <= value <= high or (above and value == low):
        refuse(name, value, f"a number{_span(low, high, above=above)}")
    return float(value)


def _span(low: float, high: float, *, above: bool) -> str:
    """A span in words, after "a number"."""
    if high >= UNBOUNDED:
        if low <= -UNBOUNDED:
            return ""
        return f" above {low:g}" if above else f" of {low:g} or more"
    return f" above {low:g}, up to {high:g}" if above else f" from {low:g} to {high:g}"


def whole(name: str, value: Any, *, low: int, high: int) -> int:
    """A whole number from `low` to `high`. Raises FieldError."""
    if not is_number(value) or not low <= value <= high or value != int(value):
        refuse(name, value, f"a whole number from {low} to {high}")
    return int(value)


def text(name: str, value: Any) -> str:
    """A text. Raises FieldError."""
    return value if isinstance(value, str) else refuse(name, value, "text")


def one_of(name: str, value: Any, known: Iterable[str]) -> str:
    """A text of those known. Raises FieldError, with near matches."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        near = difflib.get_close_matches(str(value).lower(), known, n=3, cutoff=0.5)
        offer = f"did you mean {', '.join(near)}? " if near else ""
        raise FieldError(name, f"{shown(value)}: {offer}expected one of {', '.join(known)}")
    return value


def table(name: str, value: Any, what: str) -> Mapping[str, Any]:
    """A table by names; `what` says of what. Raises FieldError."""
    return value if isinstance(value, Mapping) else refuse(name, value, f"a table of {what}")


def listed(name: str, value: Any, each: Callable[[str, Any], Any], what: str) -> tuple[Any, ...]:
    """One value or several as a tuple without repetitions, each as `each` checks it under the
    same name. Raises FieldError."""
    if isinstance(value, str) or is_number(value):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        refuse(name, value, f"a list of {what}")
    found = tuple(each(name, entry) for entry in value)
    if not found:
        raise FieldError(name, f"is empty: expected at least one of its {what}")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers that a field may hold, as in `Annotated[float, Span(0, 1)]`."""

    low: float
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is left out."""


Kind = TypeVar("Kind")


def made(kind: type[Kind], values: Mapping[str, Any], prefix: str = "") -> Kind:
    """A frozen record from values by its fields' names, each checked against its annotation.

    Annotations are types, and `Annotated` ones with a `Span` of numbers, a tuple of the texts that
    are known, or a function from a field's name and value to what the record holds. `prefix` stands
    before the names in errors. Raises FieldError.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    return kind(
        **{key: as_hinted(prefix + key, value, hints[key]) for key, value in values.items()}
    )


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def as_hinted(name: str, value: Any, hint: Any) -> Any:
    """A value as an annotation of `made` says. Raises FieldError."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        return as_hinted(name, value, next(part for part in parts if part is not NoneType))
    if origin is Annotated:
        return _annotated(name, value, *parts)
    if origin is tuple:
        what = "names" if parts[0] is str else "numbers"
        return listed(name, value, lambda each, entry: as_hinted(each, entry, parts[0]), what)
    if origin is Mapping:
        return dict(table(name, value, "numbers" if parts[1] is float else "names"))
    if hint is bool:
        return value if isinstance(value, bool) else refuse(name, value, "true or false")
    if hint is float:
        return number(name, value, low=-math.inf, high=math.inf)
    return text(name, value) if hint is str else value


def _annotated(name: str, value: Any, kind: Any, said: Any) -> Any:
    if isinstance(said, tuple):
        return one_of(name, value, said)
    if not isinstance(said, Span):
        return said(name, value)
    if kind is int:
        return whole(name, value, low=int(said.low), high=int(said.high))
    return number(name, value, low=said.low, high=said.high, above=said.above)


REQUIRED: Any = object()
"""The default of a field that must be there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A table of a file, and where it stands: `file` at the dotted `path`.

    Every read is checked as `made` checks, and raises SpecError with file, line and dotted field. A
    table without a file is a keyword's, and raises FieldError.
    """

    data: Mapping[str, Any]
    file: str = ""
    path: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Line of every dotted name, of files that have lines."""

    def get(self, key: str, hint: Any, default: Any = REQUIRED) -> Any:
        """A field checked against an annotation; the default where it is null or absent."""
        value = self.data.get(key)
        if value is None and default is not REQUIRED:
            return default
        try:
            return as_hinted(self.label(key), value, hint)
        except FieldError as problem:
            raise self.placed(problem) from None

    def table(self, key: str, default: Mapping[str, Any] | None = None) -> Table:
        """A table in this one; the default where it is null or absent."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, Mapping):
            self.fail(key, f"{told(value)}: expected a table")
        return Table(data=value, file=self.file, path=self.label(key), lines=self.lines)

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of tables; empty where it is null or absent."""
        values = self.data.get(key)
        values = [] if values is None else values
        if not isinstance(values, list) or not all(isinstance(v, Mapping) for v in values):
            self.fail(key, f"{told(values)}: expected a list of tables")
        return tuple(
            Table(data=value, file=self.file, path=f"{self.label(key)}[{i}]", lines=self.lines)
            for i, value in enumerate(values)
        )

    def record(self, kind: type[Kind]) -> Kind:
        """The table as a frozen record, nothing unknown in it, nothing missing."""
        own = fields(kind)  # type: ignore[arg-type]
        self.only([entry.name for entry in own])
        for entry in own:
            needed = entry.default is MISSING and entry.default_factory is MISSING
            if needed and entry.name not in self.data:
                self.fail(entry.name, "is missing")
        try:
            return made(kind, self.data, f"{self.path}." if self.path else "")
        except FieldError as problem:
            raise self.placed(problem) from None

    def only(self, known: Iterable[str]) -> None:
        """Refuse fields that are not known, with near matches."""
        known = tuple(known)
        for key in self.data:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=3)
                offer = f"did you mean {', '.join(near)}? " if near else ""
                self.fail(key, f"is unknown; {offer}known: {', '.join(sorted(known))}")

    def label(self, key: str) -> str:
        """The dotted name of a field."""
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, problem: str) -> NoReturn:
        """Refuse a field; `problem` goes on after its name."""
        raise self.placed(FieldError(self.label(key), problem))

    def placed(self, problem: FieldError, label: str = "") -> FieldError | SpecError:
        """An error of a field with the file and the line of the field or of the table around it;
        `label` is its dotted name in the file, where that is another."""
        if not self.file:
            return problem
        label = label or problem.field
        while label and label not in self.lines:
            label = label.rpartition(".")[0]
        where = f"{self.file}, line {self.lines[label]}" if label else self.file
        return SpecError(where, str(problem))


def told(value: object) -> str:
    """A wrong value as an error repeats it; None is a missing one."""
    return "is missing" if value is None else shown(value)


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a file. Raises SpecError for one that is missing or too large."""
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise SpecError(path, f"holds {size} bytes, expected at most {most_bytes}")
        return path.read_bytes()
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A file as UTF-8 text. Raises SpecError for one that is missing, too large or no text."""
    try:
        return read_bytes(path, most_bytes).decode()
    except UnicodeDecodeError as problem:
        raise SpecError(path, f"is no text ({problem})") from None


def read_toml(path: Path) -> Table:
    """A TOML file as a table that knows its lines. Raises SpecError."""
    content = read_text(path)
    try:
        data = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None
    return Table(data=data, file=str(path), lines=toml_lines(content))


def parse_json(content: str | bytes, where: object) -> Any:
    """The value of a JSON text. Raises SpecError."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise SpecError(where, f"is not JSON ({problem})") from None


KEY = r"[\w.\-]+|\"[^\"]*\"|'[^']*'"


def toml_lines(content: str) -> dict[str, int]:
    """The line of every table and key of a TOML that begins one, by dotted names; its parser keeps
    no lines."""
    found: dict[str, int] = {}
    section = ""
    for line, words in enumerate(content.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-]+)\s*\]", words):
            section = header[1]
            found.setdefault(section, line)
        elif key := re.match(rf"\s*({KEY})\s*=", words):
            name = key[1].strip("\"'")
            found.setdefault(f"{section}.{name}" if section else name, line)
    return found
