"""Tensor parallelism under torchrun: one process a device, all running the same loop.

A layer has two sums over ranks, after attention and after the feed-forward. The head is split by
vocabulary: a greedy choice exchanges one (largest logit, its token) a rank, sampling gathers all
logits. Every rank then takes the same decisions from the same numbers; nothing is broadcast.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from magicplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class RankGroup:
    """The tensor-parallel ranks, `count` of them, and this process's place among them; with a
    single one, every operation gives its input back."""

    rank: int = 0
    count: int = 1

    def first(self, value: Any) -> Any:
        """The value of rank 0, on every rank: where ranks decide by their own clocks, all must
        decide alike."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: Tensor) -> Tensor:
        """Sums a tensor over all ranks, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def choose(self, logits: Tensor) -> Tensor:
        """[...] int64: the token of the largest logit of all ranks; of equals the lowest.

        logits: [..., V / count], this rank's part of the vocabulary.
        """
        if self.count == 1:
            return logits.argmax(-1)
        best, token = logits.max(-1)
        token = token + self.rank * logits.shape[-1]
        largest = self._gathered(best)
        tokens = self._gathered(token)
        first = largest.argmax(0, keepdim=True)
        return tokens.gather(0, first).squeeze(0)

    def whole(self, logits: Tensor) -> Tensor:
        """[..., V]: logits of all ranks in the order of the vocabulary."""
        if self.count == 1:
            return logits
        parts = self._gathered(logits)
        return parts.movedim(0, -2).flatten(-2)

    def _gathered(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, [count, ...]."""
        out = values.new_empty((self.count, *values.shape))
        dist.all_gather(list(out.unbind(0)), values.contiguous())
        return out


ALONE = RankGroup()


def all_reduce_seconds(
    ranks: RankGroup,
    message_bytes: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int = 20,
) -> list[float]:
    """Median seconds of one sum over ranks, by message size; 0 alone. All ranks call it together.

    On CUDA one repeat is a row of sums between two events, so that launching is not counted twice.
    """
    if ranks.count == 1:
        return [0.0] * len(message_bytes)
    seconds = []
    for size in message_bytes:
        values = torch.zeros(max(1, size // dtype.itemsize), dtype=dtype, device=device)
        for _ in range(3):
            ranks.sum(values)
        samples = [_timed(partial(ranks.sum, values), device) for _ in range(repeats)]
        seconds.append(median(samples))
    return seconds


IN_A_ROW = 10


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(IN_A_ROW):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / IN_A_ROW


@contextmanager
def joined(device: torch.device) -> Iterator[RankGroup]:
    """The ranks torchrun started (its RANK and WORLD_SIZE), or `ALONE` without it.

    NCCL on CUDA, gloo on the CPU. Leaves the group at the end whatever happened: gloo processes
    that do not are aborted.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if "RANK" not in os.environ:
        raise UsageError("WORLD_SIZE is set but RANK is not; start the ranks with torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield RankGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
