"""The run file: continues after a kill, keeps what is whole, and cannot be tuned afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicplan.errors import SpecError, UsageError
from magicplan.validate.run_file import RunFile, digest, read
from tests.validate import runs

HEADER = {"settings": {"model": "test", "grid": "quick"}, "device": runs.DEVICE}


def begun(path: Path) -> RunFile:
    return RunFile.start(path, HEADER)


def whole(path: Path) -> RunFile:
    """A finished file, written line by line as a session does."""
    made, file = runs.run(), begun(path)

    def add(line: dict[str, Any]) -> None:
        file.append(line["kind"], **{k: v for k, v in line.items() if k != "kind"})

    for line in (made.exactness, made.ceilings, *made.calibration, made.prediction, *made.points):
        assert line is not None
        add(line)
    return file


def test_a_finished_file_reads_back(tmp_path: Path) -> None:
    whole(tmp_path / "run.jsonl")
    found = read(tmp_path / "run.jsonl")
    assert len(found.points) == len(runs.POINTS)
    assert found.prediction is not None
    assert digest(found.prediction["content"]) == found.prediction["sha256"]


def test_a_cut_last_line_is_dropped_and_the_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole(path)
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    assert len(read(path).points) == len(runs.POINTS) - 1
    again = begun(path)
    last = runs.run().points[-1]
    again.append("point", **{k: v for k, v in last.items() if k != "kind"})
    assert path.read_bytes() == data


@pytest.mark.parametrize("cut", range(0, 3000, 97))
def test_wherever_it_is_cut_what_is_whole_is_kept(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.jsonl"
    data = whole(path).path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    found = begun(path).run
    assert path.read_bytes() == data[: path.stat().st_size]
    assert path.read_bytes().endswith(b"\n")
    kept = data[: len(data) - cut].count(b"\n")
    lines = 1 + sum(x is not None for x in (found.exactness, found.ceilings, found.prediction))
    assert lines + len(found.calibration) + len(found.points) == kept


@pytest.mark.parametrize("kept", [0, 1, 20, 60, -1])
def test_cut_inside_its_header_it_starts_anew(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "run.jsonl"
    header = begun(path).path.read_bytes()
    path.write_bytes(header[:kept])
    assert begun(path).run.exactness is None
    assert path.read_bytes() == header


def test_what_only_lacks_a_line_end_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("my notes")
    with pytest.raises(SpecError, match="holds no whole line"):
        begun(path)
    assert path.read_text() == "my notes"


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    lines = whole(path).path.read_text().splitlines()
    for number, broken, wanted in (
        (3, "{nonsense", "line 3: is not JSON"),
        (3, "[1]", "line 3: expected an object whose kind"),
        (3, '{"kind": "ceilings"}', "line 3: ceilings without read_bytes_per_s"),
        (1, '{"kind": "header", "schema": "other", "settings": {}, "device": {}}', "line 1"),
    ):
        changed = [*lines[: number - 1], broken, *lines[number:]]
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(SpecError, match=wanted):
            read(path)


def test_a_tuned_prediction_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole(path)
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"prediction"' in line[:30])
    line = json.loads(lines[at])
    line["content"]["points"][0]["predicted"]["decode_seconds"] *= 1.01
    lines[at] = json.dumps(line)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SpecError, match=f"line {at + 1}: the prediction does not have its sha256"):
        read(path)


def test_a_point_before_its_prediction_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole(path)
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"prediction"' in line[:30])
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SpecError, match="was measured before its prediction was written"):
        read(path)


def test_a_calibration_point_cannot_validate(tmp_path: Path) -> None:
    file = whole(tmp_path / "run.jsonl")
    point = {k: v for k, v in file.run.points[0].items() if k != "kind"}
    with pytest.raises(UsageError, match="was used for the calibration"):
        file.append("point", **(point | {"id": "other", "batch": 2, "ctx_tokens": 8192}))
    with pytest.raises(UsageError, match="was used for the calibration"):
        file.append("point", **(point | {"id": runs.CALIBRATION[0].id}))
    with pytest.raises(UsageError, match="has no prediction"):
        file.append("point", **(point | {"id": "other"}))
    with pytest.raises(UsageError, match="a second measurement"):
        file.append("point", **point)


def test_another_question_or_machine_does_not_continue(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    begun(path)
    with pytest.raises(UsageError, match="--grid 'quick', not 'full'"):
        RunFile.start(path, HEADER | {"settings": {"model": "test", "grid": "full"}})
    with pytest.raises(UsageError, match="a device"):
        RunFile.start(path, HEADER | {"device": runs.DEVICE | {"name": "another"}})


def test_what_is_no_run_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(SpecError, match="cannot be read"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(SpecError, match="holds no whole line"):
        read(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(SpecError, match="line 1: is not JSON"):
        read(path)
    with pytest.raises(UsageError, match="cannot be written"):
        RunFile.start(Path("/proc/none/run.jsonl"), HEADER)
