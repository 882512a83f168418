"""What a terminal and Markdown show of the plans of `a_plan`, kept as files beside this one.

`python -m tests.report.capacity.golden_texts` writes them anew; look at the difference first.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from magicplan.planning.result import Plan
from magicplan.report.capacity import plan
from magicplan.report.document import markdown, terminal
from magicplan.report.document.page import Page
from magicplan.report.document.record import Record
from tests.report.capacity.a_plan import a_plan, hopeless

FOLDER = Path(__file__).parent / "golden"
PLANS = {"plan": a_plan, "hopeless": hopeless}


def page_of(answer: Plan) -> Page:
    """The page, through the text of its JSON."""
    document = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    return plan.page(Record(data=document, file="plan.json"))


def on_a_terminal(page: Page, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, emoji=False, markup=False)
    terminal.render(page, console)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def texts() -> dict[str, str]:
    """File name -> content."""
    found = {}
    for name, make in PLANS.items():
        page = page_of(make())
        found[f"{name}.txt"] = on_a_terminal(page)
        found[f"{name}.md"] = markdown.render((page,))
    return found


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
