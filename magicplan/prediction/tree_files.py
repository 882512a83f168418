"""Trees as JSON files: what `magicplan tree --out` writes, and what a decoder reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magicplan.errors import FieldError, SpecError, UsageError
from magicplan.roofline.trees import Tree

SCHEMA = "magicplan.tree/1"


def write_trees(path: Path, document: dict[str, Any]) -> None:
    """Write a tree document. Raises UsageError if the file cannot be written."""
    try:
        path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as problem:
        raise FieldError("out", f"{path}: cannot be written ({problem.strerror})") from None


def read_trees(path: Path) -> list[Tree]:
    """The trees of a file, in its order. Raises SpecError naming the point that is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise SpecError(path, f"is not JSON ({problem})") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SpecError(path, f"expected a document of schema {SCHEMA}")
    points = document.get("points")
    if not isinstance(points, list) or not points:
        raise SpecError(path, "points is missing or empty")
    return [_tree(path, number, point) for number, point in enumerate(points, 1)]


def _tree(path: Path, number: int, point: Any) -> Tree:
    parents = point.get("parents") if isinstance(point, dict) else None
    whole = isinstance(parents, list) and all(type(parent) is int for parent in parents)
    if not whole or not parents:
        raise SpecError(path, f"point {number}: parents is no list of whole numbers")
    try:
        tree = Tree(parents=tuple(parents))
    except UsageError as problem:
        raise SpecError(path, f"point {number}: {problem}") from None
    for name, real in (("size", tree.size), ("depth", tree.depth)):
        if point.get(name, real) != real:
            raise SpecError(
                path, f"point {number}: {name} is {point[name]}, its parents say {real}"
            )
    return tree
