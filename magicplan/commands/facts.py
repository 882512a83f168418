"""Commands that show what is known."""

from __future__ import annotations

from typing import Annotated

import typer

from magicplan.commands.options import Json

Name = Annotated[str | None, typer.Argument(help="One of them, in full.")]


def gpus(name: Name = None, json: Json = False) -> None:
    """What is known of accelerators, with sources.

    Example: magicplan gpus h100
    """
    from magicplan.report import facts
    from magicplan.report.document.terminal import print_json, stdout

    if json:
        print_json(facts.gpus_as_dict(name))
    else:
        facts.render_gpus(name, stdout())


def models(name: Name = None, json: Json = False) -> None:
    """What is known of models, with sources.

    Example: magicplan models llama-3.1-8b
    """
    from magicplan.report import facts
    from magicplan.report.document.terminal import print_json, stdout

    if json:
        print_json(facts.models_as_dict(name))
    else:
        facts.render_models(name, stdout())
