"""Which tile and how many work items: one small table, read by launchers, tests and benchmarks.

The tile holds `rows` query rows (group x tokens) and `slots` slots of one KV head. A work item is
a run of tiles of one sequence; items are dealt on the device, so that a graph stays right while
lengths grow. Values come from cross-compilation (registers, shared memory) and from arithmetic:
a GPU reads at full rate with some 40 KiB in flight on every multiprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass

SMS_UNKNOWN = 132
"""Multiprocessors assumed where there is no GPU (cross-compilation, the interpreter)."""
LITTLE_SHARED = {86, 89, 120}
"""Compute capabilities with 100 KiB of shared memory a multiprocessor, 99 of them a program's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """rows, slots of the score tile; warps, stages of a program; programs resident on an SM.

    Page ids are loaded ahead of keys and values, so one buffer of these takes two stages.
    """

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

    A tile lies in one page where pages are a multiple of it, so that one page id serves it; pages
    of fewer than 16 slots are gathered slot by slot.
    """
    rows = min(64, max(16, next_power(query_rows)))
    slots = 32 if next_power(dim) * element_bytes >= 512 else 64
    if page_size in (16, 32):
        slots = min(slots, page_size)
    if rows == 64:
        # 4 warps spill on sm_80, and where heads are wide; from sm_90 on they are one wgmma
        many = arch < 90 or arch in LITTLE_SHARED or slots == 32
        warps, stages, resident = (8, 3, 1) if many else (4, 3, 2)
    elif arch in LITTLE_SHARED:
        warps, stages, resident = 4, 3, 2
    else:
        warps, stages, resident = 4, 5, 3 if rows == 16 and arch >= 90 else 2
    return Tile(rows=rows, slots=slots, warps=warps, stages=stages, resident=resident)


def work_items(*, batch: int, parallel: int, blocks: int, least: int, sms: int, tile: Tile) -> int:
    """Items dealt among the sequences of a batch: enough to fill the GPU once.

    parallel: programs an item (KV heads x row blocks). blocks: tiles of the longest possible
    sequence. least: tiles an item has at least. A sequence gets one item whatever its length, so
    the launch adds `batch` to this number.
    """
    wave = -(-tile.resident * sms // parallel)
    return max(1, min(max(wave, batch), batch * -(-blocks // least)))
