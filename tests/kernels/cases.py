"""Backends, types and random inputs of the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from magicplan import kernels
from magicplan.errors import MissingExtra, UsageError
from magicplan.kernels.backend import Backend, LayerCache, Noise, identity_pages

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = [pytest.mark.gpu]
BACKENDS = [
    pytest.param("torch", id="torch"),
    pytest.param("native", id="native"),
    pytest.param("triton", id="triton", marks=GPU if DEVICE == "cuda" else []),
    pytest.param("varlen", id="varlen", marks=GPU),
    pytest.param("flashinfer", id="flashinfer", marks=GPU),
]


def backend_or_skip(name: str) -> Backend:
    """The backend, or a skip that says why this machine has none."""
    try:
        return kernels.load(name)
    except (MissingExtra, UsageError) as error:
        pytest.skip(str(error))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Heads, head dimension, page size and sequence lengths of a case."""

    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    page_size: int = 16
    lengths: tuple[int, ...] = (37, 1, 90)
    capacity: int = 128

    @property
    def batch(self) -> int:
        return len(self.lengths)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(seed: int, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=generator(seed)).to(dtype)


def filled_cache(shape: Shape, tokens: int, dtype: torch.dtype, *, shuffled: bool) -> LayerCache:
    """Random K and V in the slots in use; NaN in every other slot and page."""
    spare = 3
    table = identity_pages(shape.batch, shape.capacity, shape.page_size, "cpu")
    pages = table.numel() + spare
    if shuffled:
        order = torch.randperm(pages, generator=generator(5))[: table.numel()]
        table = order.to(torch.int32).view(table.shape)
    cache = LayerCache.allocate(
        page_table=table,
        pages=pages,
        page_size=shape.page_size,
        kv_heads=shape.kv_heads,
        head_dim=shape.dim,
        dtype=dtype,
    )
    for seed, pool in enumerate((cache.key, cache.value)):
        pool.fill_(torch.nan)
        for b, length in enumerate(shape.lengths):
            rows = randn(10 * b + seed, length + tokens, shape.kv_heads, shape.dim, dtype=dtype)
            for slot in range(length + tokens):
                page = int(table[b, slot // shape.page_size])
                pool[page, slot % shape.page_size] = rows[slot]
    return cache


def on(device: str, cache: LayerCache) -> LayerCache:
    """A copy of the cache on a device, its memory order kept."""
    key, value = (
        pool.transpose(1, 2).contiguous().to(device, copy=True).transpose(1, 2)
        for pool in (cache.key, cache.value)
    )
    return LayerCache(key=key, value=value, page_table=cache.page_table.to(device))


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def noise(batch: int, *, seed: int = 7, step: int = 3, device: str = "cpu") -> Noise:
    return Noise(
        seed=seed,
        request=torch.arange(batch, dtype=torch.int32, device=device),
        step=torch.full((batch,), step, dtype=torch.int32, device=device),
    )
