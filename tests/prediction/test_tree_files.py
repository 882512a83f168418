"""Trees as files: what is written is read back, what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicplan.errors import SpecError, UsageError
from magicplan.prediction.adaptive_trees import read_trees, write_trees
from magicplan.roofline.trees import Tree


def document(**point: Any) -> dict[str, Any]:
    return {"schema": "magicplan.tree/1", "points": [{"parents": [-1, 0, 0, 1]} | point]}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    write_trees(path, document(size=4, depth=3))
    assert read_trees(path) == [Tree(parents=(-1, 0, 0, 1))]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "not JSON"),
        ("[]", "schema"),
        ('{"schema": "magicplan.tree/1"}', "points"),
        (json.dumps(document(parents=[-1, 2, 1])), "points.0..parents: node 1 has parent 2"),
        (json.dumps(document(parents=[-1, -1])), "second root"),
        (json.dumps(document(parents=[-1, 0.5])), "whole numbers"),
        (json.dumps(document(parents=[])), "whole numbers"),
        (json.dumps(document(size=9)), "size is 9"),
        (json.dumps(document(depth=1)), "depth is 1"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=wrong):
        read_trees(path)


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_trees(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be written"):
        write_trees(tmp_path / "no" / "tree.json", document())
