"""An answer handed out: one JSON document, or its page on the terminal and in files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicplan.commands.options import say

if TYPE_CHECKING:
    from magicplan.report.document.page import Page


def answer(
    document: dict[str, Any],
    *,
    json: bool,
    figure: Path | None = None,
    page: Callable[[], Page] | None = None,
    name: str = "answer",
    full: bool = True,
) -> None:
    """Print a document as JSON, or as its page; `figure` takes the page's figures as PNG or SVG.
    The page is that of the document's schema unless another is given."""
    from magicplan.report.document.terminal import print_json
    from magicplan.report.pages import page_of

    if figure:
        put_figure(document, figure, name=name)
    if json:
        print_json(document)
    else:
        hand_out((page() if page else page_of(document, name),), None, None, full=full)


def put_figure(document: dict[str, Any], figure: Path, *, name: str = "answer") -> None:
    """Draw the figures of a document's page into a PNG or SVG."""
    from magicplan.report.document import pictures
    from magicplan.report.pages import page_of

    pictures.check(figure)
    pictures.write(page_of(document, name), figure)
    say(f"figures drawn into {figure}")


def _signed(page: Page) -> Page:
    """A page of a file with the question that it answers, to copy, and when and by what."""
    from datetime import UTC, datetime

    from magicplan import __version__
    from magicplan.report.document.page import Bullets, Code, Section

    asked = Code(title="Asked", text=shlex.join(["magicplan", *sys.argv[1:]]))
    day = datetime.now(UTC).date().isoformat()
    lines = Bullets(lines=(f"magicplan {__version__}, {day}",))
    return replace(
        page, sections=(*page.sections, Section(title="This report", blocks=(asked, lines)))
    )


def hand_out(
    pages: tuple[Page, ...],
    html: Path | None,
    markdown: Path | None,
    *,
    full: bool = True,
    json: bool = False,
) -> None:
    """Write pages into the files asked for, and print their verdicts (not beside `json`, which has
    stdout alone); print them on the terminal where none was, not `full` only what fits a screen."""
    from magicplan.report.document import terminal
    from magicplan.report.document.files import write
    from magicplan.report.document.first_screen import plain

    if html or markdown:
        pages = (*pages[:-1], _signed(pages[-1]))
    if html:
        from magicplan.report.document.html import render

        write(html, render(pages), option="--html")
        say(f"report written to {html}")
    if markdown:
        from magicplan.report.document.markdown import render as as_markdown

        write(markdown, as_markdown(pages), option="--markdown")
        say(f"report written to {markdown}")
    for page in pages if not json else ():
        if html or markdown:
            terminal.stdout().print(plain(page.verdict))
        else:
            terminal.render(page, terminal.stdout(), full=full)
