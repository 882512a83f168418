"""Fits recover the constants that made a table, and bad tables are refused by file and row."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicplan import hardware_specs
from magicplan.calibrate.groups import Group, complete, document, fit_groups, refuse_unfitted, write
from magicplan.calibrate.kernel_fit import fit_linear, linear_seconds_of
from magicplan.calibrate.kernel_tables import KernelTables, where
from magicplan.calibrate.kernel_tables import read as read_tables
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.calibration_files import as_toml, read
from magicplan.hardware_specs.transfer import calibration_for, ideal
from magicplan.roofline.timing import Machine, op_seconds
from magicplan.roofline.traffic import Op

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
"""Made from known constants with 2 % noise; no GPU was involved."""


@pytest.fixture(scope="module")
def tables() -> KernelTables:
    return read_tables(KERNELS)


@pytest.fixture(scope="module")
def group(tables: KernelTables) -> Group:
    (found,) = fit_groups(tables)
    return found


def test_the_fit_recovers_the_constants_that_made_the_rows(group: Group) -> None:
    linear, fp8 = group.fits["linear.bf16"].form, group.fits["linear.fp8"].form
    attention, reduce = group.fits["attention.bf16"].form, group.fits["collective"].form
    assert linear.launch_seconds == pytest.approx(4e-6, rel=0.3)
    assert linear.memory_efficiency == pytest.approx(0.85, rel=0.03)
    assert linear.compute_efficiency == pytest.approx(0.8, rel=0.03)
    assert fp8.memory_efficiency == pytest.approx(0.8, rel=0.05)
    assert fp8.compute_efficiency == pytest.approx(0.6, rel=0.08)
    assert attention.launch_seconds == pytest.approx(9e-6, rel=0.05)
    assert attention.wave_seconds == pytest.approx(2.5e-6, rel=0.15)
    assert attention.memory_efficiency == pytest.approx(0.88, rel=0.03)
    assert reduce.one_shot_seconds == pytest.approx(4e-6, rel=0.1)
    assert group.fits["eager"].form.eager_seconds == pytest.approx(20e-6, rel=0.03)


def test_held_out_errors_are_the_noise_and_the_naive_roofline_is_worse(group: Group) -> None:
    for part, fitted in group.fits.items():
        assert fitted.held_out.mape < 4, part
        assert fitted.naive.mape > 3 * fitted.held_out.mape, part


def test_eager_collectives_add_their_launch_and_leave_those_in_graphs_alone(group: Group) -> None:
    data = document(group, [group], "t")
    found = as_toml(data)
    assert found.collective.eager_seconds == pytest.approx(20e-6, rel=0.03)
    assert "eager" in [e["part"] for e in data["evidence"]]
    op = Op(name="sum", kind="collective", dtype="bf16", payload_bytes=4096.0, ranks=2.0)
    in_graphs = Machine(accelerator=group.accelerator, calibration=found)
    one_by_one = replace(in_graphs, eager=True)
    assert float(op_seconds(op, in_graphs)) == pytest.approx(4e-6, rel=0.1)
    assert float(op_seconds(op, one_by_one)) == found.collective.eager_seconds
    large = replace(op, payload_bytes=2.0**25)
    assert float(op_seconds(large, one_by_one)) == float(op_seconds(large, in_graphs))


def test_eager_rows_alone_are_refused_for_want_of_graphs(tables: KernelTables) -> None:
    (found,) = fit_groups(replace(tables, collective={}))
    assert "needs all-reduces in graphs" in found.refused["eager"]
    with pytest.raises(UsageError, match=r"h100-sxm_vllm_1\.2\.3, eager: eager all-reduce: needs"):
        refuse_unfitted([found])


def test_rows_from_l2_and_above_the_roof_are_left_out(tables: KernelTables) -> None:
    rows = where(tables.linear, tables.linear["dtype"] == "bf16")
    rows = {name: column.copy() for name, column in rows.items()}
    accelerator = hardware_specs.load("h100")
    plain = fit_linear(rows, accelerator, "bf16")
    rows["seconds"][3] = 1e-9
    rows["l2_risk"][5] = True
    again = fit_linear(rows, accelerator, "bf16")
    assert again.rejected == plain.rejected + 2
    assert again.form.memory_efficiency == pytest.approx(plain.form.memory_efficiency, rel=0.02)


def test_what_is_written_reads_back_and_serves_as_a_stack(group: Group, tmp_path: Path) -> None:
    (path,) = write(tmp_path, [document(group, [group], "a synthetic table")])
    found = read(path)
    assert path.name == "h100-sxm_vllm_1.2.3.toml"
    assert found.linear["bf16"].launch_seconds == pytest.approx(
        group.fits["linear.bf16"].form.launch_seconds, rel=1e-3
    )
    assert "synthetic table" in calibration_for(hardware_specs.load("h100"), str(path))[1]


def test_a_missing_part_is_taken_from_another_version_of_the_same_gpu(group: Group) -> None:
    parts = {k: v for k, v in group.fits.items() if k != "collective"}
    newer = Group(accelerator=group.accelerator, stack="vllm", version="1.3.0", fits=parts)
    assert complete(newer, [group, newer])["collective"][1] == group.name
    assert "collective of h100-sxm_vllm_1.2.3" in document(newer, [group, newer], "t")["origin"]
    alone = Group(accelerator=group.accelerator, stack="vllm", version="1.4.0")
    with pytest.raises(UsageError, match="are needed"):
        document(alone, [alone], "t")


def test_too_few_rows_and_one_batch_are_not_identifiable(tables: KernelTables) -> None:
    accelerator = hardware_specs.load("h100")
    bf16 = where(tables.linear, tables.linear["dtype"] == "bf16")
    with pytest.raises(UsageError, match="10 usable rows, the fit needs 40"):
        fit_linear(where(bf16, np.arange(len(bf16["m"])) < 10), accelerator, "bf16")
    many = {name: np.repeat(column, 12) for name, column in bf16.items()}
    with pytest.raises(UsageError, match="1 different value"):
        fit_linear(where(many, many["m"] == 1), accelerator, "bf16")


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("latency_us", "latency", "no column latency_us"),
        ("bfloat16,16,4096,4096,", "bfloat16,-16,4096,4096,", "row 10, column m: -16 is not"),
        ("bfloat16,16,4096,4096,", "bfloat16,0,4096,4096,", "row 10, column m: 0 is not"),
        ("bfloat16,16,4096,4096,", "bfloat16,abc,4096,4096,", "row 10, column m: 'abc' is not"),
        ("bfloat16,16,4096,4096,", "bfloat16,,4096,4096,", "row 10, column m: nan is not"),
        ("latency_us", "m", "has column m twice"),
        ("15.790,false", "15.790,maybe", "row 1, column l2_risk: 'maybe' is not true or false"),
        ("bfloat16,16,4096,4096,", "bfloat16,16,nan,4096,", "row 10, column n: nan is not"),
        ("bfloat16,16,4096,4096,", "bfloat16,1,4096,4096,", "repeats the key of row 1"),
        ("\nh100_sxm,vllm,1.2.3,bfloat16,16,4096,4096,", "\nh100_sxm,,1.2.3,bfloat16,16,4096,4096,",
         "column framework"),
    ],
)  # fmt: skip
def test_a_bad_table_names_file_column_and_row(
    tmp_path: Path, old: str, new: str, wrong: str
) -> None:
    text = (KERNELS / "gemm.csv").read_text()
    assert old in text
    (tmp_path / "gemm.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError, match=rf"gemm\.csv.*{wrong}"):
        read_tables(tmp_path)


def test_a_time_that_is_zero_or_text(tmp_path: Path) -> None:
    lines = (KERNELS / "gemm.csv").read_text().splitlines()
    for bad in ("0", "-3", "fast"):
        cells = lines[4].split(",")
        cells[7] = bad
        (tmp_path / "gemm.csv").write_text("\n".join([*lines[:4], ",".join(cells), *lines[5:]]))
        with pytest.raises(SpecError, match=r"gemm\.csv: row 4, column latency_us"):
            read_tables(tmp_path)


@pytest.mark.parametrize("name", ["gemm", "decode_attention", "allreduce"])
def test_a_header_alone_and_text_in_any_number_column_are_refused(
    tmp_path: Path, name: str
) -> None:
    header, first, *rest = (KERNELS / f"{name}.csv").read_text().splitlines()
    path = tmp_path / f"{name}.csv"
    path.write_text(header + "\n")
    with pytest.raises(SpecError, match=rf"{name}\.csv: holds no row"):
        read_tables(tmp_path)
    texts = {"gpu", "framework", "version", "dtype", "q_dtype", "kv_dtype", "mode", "l2_risk"}
    for index, column in enumerate(header.split(",")):
        if column in texts:
            continue
        for bad in ("abc", "nan", "-1", "inf", "true"):
            cells = first.split(",")
            cells[index] = bad
            path.write_text("\n".join([header, ",".join(cells), *rest]))
            with pytest.raises(SpecError, match=f"row 1, column {column}: '?{bad}'? is not"):
                read_tables(tmp_path)


def test_half_of_a_table_above_the_roof_is_refused_by_its_file(tmp_path: Path) -> None:
    header, *rows = (KERNELS / "gemm.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    mixed = [[*c[:7], str(float(c[7]) / 8), c[8]] if i % 2 else c for i, c in enumerate(cells)]
    (tmp_path / "gemm.csv").write_text("\n".join([header, *map(",".join, mixed)]))
    (found,) = fit_groups(read_tables(tmp_path))
    for part in ("linear.bf16", "linear.fp8"):
        assert re.search(r"gemm\.csv: .* % of the rows beat .* another unit", found.refused[part])


def test_a_fit_that_says_less_than_the_datasheet_is_refused(tables: KernelTables) -> None:
    rows = where(tables.linear, tables.linear["dtype"] == "bf16")
    machine = Machine(accelerator=hardware_specs.load("h100"), calibration=ideal())
    rows = rows | {"seconds": linear_seconds_of(rows, machine, "bf16") * (1 + 1e-9)}
    with pytest.raises(UsageError, match=r"gemm\.csv: the fit is .* the naive roofline 0\.0 %"):
        fit_linear(rows, machine.accelerator, "bf16")


def test_an_unknown_gpu_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no gemm"):
        read_tables(tmp_path)
    text = (KERNELS / "gemm.csv").read_text()
    (tmp_path / "gemm.csv").write_text(text.replace("h100_sxm", "h900_sxm"))
    with pytest.raises(SpecError, match=r"gemm\.csv: row 1, column gpu: .*h900_sxm"):
        read_tables(tmp_path)


def perf(folder: Path, name: str = "gemm_perf.parquet", **changed: Any) -> None:
    """A table of the public tree: repeats of one key, and a row of another version."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    columns = {
        "version": ["0.19.0"] * 3 + ["0.14.0"],
        "gemm_dtype": ["bfloat16"] * 4,
        "m": [1, 1, 1, 2],
        "n": [4096] * 4,
        "k": [4096] * 4,
        "latency": [0.010, 0.012, 0.020, 0.010],
    }
    folder.mkdir(parents=True, exist_ok=True)
    table, path = pa.table(columns | changed), folder / name
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        csv.write_csv(table, path)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("systems/data/h100_sxm/gemm/vllm/0.19.0", "gemm_perf.parquet"),
        ("systems/data/h100_sxm/vllm/0.19.0", "gemm_perf.parquet"),
        ("systems/data/h100_sxm/vllm/0.19.0", "gemm_perf.txt"),
    ],
)
def test_the_public_tree_is_read_in_milliseconds_and_repeats_become_medians(
    tmp_path: Path, place: str, name: str
) -> None:
    perf(tmp_path / place, name)
    found = read_tables(tmp_path)
    assert found.groups() == [("h100_sxm", "vllm", "0.19.0")]  # the carried row is dropped
    assert found.linear["seconds"].tolist() == [pytest.approx(12e-6)]
    assert read_tables(tmp_path / "systems" / "data" / "h100_sxm").groups() == found.groups()


def test_an_unknown_gpu_of_the_public_tree_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "systems" / "data"
    perf(data / "z9000_sxm" / "gemm" / "vllm" / "0.19.0")
    with pytest.raises(SpecError, match=r"gemm_perf\.parquet: the GPU of its folder: .*z9000_sxm"):
        read_tables(tmp_path)
    perf(data / "h100_sxm" / "gemm" / "vllm" / "0.19.0")
    assert read_tables(tmp_path).groups() == [("h100_sxm", "vllm", "0.19.0")]
    assert capsys.readouterr().err.count("left out: unknown accelerator 'z9000_sxm'") == 1


def test_a_bad_row_of_the_public_tree_is_named(tmp_path: Path) -> None:
    perf(tmp_path / "data" / "h100_sxm" / "gemm" / "vllm" / "0.19.0", m=[1, 0, 1, 2])
    with pytest.raises(SpecError, match=r"gemm_perf\.parquet: row 2, column m: 0 is not"):
        read_tables(tmp_path)
