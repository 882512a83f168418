"""Attention of every backend against the slow twin in float64, in caches poisoned with NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels import reference
from magicplan.kernels.backend import Backend, LayerCache, Topology, Window
from tests.kernels.cases import (
    BACKENDS,
    DEVICE,
    Shape,
    backend_or_skip,
    filled_cache,
    generator,
    int32,
    on,
    randn,
)

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest error of an output of order 1: some units of the type's rounding, scores rounded too."""

PLAIN = Shape()
WIDE = Shape(heads=8, kv_heads=2, dim=128, lengths=(5, 64))
MHA = Shape(heads=2, kv_heads=2, dim=32, page_size=32, lengths=(0, 95, 33))
MQA = Shape(heads=6, kv_heads=1, dim=16, lengths=(63, 64, 65))
CASES = {
    "decode": (PLAIN, 1, None, True),
    "decode, one page": (Shape(page_size=128), 1, None, False),
    "verify": (WIDE, 5, None, True),
    "verify, one page": (Shape(page_size=128), 5, None, False),
    "verify, nothing before": (MHA, 4, None, True),
    "verify, group of 6": (MQA, 3, None, False),
    "draft": (PLAIN, 1, Window(sinks=4, window=20), True),
    "draft, one page": (Shape(page_size=128), 1, Window(sinks=4, window=20), False),
    "draft, two tokens, no sinks": (PLAIN, 2, Window(sinks=0, window=17), True),
    "draft, window above all lengths": (PLAIN, 1, Window(sinks=2, window=500), False),
    "draft, sinks above all lengths": (PLAIN, 3, Window(sinks=100, window=2), False),
    "prefill": (Shape(lengths=(0, 40), capacity=128), 33, None, True),
}


def typed_backends() -> list[Any]:
    """Backends with types; no bfloat16 in Triton's interpreter, which computes it wrongly."""
    return [
        pytest.param(*backend.values, dtype, id=f"{backend.id}-{dtype}", marks=backend.marks)
        for backend in BACKENDS
        for dtype in TOLERANCE
        if dtype != torch.bfloat16 or backend.id != "triton" or DEVICE == "cuda"
        if dtype != torch.float32 or backend.id not in ("varlen", "flashinfer")
    ]


def compare(
    name: str,
    shape: Shape,
    tokens: int,
    dtype: torch.dtype,
    *,
    view: Window | None = None,
    tree: Tensor | None = None,
    first: int = 0,
    shuffled: bool = True,
) -> None:
    backend = backend_or_skip(name)
    needs = {"window": view is not None, "tree": tree is not None}
    for ability in ("window", "tree"):
        if needs[ability] and ability not in backend.abilities:
            with pytest.raises(UsageError, match=ability):
                run(backend, shape, tokens, dtype, view, tree, first, shuffled)
            return
    out, expected = run(backend, shape, tokens, dtype, view, tree, first, shuffled)
    assert out.dtype == dtype
    assert (out.double().cpu() - expected).abs().max() < TOLERANCE[dtype]


def run(
    backend: Backend,
    shape: Shape,
    tokens: int,
    dtype: torch.dtype,
    view: Window | None,
    tree: Tensor | None,
    first: int,
    shuffled: bool,
) -> tuple[Tensor, Tensor]:
    """What the backend gives, and the twin's."""
    cache = filled_cache(shape, first + tokens, dtype, shuffled=shuffled)
    query = randn(99, shape.batch, tokens, shape.heads, shape.dim, dtype=dtype)
    lengths = int32(*shape.lengths)
    expected = reference.attention(query, cache, lengths, view=view, tree=tree, first=first)
    out = backend.attention(
        query.to(DEVICE),
        on(DEVICE, cache),
        lengths.to(DEVICE),
        view=view,
        tree=None if tree is None else tree.to(DEVICE),
        first=first,
    )
    return out, expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "dtype"), typed_backends())
def test_attention_is_the_twins(name: str, case: str, dtype: torch.dtype) -> None:
    shape, tokens, view, shuffled = CASES[case]
    compare(name, shape, tokens, dtype, view=view, shuffled=shuffled)


def random_parents(size: int, seed: int) -> tuple[int, ...]:
    draws = torch.rand(size, generator=generator(seed))
    return (-1, *(int(draws[n] * n) for n in range(1, size)))


@pytest.mark.parametrize("size", [1, 7, 64, 70])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_node_sees_the_context_and_its_ancestors(name: str, size: int) -> None:
    tree = Topology.of(random_parents(size, size))
    shape = Shape(heads=2, lengths=(0, 31) if size < 64 else (31,), capacity=128)
    compare(name, shape, size, torch.float32, tree=tree.ancestors)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_level_of_a_tree_sees_the_levels_before_it(name: str) -> None:
    tree = Topology.of((-1, 0, 0, 1, 1, 2, 3))
    compare(name, PLAIN, 3, torch.float32, tree=tree.ancestors[3:6], first=3)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_windowed_tree_keeps_sinks_window_and_ancestors(name: str) -> None:
    tree = Topology.of((-1, 0, 0, 1, 1, 2, 3))
    view = Window(sinks=3, window=8)
    compare(name, PLAIN, 7, torch.float32, tree=tree.ancestors, view=view)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_chain_with_tokens_before_it_is_a_longer_context(name: str) -> None:
    compare(name, PLAIN, 2, torch.float32, first=3)
    compare(name, PLAIN, 2, torch.float32, first=3, view=Window(sinks=2, window=6))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_ring_is_a_page_table_that_repeats(name: str) -> None:
    """Slots written page by page into 1 + 3 pages: the window sees what a full cache would show."""
    backend = backend_or_skip(name)
    if "window" not in backend.abilities:
        pytest.skip(f"{name} has no window with sinks")
    view, size, length = Window(sinks=4, window=30), 16, 100
    full = filled_cache(Shape(lengths=(length,), page_size=size), 1, torch.float32, shuffled=False)
    table = int32(0, *(1 + page % 3 for page in range(7)))[None]
    ring = LayerCache.allocate(
        page_table=table, pages=4, page_size=size, kv_heads=2, head_dim=64, dtype=torch.float32
    )
    for slot in range(length + 1):
        for new, old in ((ring.key, full.key), (ring.value, full.value)):
            new[int(table[0, slot // size]), slot % size] = old[slot // size, slot % size]
    query, lengths = randn(1, 1, 1, 4, 64), int32(length)
    expected = reference.attention(query, full, lengths, view=view)
    out = backend.attention(query.to(DEVICE), on(DEVICE, ring), lengths.to(DEVICE), view=view)
    assert (out.double().cpu() - expected).abs().max() < TOLERANCE[torch.float32]


def test_the_path_without_host_reads_is_the_twins_too() -> None:
    """What `torch` does on a GPU, here on the CPU."""
    from magicplan.kernels import torch_attention

    for shape, tokens, view, shuffled in CASES.values():
        cache = filled_cache(shape, tokens, torch.float32, shuffled=shuffled)
        query = randn(3, shape.batch, tokens, shape.heads, shape.dim)
        lengths = int32(*shape.lengths)
        expected = reference.attention(query, cache, lengths, view=view)
        out = torch_attention.dense_attention(query, cache, lengths, view=view, tree=None, first=0)
        assert (out.double() - expected).abs().max() < TOLERANCE[torch.float32]


def test_the_slow_twin_is_torchs_attention() -> None:
    """The twin itself, against `scaled_dot_product_attention` with a mask in float64."""
    shape = Shape(lengths=(40,), page_size=128)
    cache = filled_cache(shape, 4, torch.float64, shuffled=False)
    query = randn(1, 1, 4, shape.heads, shape.dim, dtype=torch.float64)
    key, value = (pool[0, :44].transpose(0, 1)[None] for pool in (cache.key, cache.value))
    mask = torch.ones(4, 44, dtype=torch.bool).tril(40)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key, value, attn_mask=mask, enable_gqa=True
    ).transpose(1, 2)
    out = reference.attention(query, cache, int32(40))
    assert (out - expected).abs().max() < 1e-12
