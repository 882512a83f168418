"""What a notebook shows of a result: its page, escaped, by the Python face alone."""

from __future__ import annotations

import json

import pytest

import magicplan as mp
from magicplan.report.document.notebook import fragment
from magicplan.report.pages import page_of
from tests.report.capacity.a_plan import NASTY, a_plan
from tests.report.document.reader import Reader
from tests.report.documents import documents


@pytest.mark.parametrize("name", sorted(set(documents()) - {"run"}))
def test_every_answer_is_tables_and_text(name: str) -> None:
    page = page_of(json.loads(documents()[name]), name)
    read = Reader(fragment(page))
    assert page.verdict in read.words
    assert not read.all("script")
    assert len(read.all("details")) <= len(page.sections)


def test_names_from_files_are_text() -> None:
    found = a_plan(name=NASTY)
    read = Reader(fragment(page_of(json.loads(json.dumps(found.to_dict())), "plan")))
    assert any(NASTY in words for words in read.words)
    assert not read.all("script")


def test_results_of_the_python_face_show_themselves() -> None:
    found = mp.predict(gpu="h100", batch=8, ctx=8192)
    shown = found._repr_html_()  # type: ignore[attr-defined]
    assert found.verdict.text in Reader(shown).words
    grid = mp.predict(gpu="h100", batch=[1, 8], ctx=[4096])
    assert "<table>" in grid._repr_html_()  # type: ignore[attr-defined]
    drafts = mp.drafts(gpu="h100", batch=8, ctx=8192)
    assert "eagle3" in drafts._repr_html_()  # type: ignore[attr-defined]
