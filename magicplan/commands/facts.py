"""Commands that show what is known."""

from __future__ import annotations

from typing import Annotated

import typer

from magicplan.commands.options import Json
from magicplan.commands.output import answer

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
