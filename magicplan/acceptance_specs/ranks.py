"""Acceptance by child rank, for trees, from a file."""

from __future__ import annotations

import math
from pathlib import Path

from magicplan.acceptance_specs.results import number_list
from magicplan.errors import SpecError, UsageError
from magicplan.fields import parse_json
from magicplan.roofline.acceptance import Z80, Ranked


def ranks_from(path: Path, text: str) -> Ranked:
    """Acceptance by child rank: a JSON list, `{"ranks": [...], "samples": n}`, or a number a line;
    a list of lists gives the ranks of every level of a tree.

    Raises SpecError naming the file and the line.
    """
    samples = 0
    if text.lstrip().startswith(("[", "{")):
        document = parse_json(text, path)
        if isinstance(document, dict):
            samples, document = document.get("samples", 0), document.get("ranks")
        by_level = isinstance(document, list) and any(isinstance(row, list) for row in document)
        rows = [
            number_list(path, f"ranks of level {i}" if by_level else "ranks", row)
            for i, row in enumerate(document if by_level else [document], 1)
        ]
    else:
        lines = enumerate(text.splitlines(), 1)
        rows = [[_line_number(path, i, line) for i, line in lines if line]]
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
        raise SpecError(path, f"samples is {samples!r}, expected a whole number")
    try:
        first = rows[0][0]
        spread = Z80 * math.sqrt(first * (1 - first) / samples) if samples else 0.0
        origin = f"ranks of {path}" + (f", {samples} samples" if samples else "")
        return Ranked(
            probabilities=tuple(rows[0]),
            deeper=tuple(tuple(row) for row in rows[1:]),
            origin=origin,
            uncertainty=spread,
        )
    except (UsageError, ValueError, IndexError) as problem:
        raise SpecError(path, str(problem)) from None


def _line_number(path: Path, number: int, line: str) -> float:
    try:
        return float(line)
    except ValueError:
        raise SpecError(path, f"line {number} {line[:40]!r} is not a number") from None
