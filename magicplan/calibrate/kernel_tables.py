"""Tables of measured kernel times, from disk to checked columns.

Two layouts are read: three flat tables (gemm, decode_attention and allreduce, as .parquet or .csv,
times in microseconds, and beside them those of one GPU, as gemm_h200), and a checkout of NVIDIA's
aiconfigurator (Apache-2.0), whose tree `systems/data/GPU/KIND/FRAMEWORK/VERSION/*_perf.parquet`
counts in milliseconds. Older checkouts have no KIND, and CSV under the name *_perf.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from magicplan import hardware_specs
from magicplan.errors import MissingExtra, SpecError, UnknownName
from magicplan.hardware_specs.accelerator import Accelerator

Columns = dict[str, NDArray[Any]]
"""Equally long columns by name. Times are seconds under `seconds`; `file` and `row`, counted from
1, name the source."""
DTYPES = {"bfloat16": "bf16", "bf16": "bf16", "half": "bf16", "float16": "bf16", "fp8": "fp8"}
STACKS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm"}
GEMM = ("dtype", "m", "n", "k")
ATTENTION = ("kv_dtype", "batch", "q_heads", "kv_heads", "head_dim", "kv_len", "window")
ALLREDUCE = ("mode", "num_gpus", "bytes")
MODES = ("graph", "eager", "nccl_tests")
"""All-reduces inside CUDA graphs, launched by the host one by one, and by NVIDIA's own tests."""
TEXTS = (
    "gpu", "framework", "version", "kernel_source", "dtype", "q_dtype", "kv_dtype", "mode",
    "gemm_dtype", "kv_cache_dtype", "suspect",
)  # fmt: skip
BELIEVED = ("", "slow_fallback")
"""What a row may be suspected of: a slow kernel is a kernel."""
MAY_BE_ZERO = ("window", "window_size", "num_key_value_heads", "isl", "step")
"""0 is no window, as many KV heads as query heads, and a cache counted in the other column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTables:
    """Every row that was read and passed the checks, of all GPUs, stacks and versions."""

    linear: Columns
    attention: Columns
    collective: Columns
    """All-reduces inside CUDA graphs."""
    eager: Columns
    """All-reduces that the host launches one by one."""
    experts: Columns = field(default_factory=dict)
    """Grouped products of a layer's experts (`expert_tables`)."""
    prompts: Columns = field(default_factory=dict)
    """Attention of whole prompts."""

    def groups(self) -> list[tuple[str, str, str]]:
        """(gpu, stack, version) that have linear or attention rows, sorted."""
        found: set[tuple[str, str, str]] = set()
        for table in (self.linear, self.attention):
            if table:
                names = (table[name] for name in ("gpu", "framework", "version"))
                found |= set(zip(*names, strict=True))
        return sorted(found, key=lambda key: (key[0], key[1], Version(key[2])))

    def of(self, gpu: str, stack: str, version: str) -> KernelTables:
        """The rows of one group."""
        wanted = {"gpu": gpu, "framework": stack, "version": version}

        def pick(table: Columns) -> Columns:
            return where(table, matches(table, wanted)) if table else table

        return KernelTables(
            linear=pick(self.linear),
            attention=pick(self.attention),
            collective=pick(self.collective),
            eager=pick(self.eager),
            experts=pick(self.experts),
            prompts=pick(self.prompts),
        )


def matches(table: Columns, wanted: dict[str, str]) -> NDArray[np.bool_]:
    """Rows whose columns hold these texts."""
    masks = [table[name] == value for name, value in wanted.items()]
    return np.asarray(np.logical_and.reduce(masks), dtype=np.bool_)


def where(table: Columns, mask: NDArray[Any]) -> Columns:
    """The rows of a mask or of indices."""
    return {name: column[mask] for name, column in table.items()}


def accelerator_of(gpu: str) -> Accelerator:
    """The datasheet of a table's GPU, as "a100_sxm". Raises UnknownName."""
    return hardware_specs.load(gpu)


def read(folder: Path) -> KernelTables:
    """Read and check a folder. Raises SpecError naming file, column and row.

    GPUs of an aiconfigurator tree that have no datasheet here are left out and named on stderr.
    """
    if not folder.is_dir():
        raise SpecError(folder, "is not a folder of kernel tables")
    tables: dict[str, list[Columns]] = {"gemm": [], "decode_attention": [], "allreduce": []}
    found = list(_flat(folder)) or list(_aiconfigurator(folder))
    if not found:
        raise SpecError(
            folder,
            "holds no gemm, decode_attention or allreduce table (.parquet or .csv) and no "
            "aiconfigurator tree (systems/data/GPU/gemm/FRAMEWORK/VERSION/gemm_perf.parquet)",
        )
    for kind, columns in found:
        tables[kind].append(columns)
    if not any(len(columns["seconds"]) for _, columns in found):
        raise SpecError(
            folder,
            f"holds no usable row in {len(found)} tables: usable are rows of the frameworks "
            f"{', '.join(STACKS)} in bf16 or fp8, of their folder's own version",
        )
    reduces = _joined(tables["allreduce"])
    return KernelTables(
        linear=_joined(tables["gemm"]),
        attention=_joined(tables["decode_attention"]),
        collective=where(reduces, matches(reduces, {"mode": "graph"})) if reduces else {},
        eager=where(reduces, matches(reduces, {"mode": "eager"})) if reduces else {},
    )


def _joined(parts: list[Columns]) -> Columns:
    parts = [part for part in parts if len(part["seconds"])]
    if not parts:
        return {}
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}


def _flat(folder: Path) -> Iterator[tuple[str, Columns]]:
    for kind, keys in (("gemm", GEMM), ("decode_attention", ATTENTION), ("allreduce", ALLREDUCE)):
        for path in _flat_files(folder, kind):
            columns = _columns(path)
            _check(path, columns, ("gpu", "framework", "version", *keys, "latency_us"))
            _known_gpus(path, columns["gpu"])
            _known_modes(path, columns)
            columns["seconds"] = columns.pop("latency_us") * 1e-6
            _no_duplicates(path, columns, ("gpu", "framework", "version", *keys))
            usable = _normal(_from_file(path, columns))
            _known_versions(path, usable)
            yield kind, usable


def _flat_files(folder: Path, kind: str) -> list[Path]:
    """The table of that kind, and those of single GPUs beside it: gemm and gemm_h200."""
    found = []
    for path in sorted(folder.glob(f"{kind}*")):
        gpu = path.stem.removeprefix(kind).removeprefix("_")
        if path.suffix in (".parquet", ".csv") and (not gpu or _is_gpu(gpu)):
            found.append(path)
    return found


def _is_gpu(text: str) -> bool:
    try:
        accelerator_of(text)
    except UnknownName:
        return False
    return True


def _from_file(path: Path, columns: Columns) -> Columns:
    rows = len(columns["seconds"])
    return columns | {"file": np.full(rows, str(path), dtype=object), "row": np.arange(rows) + 1}


def _known_modes(path: Path, columns: Columns) -> None:
    for row, mode in enumerate(columns.get("mode", ())):
        if mode not in MODES:
            known = ", ".join(MODES)
            raise SpecError(path, f"row {row + 1}, column mode: {mode!r} is none of {known}")


def _known_versions(path: Path, usable: Columns) -> None:
    for version in np.unique(usable["version"]):
        try:
            Version(version)
        except InvalidVersion:
            raise SpecError(path, f"column version: {version!r} is no version") from None


def _known_gpus(path: Path, gpus: NDArray[Any]) -> None:
    _, rows = np.unique(gpus, return_index=True)
    for row in sorted(rows.tolist()):
        try:
            accelerator_of(gpus[row])
        except UnknownName as problem:
            raise SpecError(path, f"row {row + 1}, column gpu: {problem}") from None


def _columns(path: Path) -> Columns:
    """A parquet or CSV file as numpy columns: numbers as float64, texts as objects.

    A column of numbers that holds anything else comes as texts, for `_check` to name the row.
    """
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError:
        raise MissingExtra("reading kernel tables", "data") from None
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            # in one block, so that a text far down makes its column one of texts
            whole = csv.ReadOptions(block_size=path.stat().st_size + 1)
            table = csv.read_csv(path, read_options=whole)
    except (pa.ArrowException, OSError) as problem:
        raise SpecError(path, f"cannot be read as a table ({problem})") from None
    names = table.column_names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpecError(path, f"has column {twice[0]} twice")
    columns: Columns = {}
    for name in names:
        try:
            columns[name] = _column(name, table[name])
        except pa.ArrowException as problem:
            raise SpecError(path, f"column {name} cannot be read ({problem})") from None
    return columns


def _column(name: str, column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if name == "l2_risk" and pa.types.is_boolean(column.type):
        return np.asarray(column.to_pylist(), dtype=np.bool_)
    if name not in TEXTS and not pa.types.is_boolean(column.type):
        try:
            return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            pass
    texts = np.asarray(column.cast(pa.string()).to_pylist(), dtype=object)
    return np.where(texts == None, "", texts)  # noqa: E711


def _check(path: Path, columns: Columns, needed: tuple[str, ...]) -> None:
    """Every needed column is there and holds a row, every number is finite and positive."""
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SpecError(path, f"has no column {', '.join(missing)}; it needs {', '.join(needed)}")
    if not len(columns[needed[0]]):
        raise SpecError(path, "holds no row")
    for name in needed:
        _check_column(path, name, columns[name])
    if columns.get("l2_risk", np.zeros(0)).dtype == object:
        row = next(i for i, v in enumerate(columns["l2_risk"]) if v not in ("true", "false"))
        value = columns["l2_risk"][row]
        raise SpecError(path, f"row {row + 1}, column l2_risk: {value!r} is not true or false")


def _check_column(path: Path, name: str, values: NDArray[Any]) -> None:
    wanted = "a number of 0 or more" if name in MAY_BE_ZERO else "a positive number"
    if name in TEXTS:
        bad, wanted = (values == "") & (name != "kernel_source"), "a name"
    elif values.dtype == object:
        bad = np.asarray([not _is_number(value) for value in values])
        bad = bad if bad.any() else np.ones(len(values), dtype=np.bool_)
    else:
        low = 0.0 if name in MAY_BE_ZERO else np.nextafter(0.0, 1.0)
        bad = ~(np.isfinite(values) & (values >= low))
    if bad.any():
        row = int(bad.argmax())
        value = values[row] if values.dtype == object else values[row].item()
        shown = repr(value) if isinstance(value, str) else f"{value:g}"
        raise SpecError(path, f"row {row + 1}, column {name}: {shown} is not {wanted}")


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _no_duplicates(path: Path, columns: Columns, keys: tuple[str, ...]) -> None:
    keys = (*keys, *(k for k in ("kernel_source", "q_dtype", "mode") if k in columns))
    names = [np.unique(columns[key], return_inverse=True)[1] for key in keys]
    _, first, inverse = np.unique(np.stack(names), axis=1, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(names[0])))
    if again.size:
        row, earlier = int(again[0]), int(first[inverse.ravel()[again[0]]])
        raise SpecError(
            path, f"row {row + 1} repeats the key of row {earlier + 1} ({', '.join(keys)})"
        )


def _normal(columns: Columns) -> Columns:
    """Names as the package spells them; rows of other number formats and stacks left out."""
    for name in ("dtype", "kv_dtype"):
        if name in columns:
            columns[name] = np.asarray([DTYPES.get(v, "") for v in columns[name]], dtype=object)
    known = np.asarray([v in STACKS for v in columns["framework"]], dtype=np.bool_)
    for name in ("dtype", "kv_dtype"):
        if name in columns and "mode" not in columns:
            known &= columns[name] != ""
    if "suspect" in columns:
        known &= np.isin(columns["suspect"].astype(str), BELIEVED)
    return where(columns, known)


def _aiconfigurator(folder: Path) -> Iterator[tuple[str, Columns]]:
    unknown: dict[str, tuple[Path, str]] = {}
    known = False
    for kind, name, translate in (
        ("gemm", "gemm_perf", _gemm),
        ("decode_attention", "generation_attention_perf", _attention),
        ("allreduce", "custom_allreduce_perf", _allreduce),
    ):
        for path in _tree_files(folder, name):
            gpu, framework, version = _place(path)
            try:
                accelerator_of(gpu)
            except UnknownName as problem:
                unknown.setdefault(gpu, (path, str(problem)))
                continue
            known = True
            columns = _from_file(path, translate(path, _columns(path)))
            # a file whose rows name another version was carried forward and tests nothing
            columns = where(columns, columns["version"] == version)
            rows = len(columns["seconds"])
            for key, value in (("gpu", gpu), ("framework", framework), ("version", version)):
                columns[key] = np.full(rows, value, dtype=object)
            usable = _normal(columns)
            _known_versions(path, usable)
            yield kind, _medians(usable)
    for path, line in unknown.values():
        if not known:
            raise SpecError(path, f"the GPU of its folder: {line}")
        sys.stderr.write(f"{folder}: left out: {line}\n")


def _tree_files(folder: Path, name: str) -> list[Path]:
    """One file a folder, parquet rather than text."""
    found: dict[Path, Path] = {}
    for suffix in (".parquet", ".txt"):
        for path in sorted(folder.resolve().rglob(name + suffix)):
            found.setdefault(path.parent, path)
    return sorted(found.values())


def _place(path: Path) -> tuple[str, str, str]:
    """GPU, framework and version of a path `data/GPU[/KIND]/FRAMEWORK/VERSION/FILE`."""
    *_, gpu, kind, framework, version = ("",) * 5 + path.parts[:-1]
    return (kind if gpu == "data" else gpu), framework, version


def _gemm(path: Path, c: Columns) -> Columns:
    _check(path, c, ("gemm_dtype", "m", "n", "k", "latency", "version"))
    keep = ("version", "m", "n", "k")
    return {**{k: c[k] for k in keep}, "dtype": c["gemm_dtype"], "seconds": c["latency"] * 1e-3}


def _attention(path: Path, c: Columns) -> Columns:
    c.setdefault("window_size", np.zeros(len(c.get("latency", ()))))
    _check(
        path,
        c,
        (
            "kv_cache_dtype",
            "batch_size",
            "num_heads",
            "num_key_value_heads",
            "head_dim",
            "window_size",
            "isl",
            "step",
            "latency",
            "version",
        ),
    )
    heads, kv_heads = c["num_heads"], c["num_key_value_heads"]
    return {
        "version": c["version"],
        "kv_dtype": c["kv_cache_dtype"],
        "batch": c["batch_size"],
        "q_heads": heads,
        "kv_heads": np.where(kv_heads > 0, kv_heads, heads),
        "head_dim": c["head_dim"],
        "kv_len": c["isl"] + c["step"],
        "window": c["window_size"],
        "seconds": c["latency"] * 1e-3,
    }


def _allreduce(path: Path, c: Columns) -> Columns:
    _check(path, c, ("num_gpus", "message_size", "latency", "version", "kernel_source"))
    eager = np.asarray([str(s).endswith("_eager") for s in c["kernel_source"]])
    return {
        "version": c["version"],
        "mode": np.where(eager, "eager", "graph").astype(object),
        "num_gpus": c["num_gpus"],
        "bytes": c["message_size"] * 2,  # the source counts 16-bit elements
        "seconds": c["latency"] * 1e-3,
    }


def _medians(columns: Columns) -> Columns:
    """One row a key, the first: repeated measurements become their median."""
    keys = [name for name in columns if name not in ("seconds", "row")]
    codes = np.stack([np.unique(columns[key], return_inverse=True)[1] for key in keys])
    if codes.shape[1] == 0:
        return columns
    _, first, inverse = np.unique(codes, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    edges = np.flatnonzero(np.diff(inverse.ravel()[order])) + 1
    medians = [np.median(part) for part in np.split(columns["seconds"][order], edges)]
    return {**where(columns, first), "seconds": np.asarray(medians)}
