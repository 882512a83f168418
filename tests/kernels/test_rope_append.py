"""RoPE with append, and compaction, of every backend against the slow twin."""

from __future__ import annotations

import pytest
import torch

from magicplan.kernels import reference
from magicplan.kernels.backend import Topology
from tests.kernels.cases import (
    BACKENDS,
    DEVICE,
    Shape,
    backend_or_skip,
    filled_cache,
    int32,
    on,
    randn,
)

SHAPE = Shape(lengths=(15, 0, 37), dim=16, page_size=16, capacity=64)


def angles(positions: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = 10_000.0 ** (-torch.arange(dim // 2) / (dim // 2))
    angle = torch.arange(positions)[:, None] * frequency
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("depths", [(0,), (0, 1, 2, 3, 4), (0, 1, 1, 2, 2, 2, 3)], ids=len)
@pytest.mark.parametrize("name", BACKENDS)
def test_rope_append_is_the_twins(name: str, depths: tuple[int, ...], first: int) -> None:
    backend = backend_or_skip(name)
    dtype = torch.float32 if name != "flashinfer" else torch.float16
    tokens = len(depths)
    cache = filled_cache(SHAPE, 0, dtype, shuffled=True)
    mine = on(DEVICE, cache)
    query = randn(1, SHAPE.batch, tokens, SHAPE.heads, SHAPE.dim, dtype=dtype)
    key = randn(2, SHAPE.batch, tokens, SHAPE.kv_heads, SHAPE.dim, dtype=dtype)
    value = randn(3, SHAPE.batch, tokens, SHAPE.kv_heads, SHAPE.dim, dtype=dtype)
    cos, sin = angles(64, SHAPE.dim)
    args = int32(*SHAPE.lengths), int32(*depths), cos, sin
    expected = reference.rope_append(query, key, value, cache, *args, first=first)
    out = backend.rope_append(
        query.to(DEVICE), key.to(DEVICE), value.to(DEVICE), mine,
        *(a.to(DEVICE) for a in args), first=first,
    )  # fmt: skip
    torch.testing.assert_close(out.cpu().double(), expected, atol=1e-5, rtol=1e-5)
    for new, old in ((mine.key, cache.key), (mine.value, cache.value)):
        torch.testing.assert_close(new.cpu(), old, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_rope_append_takes_slices_of_one_projection(name: str) -> None:
    """q, k and v as views of one fused projection: strides are respected."""
    backend = backend_or_skip(name)
    cache = filled_cache(SHAPE, 0, torch.float32, shuffled=True)
    mine = on(DEVICE, cache)
    heads, kv = SHAPE.heads, SHAPE.kv_heads
    fused = randn(1, SHAPE.batch, 2, heads + 2 * kv, SHAPE.dim)
    cos, sin = angles(64, SHAPE.dim)
    args = int32(*SHAPE.lengths), int32(0, 1), cos, sin
    expected = reference.rope_append(
        fused[:, :, :heads], fused[:, :, heads:-kv], fused[:, :, -kv:], cache, *args
    )
    fused = fused.to(DEVICE)
    out = backend.rope_append(
        fused[:, :, :heads], fused[:, :, heads:-kv], fused[:, :, -kv:], mine,
        *(a.to(DEVICE) for a in args),
    )  # fmt: skip
    torch.testing.assert_close(out.cpu().double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine.key.cpu(), cache.key, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_compaction_moves_the_accepted_path(name: str) -> None:
    """Paths of every length; one whose node stands where another is to go; nothing else moves."""
    backend = backend_or_skip(name)
    tree = Topology.of((-1, 0, 0, 1, 2, 2, 4, 5))
    cache = filled_cache(SHAPE, 8, torch.float32, shuffled=True)
    mine = on(DEVICE, cache)
    nodes = torch.tensor([[2, 4, 6], [1, 3, -1], [-1, -1, -1]], dtype=torch.int32)
    assert tree.levels == nodes.shape[1]
    lengths = int32(*SHAPE.lengths)
    reference.compact(cache, lengths, nodes)
    backend.compact(mine, lengths.to(DEVICE), nodes.to(DEVICE))
    for new, old in ((mine.key, cache.key), (mine.value, cache.value)):
        torch.testing.assert_close(new.cpu(), old, atol=0, rtol=0, equal_nan=True)
