"""Which workloads are measured: a few small ones to calibrate on, other and larger ones to predict.

A grid file is CSV with a header: `batch,ctx` and, if wanted, `gamma`, as in

    batch,ctx,gamma
    4,16k,1..8
    1,4k,4
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from magicplan.errors import BadQuantity, SpecError, UsageError
from magicplan.roofline.tree import Tree
from magicplan.units import parse_count, parse_tokens

MAX_GAMMA = 16
DEFAULT_GAMMA = 4
SWEEP = (1, 2, 4, 6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One workload to predict and measure: a chain of `gamma` drafts, or a tree."""

    batch: int
    ctx: int
    gamma: int = DEFAULT_GAMMA
    tree: Tree | None = None

    @property
    def id(self) -> str:
        """Says what is measured, so that no two workloads share it."""
        where = f"b{self.batch}-s{self.ctx}"
        if self.tree is None:
            return f"{where}-g{self.gamma}"
        shape = hashlib.sha256(repr(self.tree.parents).encode()).hexdigest()[:8]
        return f"{where}-t{self.tree.size}-{shape}"

    @property
    def query_tokens(self) -> int:
        """The number of tokens a sequence that verification feeds."""
        return self.tree.size if self.tree else self.gamma + 1

    @property
    def depth(self) -> int:
        """The number of draft passes of a round."""
        return self.tree.depth - 1 if self.tree else self.gamma


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """A workload that a device is calibrated on: decode, drafts, verification of several widths."""

    batch: int
    ctx: int
    query_tokens: tuple[int, ...] = (1, 2, 5, 9, 16)

    @property
    def id(self) -> str:
        """An identifier of the point, which no `Point` has."""
        return f"calibration-b{self.batch}-s{self.ctx}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringGrid:
    """Calibration points and the points to predict; no (batch, ctx) is in both."""

    calibration: tuple[CalibrationPoint, ...]
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        fitted = {(c.batch, c.ctx) for c in self.calibration}
        for point in self.points:
            if (point.batch, point.ctx) in fitted:
                raise UsageError(
                    f"batch {point.batch} at {point.ctx} tokens is a calibration point; "
                    "a prediction is only tested on workloads that the fit has not seen"
                )

    @property
    def cells(self) -> Iterator[tuple[tuple[int, int], list[Point]]]:
        """Points by (batch, ctx), which share a cache and a decode step."""
        for cell, points in groupby(self.points, lambda p: (p.batch, p.ctx)):
            yield cell, list(points)


CALIBRATION = {
    "cpu": [(batch, ctx) for batch in (1, 2) for ctx in (512, 8192)],
    "cuda": [(batch, ctx) for batch in (1, 8) for ctx in (1024, 8192, 16384)],
    "tiny": [(batch, ctx) for batch in (1, 2) for ctx in (64, 256)],
}
QUICK = {
    "cpu": [(1, 4096), (4, 16384), (1, 32768), (8, 4096), (16, 4096)],
    "cuda": [(1, 4096), (8, 32768), (1, 65536), (32, 8192), (64, 8192)],
    "tiny": [(1, 512), (4, 1024)],
}
FULL = {
    "cpu": [(batch, ctx) for batch in (1, 4, 8, 16) for ctx in (2048, 4096, 16384, 32768)],
    "cuda": [(b, s) for b in (1, 4, 16, 32, 64, 128) for s in (4096, 12288, 32768, 65536, 131072)],
    "tiny": [(batch, ctx) for batch in (1, 2, 4) for ctx in (128, 512, 1024)],
}
SWEPT = {"cpu": (4, 16384), "cuda": (8, 32768), "tiny": (4, 1024)}
"""The cell where every draft length is measured, to see whether the best one is predicted."""


def grid_of(
    text: str, device: str, *, gammas: list[int] | None = None, trees: list[Tree] | None = None
) -> MeasuringGrid:
    """The grid `quick`, `full`, `tiny` or of a CSV file. Raises UsageError, SpecError.

    `tiny` serves tests. Without `gammas` every cell has one draft length and one cell all of them;
    `trees` are measured in every cell besides.
    """
    profile = "tiny" if text == "tiny" else device
    if text in ("quick", "full", "tiny"):
        cells = (FULL if text == "full" else QUICK)[profile]
        rows = [(b, s, gammas or _gammas(text, (b, s), profile)) for b, s in cells]
    else:
        rows = [(b, s, own or gammas or [DEFAULT_GAMMA]) for b, s, own in read_grid(Path(text))]
    fitted = [cell for cell in CALIBRATION[profile] if cell not in {(b, s) for b, s, _ in rows}]
    if len({b for b, _ in fitted}) < 2 or len({s for _, s in fitted}) < 2:
        raise UsageError(
            f"--grid {text}: takes up the calibration's points; leave out one of "
            + ", ".join(f"({b}, {s})" for b, s in CALIBRATION[profile])
        )
    points = [Point(batch=b, ctx=s, gamma=g) for b, s, wanted in rows for g in sorted(set(wanted))]
    for b, s, _ in rows:
        points += [Point(batch=b, ctx=s, gamma=t.depth - 1, tree=t) for t in trees or ()]
    points.sort(key=lambda p: [(b, s) for b, s, _ in rows].index((p.batch, p.ctx)))
    return MeasuringGrid(
        calibration=tuple(CalibrationPoint(batch=b, ctx=s) for b, s in fitted),
        points=tuple(points),
    )


def _gammas(text: str, cell: tuple[int, int], profile: str) -> list[int]:
    if text == "full" or cell == SWEPT[profile]:
        return list(SWEEP)
    return [DEFAULT_GAMMA]


def parse_gammas(text: str, option: str = "--gamma") -> list[int]:
    """`4`, `1,2,4` or `1..8`: draft lengths from 1 to 16. Raises BadQuantity."""
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low = parse_count(first, option=option)
        high = parse_count(last, option=option) if dots else low
        found += range(low, min(high, MAX_GAMMA + 1) + 1)
    if not found or max(found) > MAX_GAMMA:
        raise BadQuantity(f"{option} {text!r}: expected draft lengths from 1 to {MAX_GAMMA}")
    return found


def read_grid(path: Path) -> list[tuple[int, int, list[int]]]:
    """(batch, ctx, draft lengths) of a CSV file. Raises SpecError with the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as problem:
        raise SpecError(
            path, f"cannot be read ({problem.strerror}); --grid takes quick, full or a CSV file"
        ) from None
    except UnicodeDecodeError:
        raise SpecError(path, "is no text file; expected CSV with the columns batch,ctx") from None
    rows: list[tuple[int, int, list[int]]] = []
    header: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        # one line at a time, so that a list of draft lengths may be quoted and lines be counted
        values = [value.strip() for value in next(csv.reader([line]))]
        if header is None:
            header = values
            if not {"batch", "ctx"} <= set(header) <= {"batch", "ctx", "gamma"}:
                raise SpecError(path, f"line {number}: expected a header batch,ctx or ...,gamma")
            continue
        if len(values) != len(header):
            raise SpecError(
                path, f"line {number}: {len(values)} values, the header names {len(header)}"
            )
        rows.append(_row(path, number, dict(zip(header, values, strict=True))))
    if not rows:
        raise SpecError(path, "holds no workload; expected lines such as 4,16k under batch,ctx")
    return rows


def _row(path: Path, number: int, row: dict[str, str]) -> tuple[int, int, list[int]]:
    try:
        gammas = parse_gammas(row["gamma"], "gamma") if row.get("gamma") else []
        batch = parse_count(row["batch"], option="batch")
        return batch, parse_tokens(row["ctx"], option="ctx"), gammas
    except BadQuantity as problem:
        raise SpecError(path, f"line {number}: {problem}") from None
