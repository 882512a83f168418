"""Steps put together from a table of kernel times: the truth that predictions are held against.

A pass is its linear layers (interpolated in the logarithms of n and k, at a tabled m), its
attention (a tabled row, nothing interpolated) and, under tensor parallelism, its all-reduces.
Weights that stayed in L2 between repetitions are left out: an engine reads them from memory.
Verification of T tokens by a kernel that packs them reads the row with T times the query heads.
The LM head, element-wise ops and the host are in no table and left out on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from magicplan.calibrate.kernel_tables import Columns, KernelTables, where
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.timing import Machine, step_cost
from magicplan.roofline.traffic import Op, Pass, forward

BUDGET = 512
"""Tokens of KV that a draft step reads."""


@dataclass(frozen=True, slots=False, kw_only=True)
class Bench:
    """The bf16 kernels of one GPU, stack and version, and its L2."""

    tables: KernelTables
    l2_bytes: float

    @cached_property
    def _linear(self) -> dict[float, RegularGridInterpolator]:
        linear = self.tables.linear
        warm = np.asarray(linear.get("l2_risk", np.zeros(len(linear["seconds"]))), np.bool_)
        rows = where(linear, (linear["dtype"] == "bf16") & ~warm)
        grids = {}
        for m in np.unique(rows["m"]):
            grid = _grid(where(rows, rows["m"] == m))
            if grid is not None:
                grids[float(m)] = grid
        return grids

    @cached_property
    def _attention(self) -> dict[tuple[float, ...], float]:
        a = self.tables.attention
        rows = where(a, (a["kv_dtype"] == "bf16") & (a["window"] == 0))
        names = ("q_heads", "kv_heads", "head_dim", "batch", "kv_len")
        keys = np.stack([rows[name].astype(float) for name in names], axis=1)
        return {tuple(k): t for k, t in zip(keys.tolist(), rows["seconds"].tolist(), strict=True)}

    def pass_seconds(
        self, model: ModelShape, tp: int, batch: int, kv_len: int, tokens: int = 1
    ) -> float | None:
        """Measured seconds of one pass, or `None` where a table does not reach."""
        key = (
            tokens * model.q_heads / tp, max(model.kv_heads / tp, 1.0), model.head_dim, batch,
            kv_len,
        )  # fmt: skip
        attention, grid = self._attention.get(key), self._linear.get(float(batch * tokens))
        if attention is None or grid is None:
            return None
        total = model.layers * attention
        for op in _kernels(model, tp, batch, kv_len, tokens):
            if op.kind == "linear":
                seconds = float(np.exp(grid(np.log(_shape(op, batch * tokens)))[0]))
            elif op.kind == "collective" and tp > 1:
                seconds = self._all_reduce(tp, float(op.payload_bytes))
            else:
                continue
            total += float(op.count) * seconds
        return total if np.isfinite(total) else None

    def _all_reduce(self, ranks: int, size: float) -> float:
        table = self.tables.collective
        if not table:
            return np.nan
        rows = where(table, table["num_gpus"] == ranks)
        order = np.argsort(rows["bytes"])
        sizes, seconds = rows["bytes"][order], rows["seconds"][order]
        if len(sizes) < 2 or not sizes[0] <= size <= sizes[-1]:
            return np.nan
        return float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(seconds))))

    def cold(self, model: ModelShape, tp: int, batch: int, kv_len: int) -> bool:
        """Whether a layer's cache is at least twice L2, as in serving."""
        token = 4 * max(model.kv_heads / tp, 1.0) * model.head_dim
        return batch * kv_len * token >= 2 * self.l2_bytes


def predicted_seconds(
    machine: Machine, model: ModelShape, tp: int, batch: int, kv_len: int, tokens: int = 1
) -> float:
    """The same pass by a machine's calibration."""
    return float(step_cost(_kernels(model, tp, batch, kv_len, tokens), machine).seconds)


def _kernels(model: ModelShape, tp: int, batch: int, kv_len: int, tokens: int) -> list[Op]:
    """A table's kv_len includes the new tokens, a pass's context does not."""
    work = Pass(batch=float(batch), ctx=float(kv_len - tokens), query_tokens=float(tokens))
    ops = forward(model, Deployment(tp=float(tp)), work)
    return [o for o in ops if o.kind != "elementwise" and o.name != "lm_head"]


def _shape(op: Op, rows: float) -> tuple[float, float]:
    """(n, k) of a linear op, from n k and n + k."""
    product, total = op.weight_bytes / 2, op.activation_bytes / 2 / rows
    root = np.sqrt(max(total**2 - 4 * product, 0.0))
    return (total + root) / 2, (total - root) / 2


def _grid(rows: Columns) -> RegularGridInterpolator | None:
    n, at_n = np.unique(rows["n"], return_inverse=True)
    k, at_k = np.unique(rows["k"], return_inverse=True)
    if len(n) < 2 or len(k) < 2:
        return None
    table: Array = np.full((len(n), len(k)), np.nan)
    table[at_n, at_k] = np.log(rows["seconds"])
    logs = (np.log(n), np.log(k))
    return RegularGridInterpolator(logs, table, bounds_error=False, fill_value=np.nan)
