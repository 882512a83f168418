"""Outside data becomes checked values: numbers, names, lists, tables, refused in one sentence.

A value of a question (a keyword, an option) is refused with a `FieldError` that carries its field;
a value of a file with a `SpecError` that carries file, line and dotted field. Files are read up to
a size, so that none fills the memory.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, NoReturn

from magicplan.errors import FieldError

MOST_BYTES = 64 * 2**20
"""Largest file of settings or of results that is read: 64 MiB, some hundred times what is usual."""
LONGEST_SHOWN = 60
KEY = r"[\w.\-]+|\"[^\"]*\"|'[^']*'"


def is_number(value: object) -> bool:
    """Whether a value is a real number; true and false are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value as an error repeats it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise the FieldError of a value that is not what was expected."""
    raise FieldError(name, f"{shown(value)}: expected {expected}")


def number(name: str, value: Any, *, low: float, high: float, above: bool = False) -> float:
    """A number from `low` (or above it) to `high`. Raises FieldError."""
    if not is_number(value) or not low <= value <= high or (above and value == low):
        if high == math.inf:
            span = f"above {low:g}" if above else f"of {low:g} or more"
        else:
            span = f"above {low:g}, up to {high:g}" if above else f"from {low:g} to {high:g}"
        refuse(name, value, f"a number {span}")
    return float(value)


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
