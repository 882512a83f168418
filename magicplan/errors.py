"""Every error a user can meet, as one tree.

MagicplanError                    one sentence on stderr, no traceback
├── UsageError           exit 2   the request is wrong
│   ├── UnknownName               with near matches
│   ├── BadQuantity               with the text that could not be read
│   ├── FieldError                a field of a question: said as a keyword or as an option
│   ├── SpecError                 a file: which line and field, what was expected
│   └── DoesNotFit                needed, available, what would fit
├── MissingExtra         exit 3   something optional is not installed
└── NoGpu                exit 3   a CUDA device was asked for and there is none
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable


class MagicplanError(Exception):
    """The root: everything raised on purpose. `exit_code` is the process's exit status."""

    exit_code = 2


class UsageError(MagicplanError):
    """What was asked for is wrong or impossible."""


class UnknownName(UsageError):
    """A name that is not known; the message offers near matches.

    `like` is what the known names are compared with, where that is not the whole name; `cutoff` is
    the least likeness offered, from 0 to 1.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], hint: str = "", *, like: str = "",
        cutoff: float = 0.5,
    ) -> None:  # fmt: skip
        near = difflib.get_close_matches(like or name.lower(), list(known), n=4, cutoff=cutoff)
        offer = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{offer}{'; ' + hint if hint else ''}")


class BadQuantity(UsageError):
    """A number with a unit that could not be read, or lies outside what makes sense."""


class FieldError(UsageError):
    """A field of a question is wrong.

    `field` is its Python name and begins the sentence, `problem` goes on, as in "-1: expected 1 or
    more". Other fields stand in it as `$name`. Python reads "batch -1: ...", and the command line
    renders the same error through `spoken` as "--batch -1: ...".
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(self.spoken(str))

    def spoken(self, name: Callable[[str], str]) -> str:
        """The sentence with every field called what `name` makes of it."""
        rest = re.sub(r"\$([a-z_]+)", lambda found: name(found[1]), self.problem)
        return f"{name(self.field)}{'' if rest.startswith(':') else ' '}{rest}"


def option(field: str) -> str:
    """A field as its option on the command line: `kv_dtype` is `--kv-dtype`."""
    return "--" + field.replace("_", "-")


class SpecError(UsageError):
    """A file's content is wrong: says which file, which field and what was expected."""

    def __init__(self, where: object, problem: str) -> None:
        super().__init__(f"{where}: {problem}")


class DoesNotFit(UsageError):
    """The workload does not fit in memory: says needed, available and what would fit."""


class MissingExtra(MagicplanError):
    """An optional part is not installed: says how to get it."""

    exit_code = 3

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: pip install 'magicplan[{extra}]'")


class NoGpu(MagicplanError):
    """A CUDA device was asked for and torch finds none."""

    exit_code = 3
