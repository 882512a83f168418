"""Files with any field spoiled: a page, or one sentence that names the file; never a traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from magicplan.errors import SpecError
from magicplan.report.document import markdown
from magicplan.report.document.page import Plot
from magicplan.report.document.vega.drawing import draw
from magicplan.report.pages import page_of
from tests.report.capacity.golden_texts import on_a_terminal
from tests.report.documents import documents

JUNK: tuple[Any, ...] = (
    None,
    "x",
    "",
    "<b>",
    -1,
    0,
    2.5,
    1e299,
    -1e-300,
    10**9,
    True,
    [],
    {},
    [None],
    ["a"],
    [[1]],
)
FIELDS = 40


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document; of a list, the first few entries."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 4)):
            yield from places(value[index], (*path, index))


def spoiled(document: Any, path: tuple[Any, ...], junk: Any) -> Any:
    found = copy.deepcopy(document)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = junk
    return found


@pytest.mark.parametrize("name", sorted(set(documents()) - {"run"}))
def test_a_spoiled_field_is_shown_or_refused(name: str) -> None:
    document = json.loads(documents()[name])
    fields = [path for path in places(document) if path]
    chosen = random.Random(name)
    for path in chosen.sample(fields, min(FIELDS, len(fields))):
        junk = chosen.choice(JUNK)
        try:
            page = page_of(spoiled(document, path, junk), "run.json")
        except SpecError:
            continue
        on_a_terminal(page)
        markdown.render((page,))
        for section in page.sections:
            for block in section.blocks:
                if isinstance(block, Plot):
                    json.dumps(draw(block.figure), allow_nan=False)
