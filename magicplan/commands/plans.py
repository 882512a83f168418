"""Commands about capacity: a plan, and reports of any run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magicplan.commands.options import say

if TYPE_CHECKING:
    from magicplan.report.page import Page

Html = Annotated[
    Path | None, typer.Option("--html", help="Write one HTML file that needs no network.")
]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown file.")]


def report(
    runs: Annotated[list[Path], typer.Argument(help="JSON files that magicplan wrote.")],
    html: Html = None,
    markdown: Markdown = None,
) -> None:
    """Results of plan, predict, sweep, drafts, tree, replay and validate as one report.

    Example: magicplan report run.json sweep.json --html report.html
    """
    from magicplan.report.pages import pages_of

    _hand_out(tuple(page for path in runs for page in pages_of(path)), html, markdown)


def _hand_out(pages: tuple[Page, ...], html: Path | None, markdown: Path | None) -> None:
    """Into the files asked for; on the terminal where none was."""
    from magicplan.report import page_terminal
    from magicplan.report.files import write
    from magicplan.report.terminal import stdout

    if html:
        from magicplan.report.html import render

        write(html, render(pages), option="--html")
        say(f"report written to {html}")
    if markdown:
        from magicplan.report.markdown import render as as_markdown

        write(markdown, as_markdown(pages), option="--markdown")
        say(f"report written to {markdown}")
    if not html and not markdown:
        for page in pages:
            page_terminal.render(page, stdout())
