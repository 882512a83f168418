"""One run as JSON lines, written as it happens: a killed run continues, a finished one is compared.

Every line has a `kind`, in the order of `KINDS`. The prediction stands before the first point that
it predicts, with its sha256: nobody can tune it afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicplan.errors import SpecError, UsageError
from magicplan.fields import parse_json, read_bytes

if TYPE_CHECKING:
    from magicplan.validate.decoder.tensor_parallel import RankGroup

SCHEMA = "magicplan.run/1"
TOLERANCE = 0.15
MOST_BYTES = 256 * 2**20
"""Size of the largest run file that is read; real ones hold a few MB."""
KINDS = ("header", "exactness", "ceilings", "calibration", "prediction", "point")
NEEDED = {
    "header": ("schema", "settings", "device"),
    "exactness": ("greedy_equal",),
    "ceilings": ("read_bytes_per_s",),
    "calibration": ("id", "records"),
    "prediction": ("content", "sha256"),
    "point": ("id", "batch", "ctx_tokens"),
}
"""Fields without which a line means nothing."""
Line = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings a run depends on: a run with equal settings on the same device continues its
    file."""

    device: str
    model: str
    grid: str
    acceptance: str
    draft: str
    draft_kv: str
    dtype: str
    backend: str
    threads: int
    seed: int
    gamma: str | None = None
    tree: str | None = None
    text: str | None = None
    """The file whose text a checkpoint reads; None: Python's standard library."""
    ranks: int = 1
    """Processes that share the model (tensor parallelism)."""
    weights: str = "random"
    """The target's weights: "checkpoint" or "random", as `model` was found to hold."""
    draft_weights: str = ""
    """The weights of a smaller model that drafts: "checkpoint", "random", or "" without one."""


def digest(content: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class RecordedRun:
    """The lines that a run file holds so far, by kind."""

    header: Line
    exactness: Line | None = None
    ceilings: Line | None = None
    calibration: list[Line] = field(default_factory=list)
    prediction: Line | None = None
    points: list[Line] = field(default_factory=list)

    @property
    def tolerance(self) -> float:
        """The largest relative error of a point that passes, unless the command states another."""
        return float(self.header.get("tolerance", TOLERANCE))

    def peaks(self) -> Line:
        """The ceilings, with the fastest read seen before the prediction was made."""
        found = dict(self.ceilings or {})
        reads = [line.get("read_bytes_per_s", 0.0) for line in self.calibration]
        return found | {"read_bytes_per_s": max([found["read_bytes_per_s"], *reads])}

    def take(self, line: Line) -> str:
        """Add a line; the sentence says why it cannot follow, '' if it can."""
        kind = line["kind"]
        if kind == "calibration":
            if self.prediction:
                return "a calibration measured after the prediction"
            self.calibration.append(line)
        elif kind == "point":
            problem = self._foreign(line)
            if problem:
                return problem
            self.points.append(line)
        elif getattr(self, kind) is not None:
            return f"a second {kind}"
        elif kind == "prediction" and digest(line["content"]) != line["sha256"]:
            return "the prediction does not have its sha256: it was changed after it was written"
        else:
            setattr(self, kind, line)
        return ""

    def _foreign(self, line: Line) -> str:
        """Why a point cannot be held against this run's prediction."""
        if self.prediction is None:
            return f"{line['id']} was measured before its prediction was written"
        content = self.prediction["content"]
        fitted = {(c["batch"], c["ctx_tokens"]) for c in content["calibrated_on"]}
        if (line["batch"], line["ctx_tokens"]) in fitted or line["id"] in {
            c["id"] for c in content["calibrated_on"]
        }:
            return f"{line['id']} was used for the calibration; it cannot validate it"
        if line["id"] not in {point["id"] for point in content["points"]}:
            return f"{line['id']} has no prediction in this run"
        if any(known["id"] == line["id"] for known in self.points):
            return f"a second measurement of {line['id']}"
        return ""


def read(path: Path) -> RecordedRun:
    """A stored run; a last line that was cut off is left out. Raises SpecError naming the line."""
    return _parse(path)[0]


def _parse(path: Path) -> tuple[RecordedRun, int]:
    """The recorded run, and the number of bytes of its whole lines."""
    data = read_bytes(path, MOST_BYTES)
    run: RecordedRun | None = None
    whole = 0
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        if not raw.endswith(b"\n"):
            break  # cut by a kill: the line was being written
        line = _line(path, number, raw)
        if run is None:
            if line["kind"] != "header" or line.get("schema") != SCHEMA:
                raise SpecError(f"{path}, line {number}", f"expected a header of schema {SCHEMA}")
            run = RecordedRun(header=line)
        elif refusal := run.take(line):
            raise SpecError(f"{path}, line {number}", f"{refusal}")
        whole += len(raw)
    if run is None:
        raise SpecError(path, "holds no whole line; expected a run file of magicplan validate")
    return run, whole


def _line(path: Path, number: int, raw: bytes) -> Line:
    line = parse_json(raw, f"{path}, line {number}")
    if not isinstance(line, dict) or line.get("kind") not in KINDS:
        raise SpecError(
            f"{path}, line {number}", f"expected an object whose kind is {', '.join(KINDS)}"
        )
    missing = [name for name in NEEDED[line["kind"]] if name not in line]
    if missing:
        raise SpecError(f"{path}, line {number}", f"{line['kind']} without {', '.join(missing)}")
    return line


class RunFile:
    """The file of a run in progress; every line is on disk when `append` returns.

    Of several ranks the first one writes, and all of them hold its lines.
    """

    def __init__(self, path: Path, run: RecordedRun, ranks: RankGroup | None = None) -> None:
        self.path, self.run, self.ranks = path, run, ranks

    @classmethod
    def start(cls, path: Path, header: Line, ranks: RankGroup | None = None) -> RunFile:
        """A new file, or the rest of one of the same settings on the same device.

        Raises UsageError for a file of other settings, SpecError for one that is no run file.
        """
        if ranks is None or ranks.count == 1:
            return cls._started(path, header)
        run = cls._started(path, header).run if ranks.rank == 0 else None
        return cls(path, ranks.first(run), ranks)

    @classmethod
    def _started(cls, path: Path, header: Line) -> RunFile:
        if path.is_file() and _cut_in_header(path):
            path.write_bytes(b"")
        elif path.exists():
            run, whole = _parse(path)
            _same(path, run.header, header)
            with path.open("r+b") as file:
                file.truncate(whole)
            return cls(path, run)
        first = {"kind": "header", "schema": SCHEMA, **header}
        found = cls(path, RecordedRun(header=first))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            found._write(first)
        except OSError as problem:
            raise UsageError(f"{path}: cannot be written ({problem.strerror})") from None
        return found

    def append(self, kind: str, **content: Any) -> Line:
        """Write one line. Raises UsageError where it cannot follow what is there."""
        line = {"kind": kind, **(self.ranks.first(content) if self.ranks else content)}
        if problem := self.run.take(line):
            raise UsageError(f"{self.path}: {problem}")
        if self.ranks is None or self.ranks.rank == 0:
            self._write(line)
        return line

    def _write(self, line: Line) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


HEADER_START = b'{"kind": "header", "schema": "magicplan.run/'
"""The bytes that every run file begins with."""


def begins_run(path: Path) -> bool:
    """Whether a file begins as a run file does; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER_START)) == HEADER_START
    except OSError:
        return False


def _cut_in_header(path: Path) -> bool:
    """Was this run killed while its first line was written? There is nothing to keep then."""
    with path.open("rb") as file:
        first = file.readline()
    begun = first.startswith(HEADER_START) or HEADER_START.startswith(first)
    return begun and not first.endswith(b"\n")


FOUND = ("ranks", "weights", "draft_weights")
"""Settings that no option gives; a run finds them."""


def _same(path: Path, stored: Line, wanted: Line) -> None:
    """Refuse to mix two questions, or two machines, in one file."""
    for what, there, here in (
        *(
            (
                name if name in FOUND else f"--{name.replace('_', '-')}",
                stored["settings"].get(name),
                value,
            )
            for name, value in wanted["settings"].items()
        ),
        ("a device", stored["device"].get("name"), wanted["device"].get("name")),
        ("a version", stored["device"].get("magicplan"), wanted["device"].get("magicplan")),
    ):
        if there != here:
            raise UsageError(
                f"{path} was begun with {what} {there!r}, not {here!r}; choose another --out"
            )
