"""Outside data is refused in one sentence that carries file, line and field, or becomes a value."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.errors import FieldError, SpecError, UsageError, option
from magicplan.fields import (
    Span,
    Table,
    made,
    number,
    parse_json,
    read_text,
    read_toml,
    toml_lines,
    whole,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    share: Annotated[float, Span(0, 1)]
    rate: Annotated[float, Span(0, above=True)] = 1.0
    tp: tuple[Annotated[int, Span(1, 8)], ...] | None = None
    names: tuple[str, ...] = ()
    mode: Annotated[str, ("on", "off")] = "on"
    flag: bool = False
    prices: Mapping[str, float] | None = None


def test_an_error_speaks_python_or_the_options_of_a_command() -> None:
    problem = FieldError("kv_dtype", "'fp9': expected one that $draft_kv has")
    assert str(problem) == "kv_dtype 'fp9': expected one that draft_kv has"
    assert problem.spoken(option) == "--kv-dtype 'fp9': expected one that --draft-kv has"
    assert FieldError("gpu", ": unknown").spoken(option) == "--gpu: unknown"
    assert FieldError("prices", " at 3 $/h").field == "prices"


@given(value=st.floats() | st.integers() | st.booleans() | st.text() | st.none())
def test_numbers_lie_in_their_span_or_are_refused(value: Any) -> None:
    inside = not isinstance(value, bool) and isinstance(value, int | float) and 2 <= value <= 9
    if inside:
        assert number("x", value, low=2, high=9) == value
    else:
        with pytest.raises(FieldError, match=r"^x .*: expected a number from 2 to 9$"):
            number("x", value, low=2, high=9)
    if inside and value == int(value):
        assert type(whole("x", value, low=2, high=9)) is int
    else:
        with pytest.raises(FieldError, match="expected a whole number from 2 to 9"):
            whole("x", value, low=2, high=9)


def test_a_record_takes_single_values_for_lists_and_none_where_it_may_be_left_open() -> None:
    found = made(Sample, {"share": 1, "tp": 4, "names": ["b", "a", "b"], "prices": {"h100": 2.0}})
    assert found == Sample(share=1.0, tp=(4,), names=("b", "a"), prices={"h100": 2.0})
    assert made(Sample, {"share": 0, "tp": None}).tp is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"share": 1.5}, "share 1.5: expected a number from 0 to 1"),
        ({"share": math.nan}, "share nan: expected a number from 0 to 1"),
        ({"share": None}, "share is missing: expected a number from 0 to 1"),
        ({"share": "1"}, "share '1': expected a number from 0 to 1"),
        ({"share": True}, "share True: expected a number from 0 to 1"),
        ({"rate": 0}, "rate 0: expected a number above 0"),
        ({"tp": [1, 9]}, "tp 9: expected a whole number from 1 to 8"),
        ({"tp": []}, "tp is empty: expected at least one"),
        ({"names": {"a": 1}}, "names {'a': 1}: expected a list of names"),
        ({"names": ["a", 3]}, "names 3: expected text"),
        ({"mode": "onn"}, "mode 'onn': did you mean on? expected one of on, off"),
        ({"flag": 1}, "flag 1: expected true or false"),
        ({"prices": 3}, "prices 3: expected a table"),
        ({"share": "x" * 500}, "xxx...: expected"),
    ],
)
def test_a_record_refuses_what_its_annotations_do_not_take(
    values: dict[str, Any], says: str
) -> None:
    with pytest.raises(FieldError) as problem:
        made(Sample, values)
    assert says in str(problem.value)
    assert problem.value.field == next(iter(values))


def test_a_file_names_line_and_dotted_field(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('top = 1\n[part]\nshare = 3\n["quoted"]\nx = 1\n[part.prices]\nh100 = 1\n')
    table = read_toml(path)
    for read, says in (
        (lambda: table.table("part").get("share", float), None),
        (lambda: table.table("part").record(Sample), f"{path}, line 3: part.share 3: expected"),
        (lambda: table.only(["top"]), f"{path}, line 2: part is unknown; known: top"),
        (lambda: table.get("none", str), f"{path}: none is missing: expected text"),
        (lambda: table.table("part").get("rate", float), "line 2: part.rate is missing"),
        (lambda: table.table("top"), f"{path}, line 1: top 1: expected a table"),
        (lambda: table.tables("top"), f"{path}, line 1: top 1: expected a list of tables"),
        (lambda: table.table("part").table("prices").fail("h100", "3"), "line 7: part.prices.h100"),
    ):
        if says is None:
            assert read() == 3.0
            continue
        with pytest.raises(SpecError) as problem:
            read()
        assert says in str(problem.value)


def test_a_table_without_a_file_is_a_keyword() -> None:
    with pytest.raises(FieldError) as problem:
        Table(data={"h100": -1}, path="prices").get("h100", Annotated[float, Span(0)])
    assert problem.value.field == "prices.h100"


def test_files_are_refused_by_size_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(SpecError, match="cannot be read"):
        read_text(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="is no text"):
        read_text(path)
    path.write_text("x" * 100)
    with pytest.raises(SpecError, match="holds 100 bytes, expected at most 99"):
        read_text(path, 99)
    with pytest.raises(SpecError, match="is not TOML"):
        read_toml(path)
    with pytest.raises(UsageError, match=r"^here: is not JSON"):
        parse_json("[" * 100_000, "here")


@given(st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, unique=True))
def test_every_key_has_its_line(keys: list[str]) -> None:
    text = "# first\n[part]\n" + "".join(f"{key} = 1\n" for key in keys)
    assert list(tomllib.loads(text)["part"]) == keys
    lines = toml_lines(text)
    assert [lines[f"part.{key}"] for key in keys] == list(range(3, 3 + len(keys)))
