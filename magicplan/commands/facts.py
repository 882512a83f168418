"""Commands that show what is known."""

from __future__ import annotations

from typing import Annotated

import typer

from magicplan.commands.options import Json
from magicplan.commands.output import answer
from magicplan.errors import UsageError

Name = Annotated[str | None, typer.Argument(help="One of them, in full.")]


def gpus(name: Name = None, json: Json = False) -> None:
    """What is known of accelerators, with sources.

    Example: magicplan gpus h100
    """
    from magicplan.report import facts

    answer(facts.gpus_as_dict(name), json=json, page=lambda: facts.gpus_page(name))


def models(name: Name = None, json: Json = False) -> None:
    """What is known of models, with sources.

    Example: magicplan models llama-3.1-8b
    """
    from magicplan.report import facts

    answer(facts.models_as_dict(name), json=json, page=lambda: facts.models_page(name))


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
        answer(report.tasks_as_dict(), json=json, page=report.tasks_page)
    else:
        answer(report.stacks_as_dict(name), json=json, page=lambda: report.stacks_page(name))
