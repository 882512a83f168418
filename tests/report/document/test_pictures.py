"""Pictures of a page: PNG and SVG by vl-convert, each figure with its own marks and colours."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from magicplan.errors import MissingExtra, UsageError
from magicplan.report.document import pictures
from magicplan.report.document.page import Page
from tests.report.capacity.a_plan import NASTY, a_plan
from tests.report.capacity.golden_texts import page_of

pytest.importorskip("vl_convert", reason="needs the report extra")


@pytest.fixture(scope="module")
def svg(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "plan.svg"
    pictures.write(page_of(a_plan(name=NASTY)), path)
    return path.read_text(encoding="utf-8")


def test_all_figures_of_a_page_are_drawn_one_below_the_other(svg: str) -> None:
    plots = pictures.plots_of(page_of(a_plan()))
    tops = [float(y) for y in re.findall(r'<svg x="24" y="([\d.]+)"', svg)]
    assert len(tops) == len(plots)
    assert tops == sorted(tops)
    assert all(plot.title in svg for plot in plots)


def test_colours_are_real_and_marks_of_one_figure_are_not_taken_for_anothers(svg: str) -> None:
    assert "var(" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    for used in re.findall(r"url\(#([^)]+)\)", svg):
        assert used in ids


def test_names_are_text_in_a_picture(svg: str) -> None:
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_a_png_is_as_wide_as_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    pictures.write(page_of(a_plan()), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") >= pictures.SHARP * 760


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(a_plan())
    with pytest.raises(UsageError, match=r"ending in \.png or \.svg"):
        pictures.write(page, tmp_path / "x.pdf")
    with pytest.raises(UsageError, match="has no figure"):
        pictures.write(Page(title="t", verdict="v"), tmp_path / "x.png")
    with pytest.raises(UsageError, match="cannot be written"):
        pictures.write(page, tmp_path / "no" / "x.svg")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"magicplan\[report\]"):
        pictures.write(page, tmp_path / "x.png")
