"""The command line: the list of commands, and errors as one sentence with an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from magicplan import __version__
from magicplan.commands import benchmarks, facts, measurements, plans, validation, workloads
from magicplan.commands.options import say
from magicplan.errors import FieldError, MagicplanError, option

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Roofline planning for LLM decoding: what binds a step, and does speculation pay?",
)
COMMANDS = {
    "One workload or a grid": (
        workloads.predict, workloads.sweep, workloads.schedule, workloads.regimes,
        workloads.explain, workloads.drafts, workloads.tree,
    ),
    "Capacity and reports": (plans.plan, plans.fleet, benchmarks.bench, plans.report),
    "Against measurements": (
        validation.validate, measurements.calibrate, measurements.replay,
    ),
    "What is known": (facts.gpus, facts.models, facts.stacks),
}  # fmt: skip
"""Commands by their panel of help."""
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"magicplan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Roofline planning for LLM decoding: what binds a step, and does speculation pay?"""


def main() -> None:
    """Run the command line; every error of ours is one sentence on stderr."""
    try:
        # a command that answered returns nothing, one that raised Exit its status
        sys.exit(app(args=sys.argv[1:] or ["--help"], standalone_mode=False))
    except MagicplanError as problem:
        said = problem.spoken(option) if isinstance(problem, FieldError) else problem
        say(f"error: {said}")
        sys.exit(problem.exit_code)
    except typer.exceptions.TyperException as problem:
        say(f"error: {problem.format_message().rstrip('.')}")
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        say("stopped")
        sys.exit(130)
