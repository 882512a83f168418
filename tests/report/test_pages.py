"""What reports say: golden texts of a plan, a page of every schema, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from magicplan.errors import SpecError, UsageError
from magicplan.report.document import markdown
from magicplan.report.document.markdown import escape
from magicplan.report.document.page import Code, Grid, Page, Plot, Section
from magicplan.report.pages import HOMES, pages_of
from magicplan.report.pages import page_of as page_of_document
from magicplan.validate import run_file
from magicplan.validate.account import as_dict
from magicplan.validate.account import verdict as as_words
from magicplan.validate.compare import compare
from tests.report.capacity.a_plan import NASTY, a_plan
from tests.report.capacity.golden_texts import FOLDER, on_a_terminal, page_of, texts
from tests.report.document.reader import Reader
from tests.report.documents import documents, validation

TABLES = ("fleet", "settings", "tree_worth", "explain", "calibration", "device")
"""Answers that need no figure."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def page(path: Path, text: str) -> Page:
    path.write_text(text, encoding="utf-8")
    (found,) = pages_of(path)
    return found


@pytest.mark.parametrize("name", sorted(texts()))
def test_golden_texts_of_a_plan(name: str) -> None:
    assert texts()[name] == (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_fits_the_terminal(width: int) -> None:
    lines = on_a_terminal(page_of(a_plan()), width).splitlines()
    too_long = [line for line in lines if len(line) > width]
    assert all(line.startswith("vllm serve") for line in too_long)  # a command stays in one piece
    assert len(set(too_long)) == 1  # the command, once more on the first screen at the end


def test_a_plan_answers_in_the_order_of_a_decision() -> None:
    found = page_of(a_plan())
    titles = [section.title for section in found.sections]
    wanted = ["Buy and launch", "Candidates", "Pareto", "Memory", "Sensitivity", "Schedule",
              "Rests on"]  # fmt: skip
    assert [title for title in titles if title in wanted] == wanted


def test_where_nothing_meets_the_limits_the_nearest_plan_says_by_how_much() -> None:
    text = (FOLDER / "hopeless.txt").read_text(encoding="utf-8")
    assert text.startswith("Nothing meets the limits: the nearest, 4 x a100-sxm-80gb")
    assert "1.5 times the limit" in text
    assert "What binds: TPOT p95." in text


@pytest.mark.parametrize("name", sorted(documents()))
def test_every_schema_has_a_page(name: str, path: Path) -> None:
    found = page(path, documents()[name])
    assert found.verdict
    assert found.verdict in on_a_terminal(found).replace("\n", " ")
    assert escape(found.verdict) in markdown.render((found,))
    figures = [b for s in found.sections for b in s.blocks if isinstance(b, Plot)]
    assert bool(figures) != (name in TABLES)
    assert all("80 %" in f.reading or "interval" in f.reading or "margin" in f.reading
               or "From shapes" in f.reading for f in figures)  # fmt: skip


def test_all_schemas_are_covered() -> None:
    schemas = {json.loads(text)["schema"] for name, text in documents().items() if name != "run"}
    assert schemas == set(HOMES)


@pytest.mark.parametrize("tolerance", [0.15, 0.0001, 100.0])
def test_a_run_file_is_judged_as_validate_judges_it(tolerance: float, tmp_path: Path) -> None:
    """The verdict, the table and the page, within the tolerance that the run was begun with."""
    header, *lines = documents()["run"].splitlines()
    kept = json.dumps(json.loads(header) | {"tolerance": tolerance})
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([kept, *lines]) + "\n", encoding="utf-8")
    judged = compare(run_file.read(path), tolerance)
    (found,) = pages_of(path)
    assert found.verdict == as_words(judged)
    assert found.verdict.startswith(f"Verdict: {'pass' if judged.passed else 'fail'}.")
    grid = next(s for s in found.sections if s.title == "Points").blocks[0]
    assert isinstance(grid, Grid)
    assert [row[0] for row in grid.rows[2::3]] == [p.verdict for p in judged.points]
    assert found == page_of_document(as_dict(judged), str(path))


def test_a_run_that_was_cut_or_changed(tmp_path: Path) -> None:
    """What is whole of a cut one is judged; no prediction and a changed field are one sentence."""
    text = documents()["run"]
    path = tmp_path / "run.jsonl"
    path.write_text(text[:-40], encoding="utf-8")
    assert "skipped" in pages_of(path)[0].verdict
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:3]), encoding="utf-8")
    with pytest.raises(UsageError, match="stopped before its prediction"):
        pages_of(path)
    path.write_text(text.replace('"wall"', '"wool"'), encoding="utf-8")
    with pytest.raises(SpecError, match=r"run\.jsonl: a field is missing"):
        pages_of(path)


def test_verdicts_of_a_validation_are_counted(path: Path) -> None:
    found = page(path, json.dumps(validation()))
    assert found.verdict == "Verdict: fail. 2 points: 1 pass, 1 fail."
    assert found.tone == "bad"


def test_several_documents_a_line_are_several_pages(path: Path) -> None:
    path.write_text(documents()["plan"] + "\n" + documents()["hopeless"] + "\n", encoding="utf-8")
    assert [p.tone for p in pages_of(path)] == ["unsure", "bad"]


def changed(**best: Any) -> str:
    document = json.loads(documents()["plan"])
    document["best"] |= best
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[1]", "document 1 is no JSON object"),
        (
            '{"schema": "other/1"}',
            r"schema is 'other/1', expected one of magicplan.bench/1, ",
        ),
        ("{}", "schema is ''"),
        ('{"a": 1}\n{"a": 2\n', "line 2 is not JSON"),
        ('{"schema": "magicplan.plan/1"}', "feasible is missing: expected true or false"),
        ('{"schema": "magicplan.sweep/1", "predictions": []}', r"predictions \[\]: expected"),
        ('{"schema": "magicplan.tree/1", "points": [{"batch": NaN}]}', "NaN is no JSON number"),
        (changed(gpus="4"), "best.gpus '4': expected a number"),
        (changed(gpus=True), "best.gpus True: expected a number"),
        (changed(memory=None), "best.memory is missing: expected an object"),
        (changed(step=[]), r"best.step \[\]: expected an object"),
        (changed(gpus=10**400), "best.gpus 1000.*: expected a number"),
        (
            json.dumps({"schema": "magicplan.validation/1", "points": [3]}),
            r"points\[0\] 3: expected",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_field(text: str, says: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=says) as problem:
        pages_of(path)
    assert str(path) in str(problem.value)


def test_a_missing_file_and_binary_are_refused(path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        pages_of(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is no text"):
        pages_of(path)


def test_pareto_indices_outside_the_candidates_are_refused(path: Path) -> None:
    document = json.loads(documents()["plan"])
    document["pareto_cost_latency"] = [99]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(SpecError, match="pareto_cost_latency"):
        pages_of(path)


def as_html(text: str) -> str:
    """What a Markdown renderer makes of it."""
    return str(MarkdownIt("commonmark").enable("table").render(text))


def test_markdown_takes_no_markup_from_names() -> None:
    reader = Reader(as_html(markdown.render((page_of(a_plan(name=NASTY)),))))
    assert not reader.all("script")
    assert not reader.all("a")
    assert not reader.all("em")
    assert sum(NASTY in words for words in reader.words) >= 4


def test_code_cannot_leave_its_fence() -> None:
    code = Code(title="x", text="a\n```\n# not a heading")
    reader = Reader(as_html(markdown.render((page_with(code),))))
    assert "a\n```\n# not a heading\n" in reader.words
    assert len(reader.all("h1")) == 1


def page_with(block: Code | Grid) -> Page:
    return Page(title="t", verdict="v", sections=(Section(title="s", blocks=(block,)),))


def test_a_table_cell_cannot_leave_its_row() -> None:
    grid = Grid(columns=("a", "b"), rows=((f"{NASTY}\n| x | y |", "1"),))
    rows = [line for line in markdown.render((page_with(grid),)).splitlines() if "alert" in line]
    assert len(rows) == 1
    assert rows[0].replace(r"\|", "").count("|") == 3


def test_names_on_a_terminal_are_text() -> None:
    grid = Grid(columns=("a\x1b[2J",), rows=(("[red]x[/red]\x1b]0;title\x07",),))
    shown = on_a_terminal(page_with(grid))
    assert "[red]x[/red]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
