"""The command line: the list of commands, and errors as one sentence with an exit code."""

from __future__ import annotations

import sys

import typer

from magicplan.commands import facts, measurements, plans, validation, workloads
from magicplan.commands.options import say
from magicplan.errors import FieldError, MagicplanError, option

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Roofline planning for LLM decoding: what binds a step, and does speculation pay?",
)
for command in (
    workloads.predict,
    workloads.sweep,
    workloads.schedule,
    workloads.regimes,
    workloads.explain,
    workloads.drafts,
    workloads.tree,
    plans.plan,
    plans.fleet,
    plans.report,
    validation.validate,
    measurements.calibrate,
    measurements.replay,
    facts.gpus,
    facts.models,
):
    app.command()(command)


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
