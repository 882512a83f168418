"""Commands that show what is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magicplan.commands.options import Json
from magicplan.errors import UsageError

if TYPE_CHECKING:
    from magicplan.report.document.page import Page

Name = Annotated[str | None, typer.Argument(help="One of them, in full.")]


def gpus(name: Name = None, json: Json = False) -> None:
    """What is known of accelerators, with sources.

    Example: magicplan gpus h100
    """
    from magicplan.report import facts

    _answer(json, lambda: facts.gpus_as_dict(name), lambda: facts.gpus_page(name))


def models(name: Name = None, json: Json = False) -> None:
    """What is known of models, with sources.

    Example: magicplan models llama-3.1-8b
    """
    from magicplan.report import facts

    _answer(json, lambda: facts.models_as_dict(name), lambda: facts.models_page(name))


def stacks(
    name: Annotated[
        str | None, typer.Argument(help="One of them, with a version as in vllm@0.19.0.")
    ] = None,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="List the tasks that acceptance was measured on.")
    ] = False,
    json: Json = False,
) -> None:
    """Serving engines: calibrations by GPU and version, and what each version can run.

    Example: magicplan stacks vllm@0.19.0
    """
    from magicplan.report import stacks as report

    if tasks and name:
        raise UsageError("--tasks lists the tasks of all stacks: leave the name out")
    if tasks:
        _answer(json, report.tasks_as_dict, report.tasks_page)
    else:
        _answer(json, lambda: report.stacks_as_dict(name), lambda: report.stacks_page(name))


def _answer(json: bool, document: Callable[[], dict[str, Any]], page: Callable[[], Page]) -> None:
    from magicplan.report.document import terminal

    if json:
        terminal.print_json(document())
    else:
        terminal.render(page(), terminal.stdout())
