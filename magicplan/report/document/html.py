"""A report as one HTML file that needs no network: texts escaped, figures drawn when it opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from magicplan.errors import MissingExtra
from magicplan.report.document.figure_tables import grid_of
from magicplan.report.document.page import Bullets, Code, Grid, Page, Plot
from magicplan.report.document.vega.drawing import draw

KINDS = {Grid: "grid", Plot: "plot", Code: "code", Bullets: "bullets", str: "text"}
UNIT = re.compile(r"(?<=\d) (?=(?:%|[mnu]?s|[GMT]B)(?:\W|$))")
"""The space between a number and its unit, at which no line may break."""
ASSETS = ("report.css", "report.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    """What the template needs of a figure besides its `Plot`."""

    drawing: dict[str, Any]
    grid: Grid


def render(pages: tuple[Page, ...], *, title: str = "") -> str:
    """The whole document. Raises MissingExtra without jinja2 or vl-convert.

    The same pages give the same text. The content policy in its head forbids every request.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from vl_convert import javascript_bundle
    except ImportError:
        raise MissingExtra("an HTML report", "report") from None
    environment = Environment(
        loader=PackageLoader("magicplan.report.document"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda block, name: KINDS[type(block)] == name
    environment.filters["figure"] = _figure
    environment.filters["glued"] = lambda text: UNIT.sub("\u00a0", text)
    sources = {name: environment.loader.get_source(environment, name)[0] for name in ASSETS}  # type: ignore[union-attr]
    # the stub of vl-convert knows no default for the snippet
    library = javascript_bundle() if any(map(_has_plots, pages)) else ""  # type: ignore[call-arg]
    return environment.get_template("report.html").render(
        pages=pages,
        title=title or pages[0].title,
        style=Markup(sources["report.css"]),
        script=Markup(sources["report.js"]),
        library=_script(library),
    )


def _script(text: str) -> Any:
    """A library as the content of a script element, which no string in it may close."""
    from markupsafe import Markup

    return Markup(text.replace("</script", r"<\/script").replace("<!--", r"<\!--"))


def _has_plots(page: Page) -> bool:
    return any(isinstance(block, Plot) for section in page.sections for block in section.blocks)


def _figure(plot: Plot) -> _Figure:
    return _Figure(drawing=draw(plot.figure), grid=grid_of(plot))
