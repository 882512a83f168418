"""`calibrate --kernels` on tables that are wrong, in both layouts, as a user meets them.

Every case is one good synthetic table with one thing changed: exit 2, one sentence that names the
file and where in it, nothing on stdout and nothing written.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import least_squares

from magicplan import cli

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
Row = dict[str, str]
Rows = list[Row]
Tables = dict[str, Rows]
"""Of the flat layout, by file name."""
FLAT = ("gemm", "decode_attention", "allreduce")
TREE = {
    "gemm": "gemm_perf.txt",
    "decode_attention": "generation_attention_perf.txt",
    "allreduce": "custom_allreduce_perf.txt",
}
TIME = {"flat": "latency_us", "tree": "latency"}


def good() -> Tables:
    found = {}
    for name in FLAT:
        with (KERNELS / f"{name}.csv").open() as file:
            found[name] = list(csv.DictReader(file))
    return found


def write_rows(path: Path, rows: Rows, header: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, header, extrasaction="ignore")
        out.writeheader()
        out.writerows(rows)


def as_tree(name: str, row: Row) -> Row:
    """The same row as aiconfigurator's collectors write it: milliseconds, elements, their names."""
    time = row["latency_us"]
    seen = {"version": row["version"], "latency": time and f"{float(time) / 1e3}"}
    if name == "gemm":
        return seen | {"gemm_dtype": row["dtype"]} | {k: row[k] for k in "mnk"}
    if name == "allreduce":
        kind = "_eager" if row["mode"] == "eager" else "_graph"
        return seen | {
            "num_gpus": row["num_gpus"],
            "message_size": f"{int(row['bytes']) // 2}",
            "kernel_source": "vLLM_custom" + kind,
        }
    return seen | {
        "kv_cache_dtype": row["kv_dtype"], "batch_size": row["batch"], "num_heads": row["q_heads"],
        "num_key_value_heads": row["kv_heads"], "head_dim": row["head_dim"], "isl": "1",
        "step": f"{int(row['kv_len']) - 1}", "window_size": row["window"],
    }  # fmt: skip


def lay(folder: Path, layout: str, change: Callable[[str, Rows], Rows], gpu: str) -> None:
    """Write the good tables, each row list changed after its translation."""
    for name, rows in good().items():
        if layout == "tree":
            translated = [as_tree(name, row) for row in rows]
            path = folder / "systems" / "data" / gpu / "comm" / "vllm" / "1.2.3" / TREE[name]
        else:
            translated = [row | {"gpu": gpu} for row in rows]
            path = folder / f"{name}.csv"
        changed = change(name, translated)
        write_rows(path, changed, list(changed[0]) if changed else list(translated[0]))


def scaled(row: Row, layout: str, factor: float) -> Row:
    return row | {TIME[layout]: f"{float(row[TIME[layout]]) * factor:.9g}"}


@pytest.fixture(name="refused")
def _refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """Runs calibrate with and without --out; the sentence on stderr, the same both times."""

    def run(folder: Path) -> str:
        told = []
        for more in ([], ["--json"], ["--out", str(tmp_path / "out")]):
            words = ["calibrate", "--kernels", str(folder), *more]
            monkeypatch.setattr("sys.argv", ["magicplan", *words])
            with pytest.raises(SystemExit) as status:
                cli.main()
            said = capsys.readouterr()
            assert status.value.code == 2, said.out
            assert said.out == ""
            assert not (tmp_path / "out").exists()
            told.append([line for line in said.err.splitlines() if "left out" not in line][-1])
        assert len(set(told)) == 1
        return told[0]

    return run


LAYOUTS = pytest.mark.parametrize("layout", ["flat", "tree"])
Keep = Callable[[Rows], Rows]


@LAYOUTS
@pytest.mark.parametrize("name", FLAT)
def test_a_missing_column_is_named(refused: Any, tmp_path: Path, layout: str, name: str) -> None:
    column = TIME[layout]

    def drop(table: str, rows: Rows) -> Rows:
        return [{k: v for k, v in r.items() if table != name or k != column} for r in rows]

    lay(tmp_path, layout, drop, "h100_sxm")
    assert re.search(rf"{file_of(layout, name)}: has no column {column};", refused(tmp_path))


def file_of(layout: str, name: str) -> str:
    return re.escape(TREE[name] if layout == "tree" else f"{name}.csv")


@LAYOUTS
@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("bad", ["nan", "-3.5", "0", "inf", "", "fast"])
def test_a_time_that_is_none_is_named_by_row(
    refused: Any, tmp_path: Path, layout: str, name: str, bad: str
) -> None:
    def spoil(table: str, rows: Rows) -> Rows:
        if table == name:
            rows[6] = rows[6] | {TIME[layout]: bad}
        return rows

    lay(tmp_path, layout, spoil, "h100_sxm")
    where = rf"{file_of(layout, name)}: row 7, column {TIME[layout]}: "
    assert re.search(where + ".* is not a positive number", refused(tmp_path))


@LAYOUTS
@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e-6])
@pytest.mark.parametrize("every", [1, 2, 7], ids=["all", "half", "few"])
def test_times_in_another_unit_are_named_by_row(
    refused: Any, tmp_path: Path, layout: str, name: str, factor: float, every: int
) -> None:
    def mix(table: str, rows: Rows) -> Rows:
        return [
            scaled(r, layout, factor) if table == name and i % every == every - 1 else r
            for i, r in enumerate(rows)
        ]

    lay(tmp_path, layout, mix, "h100_sxm")
    where = rf"{file_of(layout, name)}: row \d+, column {TIME[layout]}: "
    assert re.search(where + ".* (above|below) .* another unit", refused(tmp_path))


@pytest.mark.parametrize("name", FLAT)
def test_a_repeated_key_names_both_rows(refused: Any, tmp_path: Path, name: str) -> None:
    lay(
        tmp_path,
        "flat",
        lambda table, rows: [*rows, rows[2]] if table == name else rows,
        "h100_sxm",
    )
    last = len(good()[name]) + 1
    assert re.search(rf"{name}\.csv: row {last} repeats the key of row 3 \(", refused(tmp_path))


def test_an_unknown_gpu_is_named(refused: Any, tmp_path: Path) -> None:
    lay(tmp_path / "flat", "flat", lambda _, rows: rows, "h900_sxm")
    lay(tmp_path / "tree", "tree", lambda _, rows: rows, "h900_sxm")
    assert re.search(r"gemm\.csv: row 1, column gpu: .*'h900_sxm'", refused(tmp_path / "flat"))
    assert re.search(
        r"gemm_perf\.txt: the GPU of its folder: .*'h900_sxm'", refused(tmp_path / "tree")
    )


def test_a_version_that_cannot_be_ordered_is_named(refused: Any, tmp_path: Path) -> None:
    def rename(table: str, rows: Rows) -> Rows:
        return [r | {"version": "nightly"} for r in rows] if table == "gemm" else rows

    lay(tmp_path, "flat", rename, "h100_sxm")
    assert re.search(r"gemm\.csv: column version: 'nightly' is no version", refused(tmp_path))


@LAYOUTS
@pytest.mark.parametrize("name", FLAT)
def test_a_table_without_a_row_is_named(
    refused: Any, tmp_path: Path, layout: str, name: str
) -> None:
    lay(tmp_path, layout, lambda table, rows: [] if table == name else rows, "h100_sxm")
    assert re.search(rf"{file_of(layout, name)}: holds no row", refused(tmp_path))


def test_a_folder_without_a_usable_row_says_what_counts(refused: Any, tmp_path: Path) -> None:
    def other(_: str, rows: Rows) -> Rows:
        return [r | ({"framework": "nccl"} if "framework" in r else {"version": "9"}) for r in rows]

    for layout in ("flat", "tree"):
        lay(tmp_path / layout, layout, other, "h100_sxm")
        assert re.search(
            rf"{layout}: holds no usable row in 3 tables: .*vllm, sglang, trtllm",
            refused(tmp_path / layout),
        )


def test_a_missing_folder_an_empty_one_and_an_unknown_mode(refused: Any, tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no gemm, decode_attention or allreduce" in refused(tmp_path / "empty")

    def misspelt(table: str, rows: Rows) -> Rows:
        return [r | {"mode": "graf"} if table == "allreduce" and not i else r
                for i, r in enumerate(rows)]  # fmt: skip

    lay(tmp_path / "mode", "flat", misspelt, "h100_sxm")
    assert re.search(r"allreduce\.csv: row 1, column mode: 'graf' is none of graph, eager",
                     refused(tmp_path / "mode"))  # fmt: skip


def few(rows: Rows) -> Rows:
    return rows[:10]


def one(*columns: str) -> Keep:
    """The rows with the first one's value of whichever of these columns there is."""

    def keep(rows: Rows) -> Rows:
        column = next(c for c in columns if c in rows[0])
        return [r for r in rows if r[column] == rows[0][column]]

    return keep


@LAYOUTS
@pytest.mark.parametrize(
    ("name", "keep", "missing"),
    [
        ("gemm", few, r"\d+ usable rows, the fit needs 40"),
        ("gemm", one("m"), r"1 different value\(s\) of column m, the fit needs 4"),
        ("decode_attention", few, r"\d+ usable rows, the fit needs 40"),
        ("decode_attention", one("batch", "batch_size"),
         r"1 different value\(s\) of column batch, the fit needs 2"),
        ("allreduce", few, r"\d+ usable rows, the fit needs 20"),
        ("allreduce", one("num_gpus"), r"1 different value\(s\) of column num_gpus, the fit needs"),
    ],
    ids=["few-linear", "one-m", "few-attention", "one-batch", "few-sums", "one-degree"],
)  # fmt: skip
def test_what_rows_cannot_tell_apart_is_refused_with_what_is_missing(
    refused: Any, tmp_path: Path, layout: str, name: str, keep: Keep, missing: str
) -> None:
    lay(tmp_path, layout, lambda table, rows: keep(rows) if table == name else rows, "h100_sxm")
    told = refused(tmp_path)
    assert re.search(rf"h100-sxm_vllm_1\.2\.3, .*{file_of(layout, name)}: .*{missing}", told)


def test_a_fit_that_does_not_converge_is_refused(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any, **options: Any) -> Any:
        found = least_squares(*args, **options, max_nfev=1)
        assert not found.success
        return found

    monkeypatch.setattr("magicplan.calibrate.kernel_fit.least_squares", lost)
    lay(tmp_path, "flat", lambda _, rows: rows, "h100_sxm")
    told = refused(tmp_path)
    assert re.search(r"linear\.bf16: .* did not converge from any of 3 starts.*gemm\.csv", told)


@LAYOUTS
def test_the_same_tables_unchanged_are_fitted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    layout: str,
) -> None:
    lay(tmp_path / "in", layout, lambda _, rows: rows, "h100_sxm")
    words = ["calibrate", "--kernels", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["magicplan", *words])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert not status.value.code
    assert "h100-sxm_vllm_1.2.3" in capsys.readouterr().out
    assert (tmp_path / "out" / "h100-sxm_vllm_1.2.3.toml").exists()
