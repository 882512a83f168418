"""Grids: calibration and validation never meet, and a bad file is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from magicplan.errors import BadQuantity, SpecError, UsageError
from magicplan.roofline.trees import Tree
from magicplan.validate.measure.grid import (
    CalibrationPoint,
    MeasuringGrid,
    Point,
    grid_of,
    parse_gammas,
)

TREE = Tree(parents=(-1, 0, 0, 1))


@pytest.mark.parametrize("text", ["quick", "full", "tiny"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shipped_grids_are_disjoint_and_have_no_double(text: str, device: str) -> None:
    grid = grid_of(text, device, trees=[TREE])
    ids = [p.id for p in grid.points]
    assert len(set(ids)) == len(ids)
    fitted = {(c.batch, c.ctx) for c in grid.calibration}
    assert not fitted & {(p.batch, p.ctx) for p in grid.points}
    assert len({c.batch for c in grid.calibration}) > 1
    assert len({c.ctx for c in grid.calibration}) > 1
    assert sum(len(points) for _, points in grid.cells) == len(ids)
    assert len(list(grid.cells)) == len({(p.batch, p.ctx) for p in grid.points})


def test_quick_reaches_four_times_longer_and_eight_times_wider() -> None:
    grid = grid_of("quick", "cpu")
    longest, widest = max(c.ctx for c in grid.calibration), max(c.batch for c in grid.calibration)
    assert max(p.ctx for p in grid.points) == 4 * longest
    assert max(p.batch for p in grid.points) == 8 * widest
    assert any((p.batch, p.ctx, p.gamma) == (4, 16384, 4) for p in grid.points)


def test_a_calibration_cell_is_refused_as_a_point() -> None:
    with pytest.raises(UsageError, match="batch 2 at 512 tokens is a calibration point"):
        MeasuringGrid(
            calibration=(CalibrationPoint(batch=2, ctx=512),), points=(Point(batch=2, ctx=512),)
        )


def test_ids_tell_trees_apart() -> None:
    other = Tree(parents=(-1, 0, 1, 1))
    ids = {Point(batch=1, ctx=9, tree=t).id for t in (TREE, other, None)}
    assert len(ids) == 3
    point = Point(batch=1, ctx=9, gamma=2, tree=TREE)
    assert (point.query_tokens, point.depth) == (4, 2)


@pytest.mark.parametrize(
    ("text", "found"), [("4", [4]), ("1..3", [1, 2, 3]), ("1,4,8", [1, 4, 8]), ("16", [16])]
)
def test_draft_lengths(text: str, found: list[int]) -> None:
    assert parse_gammas(text) == found


@pytest.mark.parametrize("text", ["0", "17", "1..99", "4..2", "x", "", "-1", "1..", "1.5"])
def test_bad_draft_lengths(text: str) -> None:
    with pytest.raises(BadQuantity, match="--gamma"):
        parse_gammas(text)


def write(folder: Path, text: str) -> str:
    path = folder / "grid.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_grid_file(tmp_path: Path) -> None:
    text = '# mine\nbatch,ctx,gamma\n\n4,16k,"1..2"\n1,4k,\n'
    grid = grid_of(write(tmp_path, text), "cpu", gammas=[3])
    found = [(p.batch, p.ctx, p.gamma) for p in grid.points]
    assert found == [(4, 16384, 1), (4, 16384, 2), (1, 4096, 3)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "holds no workload"),
        ("batch,ctx\n", "holds no workload"),
        ("b,c\n1,2\n", "line 1: expected a header"),
        ("batch,ctx\n1\n", "line 2: 1 values"),
        ("batch,ctx\n1,4k\nx,4k\n", "line 3: batch 'x'"),
        ("batch,ctx\n1,1e30\n", "line 2: ctx '1e30'"),
        ("batch,ctx,gamma\n1,4k,99\n", "line 2: gamma '99'"),
        ("batch,ctx\n1,512\n2,512\n1,8k\n", "takes up the calibration's points"),
    ],
)
def test_a_bad_grid_file_is_named(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        grid_of(write(tmp_path, text), "cpu")


def test_no_such_grid() -> None:
    with pytest.raises(SpecError, match="quick, full or a CSV file"):
        grid_of("quick-ish", "cpu")
