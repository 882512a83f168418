"""Which tile and how many work items: one small table, read by launchers, tests and benchmarks.

The tile holds `rows` query rows (group x tokens) and `slots` slots of one KV head. A work item is
a run of tiles of one sequence; items are dealt on the device, so that a graph stays right while
lengths grow. Values come from compilation (registers, shared memory) and arithmetic; what a GPU
says about them is in benchmarks/.
"""

from __future__ import annotations

from dataclasses import dataclass

SMS_UNKNOWN = 132
"""Streaming multiprocessors assumed where there is no GPU (cross-compilation, the interpreter)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """rows, slots of the score tile; warps, stages of a program; programs resident on an SM."""

    rows: int
    slots: int
    warps: int
    stages: int
    resident: int


def next_power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def tile(*, query_rows: int, dim: int, element_bytes: int, page_size: int, arch: int) -> Tile:
    """The tile for `query_rows` = group x tokens rows of `dim` on compute capability arch (80, 90).

    A tile never spans pages where pages are at least a tile, so that one page id serves it.
    """
    rows = min(64, max(16, next_power(query_rows)))
    wide = next_power(dim) * element_bytes >= 512
    slots = 32 if wide else 64
    if 16 <= page_size < slots:
        slots = next_power(page_size) if next_power(page_size) == page_size else slots
    warps = 8 if rows == 64 and arch < 90 else 4
    stages = 2 if wide or arch in (86, 89) else 3
    return Tile(rows=rows, slots=slots, warps=warps, stages=stages, resident=2)


def work_items(*, batch: int, parallel: int, blocks: int, least: int, sms: int, tile: Tile) -> int:
    """Items dealt among the sequences of a batch: enough to fill the GPU once.

    parallel: programs an item (KV heads x row blocks). blocks: tiles of the longest possible
    sequence. least: tiles an item has at least. A sequence gets one item whatever its length, so
    the launch adds `batch` to this number.
    """
    wave = -(-tile.resident * sms // parallel)
    return max(1, min(max(wave, batch), batch * -(-blocks // least)))
