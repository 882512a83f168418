"""Tables of grouped products of experts and of prompts' attention, from disk to checked columns.

They hold millions of rows where a fit of a few constants needs thousands: rows that a fit must not
see are left out as they are read, and every kernel keeps as many of the rest, evenly drawn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.calibrate.kernel_tables import DTYPES, STACKS, Columns, KernelTables, where
from magicplan.errors import MissingExtra, SpecError

MOST_ROWS = 6000
"""Most rows that are kept of one GPU, stack, version, format and kernel."""
MOST_TOKENS = 16384
"""Most tokens that a group of ranks works on at once: twice the largest chunk of a prompt. Rows
with more are left out."""
LEAST_WIDTH = 128
"""Columns of an expert on one rank: narrower ones are split further than engines serve them."""
MOST_RANKS = 64
USUAL_WIDTH = 128
"""Numbers of an attention head. Kernels for others are tuned less, each in its own way."""
FORMATS = {
    "bfloat16": "bf16", "fp8_block": "fp8", "fp8": "fp8", "nvfp4": "fp4", "int4_wo": "int4",
    "w4a16_mxfp4": "int4",
}  # fmt: skip
"""How the source names a format of weights, the better known first: published 8-bit experts have
scales by blocks, and weight-only 4-bit ones are Marlin's where a stack has both."""
SPREAD_GATE = "moe_torch_flow_min_latency"
"""A kernel whose balanced rows were routed in groups, to fewer experts than stated."""
EXPERTS = (
    "tokens", "hidden", "expert_ffn", "top_k", "experts", "tp", "ep", "active_experts",
    "rank_pairs", "expert_weight_bytes",
)  # fmt: skip
PROMPTS = ("batch", "new_tokens", "q_heads", "kv_heads", "head_dim", "window", "pairs_per_head")


def with_experts_and_prompts(tables: KernelTables, folder: Path) -> KernelTables:
    """Kernel tables with a folder's tables of experts (moe.parquet) and of prompts' attention
    (prefill_attention.parquet) added, where it has them."""
    experts, prompts = folder / "moe.parquet", folder / "prefill_attention.parquet"
    return replace(
        tables,
        experts=read_experts(experts) if experts.exists() else {},
        prompts=read_prompts(prompts) if prompts.exists() else {},
    )


def read_experts(path: Path) -> Columns:
    """Grouped products of one layer on one rank: the columns `EXPERTS`, `format`, `quant` and
    seconds. Rows whose weights were in L2, that are suspect or that no engine serves are left out.

    Raises SpecError.
    """
    names = ("quant", "kernel_source", "distribution", "gated", "l2_risk")
    rows = _read(path, (*EXPERTS, *names))
    rows["format"] = np.asarray([FORMATS.get(q, "") for q in rows["quant"]], dtype=object)
    odd = (rows["kernel_source"] == SPREAD_GATE) & (rows["distribution"] == "balanced")
    rows = where(
        rows,
        (rows["format"] != "") & ~rows["l2_risk"].astype(bool) & rows["gated"].astype(bool) & ~odd
        & (rows["tokens"] <= MOST_TOKENS) & (rows["ep"] <= MOST_RANKS)
        & (rows["expert_ffn"] >= LEAST_WIDTH * rows["tp"]),
    )  # fmt: skip
    return thinned(_preferred(rows), ("gpu", "framework", "version", "quant"))


def read_prompts(path: Path) -> Columns:
    """Causal attention of whole prompts: the columns `PROMPTS`, `kv_dtype` and seconds, of heads
    of the usual width that see everything. Suspect rows are left out. Raises SpecError."""
    rows = _read(path, (*PROMPTS, "kv_dtype"))
    rows["kv_dtype"] = np.asarray([DTYPES.get(v, "") for v in rows["kv_dtype"]], dtype=object)
    usual = (rows["head_dim"] == USUAL_WIDTH) & (rows["window"] == 0) & (rows["kv_dtype"] != "")
    return thinned(where(rows, usual), ("gpu", "framework", "version", "kv_dtype"))


def thinned(rows: Columns, keys: tuple[str, ...]) -> Columns:
    """At most `MOST_ROWS` of each combination of `keys`, evenly drawn from its order."""
    group = _codes(rows, keys)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    step = np.maximum(size / MOST_ROWS, 1.0)
    kept = np.floor(place / step) != np.floor((place - 1) / step)
    return where(rows, np.sort(order[kept]))


def _preferred(rows: Columns) -> Columns:
    """Rows of the kernel that engines pick: where several run the same shapes, the one that is
    faster at most of them."""
    if not len(rows["seconds"]):
        return rows
    stack = ("gpu", "framework", "version", "quant")
    shape = _codes(rows, (*stack, "distribution", *EXPERTS[:7]))
    group, kernel = _codes(rows, stack), _codes(rows, (*stack, "kernel_source"))
    order = np.lexsort((rows["seconds"], shape))
    first = np.flatnonzero(np.diff(shape[order], prepend=-1))
    shared = np.bincount(shape)[shape] > 1
    wins, met = np.zeros(kernel.max() + 1), np.bincount(kernel[shared], minlength=kernel.max() + 1)
    winners = order[first]
    np.add.at(wins, kernel[winners[shared[winners]]], 1)
    share = wins / np.maximum(met, 1)
    best = np.zeros(group.max() + 1)
    np.maximum.at(best, group[shared], share[kernel[shared]])
    return where(rows, (met[kernel] == 0) | (share[kernel] == best[group]))


def _codes(rows: Columns, keys: tuple[str, ...]) -> NDArray[np.int64]:
    """One number for each combination of `keys` that occurs."""
    code = np.zeros(len(rows["seconds"]), dtype=np.int64)
    for key in keys:
        values, mine = np.unique(rows[key], return_inverse=True)
        code = np.unique(code * len(values) + mine, return_inverse=True)[1]
    return code


def _read(path: Path, names: tuple[str, ...]) -> Columns:
    """Rows of known stacks that are not suspect, texts as objects and numbers as float64."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("reading kernel tables", "data") from None
    wanted = ("gpu", "framework", "version", *names, "latency_us")
    try:
        have = parquet.read_schema(path).names
        missing = [name for name in wanted if name not in have]
        if missing:
            raise SpecError(path, f"has no column {', '.join(missing)}")
        extra = [name for name in ("suspect",) if name in have]
        table = parquet.read_table(path, columns=[*wanted, *extra])
        known = pc.is_in(table["framework"].cast(pa.string()), pa.array(list(STACKS)))
        if extra:
            known = pc.and_(known, pc.equal(table["suspect"].cast(pa.string()), ""))
        table = table.filter(known)
        columns: Columns = {name: _values(table[name]) for name in wanted}
    except (pa.ArrowException, OSError) as problem:
        raise SpecError(path, f"cannot be read as a table ({problem})") from None
    seconds = columns.pop("latency_us")
    if seconds.dtype == object or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise SpecError(path, "column latency_us holds what is not a positive number")
    columns["seconds"] = seconds * 1e-6
    columns["file"] = np.full(len(seconds), str(path), dtype=object)
    return columns


def _values(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        coded = column.combine_chunks()
        coded = coded if pa.types.is_dictionary(kind) else coded.dictionary_encode()
        texts = np.asarray(coded.dictionary.to_pylist(), dtype=object)
        return np.asarray(texts[np.asarray(coded.indices)])
    if pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
