"""Quantities in and out: literal prefixes, laws, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan import units
from magicplan.errors import BadQuantity


@pytest.mark.parametrize(
    ("text", "value"),
    [("64k", 65536), ("64K", 65536), ("1m", 2**20), ("4096", 4096), ("1.5k", 1536), ("1", 1)],
)
def test_tokens(text: str, value: int) -> None:
    assert units.parse_tokens(text, option="--ctx") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "1e30",
        "64q",
        "1.5",
        "k",
        "64 k k",
        "9" * 40,
        "２",
        "2g",
        "0.1k",
    ],
)
def test_tokens_that_are_none(text: str) -> None:
    with pytest.raises(BadQuantity, match="--ctx") as problem:
        units.parse_tokens(text, option="--ctx")
    assert "\n" not in str(problem.value)


@given(st.text(max_size=12))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for parse in (units.parse_tokens, units.parse_count, units.parse_number):
        with contextlib.suppress(BadQuantity):
            assert parse(text, option="--x") > 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,8,32", [1, 8, 32]),
        ("1..8*2", [1, 2, 4, 8]),
        ("1..100*10,7", [1, 10, 100, 7]),
        ("1k..4k*2", [1024, 2048, 4096]),
        ("5", [5]),
    ],
)
def test_grids(text: str, values: list[int]) -> None:
    assert units.parse_grid(text, option="--ctx", tokens=True) == values


@pytest.mark.parametrize(
    "text", ["", ",", "1..8", "8..1*2", "1..8*1", "1..8*0", "1....8*2", "a..b*2"]
)
def test_grids_that_are_none(text: str) -> None:
    with pytest.raises(BadQuantity, match="--batch"):
        units.parse_grid(text, option="--batch")


def test_a_grid_is_bounded() -> None:
    with pytest.raises(BadQuantity, match="more than 4096"):
        units.parse_grid(",".join(["1"] * 5000), option="--batch")


def test_prefixes_are_literal() -> None:
    assert units.parse_rate("1 TB/s", option="x") == 1e12
    assert units.parse_rate("2.04 TB/s", option="x") == 2.04e12
    assert units.parse_bytes("1 GiB", option="x") == 2**30
    assert units.parse_bytes("80 GB", option="x") == 80e9
    for text in ("1 GHz", "1 TB", "-1 TB/s", "", "nan TB/s"):
        with pytest.raises(BadQuantity):
            units.parse_rate(text, option="x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (units.human_bytes(16.06e9), "16.1 GB"),
        (units.human_bytes(999.9e6), "1.00 GB"),
        (units.human_bytes(0), "0 B"),
        (units.human_rate(2.039e12), "2.04 TB/s"),
        (units.human_seconds(0.00736), "7.36 ms"),
        (units.human_seconds(81.5e-6), "81.5 us"),
        (units.human_seconds(0), "0"),
        (units.human_seconds(3e-9), "3 ns"),
        (units.human_count(8030261248), "8.03B"),
        (units.human_count(128), "128"),
        (units.human_tokens(65536), "64k"),
        (units.human_tokens(1000), "1000"),
        (units.human_tokens(2**20), "1m"),
        (units.human_gib(2.0**36), "64.0 GiB"),
    ],
)
def test_what_people_read(text: str, shown: str) -> None:
    assert text == shown


@given(st.integers(1, 2**30))
def test_tokens_read_back(tokens: int) -> None:
    assert units.parse_tokens(units.human_tokens(tokens), option="x") == tokens
