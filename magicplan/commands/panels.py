"""Panels of help for commands with many options of their own, and defaults that stand elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from typer.models import ParameterInfo

Command = Callable[..., None]


def in_panels(
    panels: Mapping[str, Sequence[str]], defaults: Mapping[str, str]
) -> Callable[[Command], Command]:
    """Put a command's options, by their parameters' names, into panels of its help.

    `defaults` are those that a question has where an option is left out, as help shows them.
    Raises KeyError at import for a name that is no parameter.
    """

    def arrange(command: Command) -> Command:
        parameters = inspect.signature(command, eval_str=True).parameters
        known = {name: _info(p.annotation) for name, p in parameters.items()}
        for panel, names in panels.items():
            for name in names:
                known[name].rich_help_panel = panel
        for name, default in defaults.items():
            known[name].show_default = default
        command.__annotations__ = {name: p.annotation for name, p in parameters.items()}
        return command

    return arrange


def _info(annotation: object) -> ParameterInfo:
    """The option behind an annotation."""
    found = next(m for m in annotation.__metadata__ if isinstance(m, ParameterInfo))  # type: ignore[attr-defined]
    assert isinstance(found, ParameterInfo)
    return found
