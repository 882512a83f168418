"""Fits recover the constants that made a table, and bad tables are refused by file and row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from magicplan import hardware_specs
from magicplan.errors import SpecError, UnknownName, UsageError
from magicplan.hardware_specs.calibration_files import calibration_for, read
from magicplan.validate.calibrate import Group, complete, document, fit_groups, write
from magicplan.validate.fit import fit_linear
from magicplan.validate.kernel_tables import KernelTables, where
from magicplan.validate.kernel_tables import read as read_tables

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


def test_held_out_errors_are_the_noise_and_the_naive_roofline_is_worse(group: Group) -> None:
    for part, fitted in group.fits.items():
        assert fitted.held_out.mape < 4, part
        assert fitted.naive.mape > 3 * fitted.held_out.mape, part


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
        ("bfloat16,16,4096,4096,", "bfloat16,-16,4096,4096,", "column m"),
        ("bfloat16,16,4096,4096,", "bfloat16,16,nan,4096,", "column n"),
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
        with pytest.raises(SpecError, match="latency_us"):
            read_tables(tmp_path)


def test_an_unknown_gpu_an_empty_folder_and_another_unit(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no gemm"):
        read_tables(tmp_path)
    text = (KERNELS / "gemm.csv").read_text()
    (tmp_path / "gemm.csv").write_text(text.replace("h100_sxm", "h900_sxm"))
    with pytest.raises(UnknownName, match="h900-sxm"):
        fit_groups(read_tables(tmp_path))
    header, *rows = (KERNELS / "decode_attention.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    in_ms = [",".join([*c[:-1], str(float(c[-1]) / 1e3)]) for c in cells]
    (tmp_path / "gemm.csv").write_text(text)
    (tmp_path / "decode_attention.csv").write_text("\n".join([header, *in_ms]))
    (found,) = fit_groups(read_tables(tmp_path))
    assert "another unit" in found.refused["attention.bf16"]


def test_the_public_tree_is_read_in_milliseconds_and_repeats_become_medians(
    tmp_path: Path,
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path / "systems" / "data" / "h100_sxm" / "gemm" / "vllm" / "0.19.0"
    folder.mkdir(parents=True)
    columns = {
        "version": ["0.19.0"] * 3 + ["0.14.0"],
        "gemm_dtype": ["bfloat16"] * 4,
        "m": [1, 1, 1, 2],
        "n": [4096] * 4,
        "k": [4096] * 4,
        "latency": [0.010, 0.012, 0.020, 0.010],
    }
    parquet.write_table(pa.table(columns), folder / "gemm_perf.parquet")
    found = read_tables(tmp_path)
    assert found.groups() == [("h100_sxm", "vllm", "0.19.0")]  # the carried row is dropped
    assert found.linear["seconds"].tolist() == [pytest.approx(12e-6)]
