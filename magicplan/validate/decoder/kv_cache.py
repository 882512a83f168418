"""The KV cache of a model: pages a layer, position by position, or a ring with sinks.

Slots are positions: whoever writes says at which length. Rolling back is a length that does not
advance, so a cache keeps no state of its own beside its memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import LayerCache, Window, identity_pages
from magicplan.validate.decoder.weights import Shard

PAGE = 64
"""Slots of a page: a tile of the attention kernel lies in one page."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KVCache:
    """Keys (rotated, at their original positions) and values of every layer.

    `positions`: positions a token may have. `shift`: [B] int32, slot of a token minus its position,
    where a selection keeps fewer tokens than the context has (SnapKV); None: slots are positions.
    """

    layers: list[LayerCache]
    positions: int
    shift: Tensor | None = None

    @classmethod
    def full(
        cls,
        shard: Shard,
        batch: int,
        slots: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        page_size: int = PAGE,
        positions: int | None = None,
    ) -> KVCache:
        """Room for `slots` tokens a sequence. `positions`: the cache holds a selection of so many,
        and its shift is set when they are selected.

        Raises UsageError for no slots.
        """
        if batch < 1 or slots < 1:
            raise UsageError(f"a cache of {batch} sequences, {slots} slots: expected at least 1")
        table = identity_pages(batch, slots, page_size, device)
        shift = None if positions is None else torch.zeros_like(table[:, 0])
        layers = _layers(shard, table, table.numel(), page_size, dtype)
        return cls(layers=layers, positions=positions or layers[0].capacity, shift=shift)

    @classmethod
    def ring(
        cls,
        shard: Shard,
        batch: int,
        slots: int,
        *,
        view: Window,
        scratch: int,
        device: torch.device,
        dtype: torch.dtype,
        page_size: int = PAGE,
    ) -> KVCache:
        """Memory of a window for contexts of up to `slots`: the pages behind the sinks repeat.

        scratch: tokens written at once beyond the committed length (a draft, a chunk of a prompt).
        """
        sinks, ring = _ring_pages(view, scratch, page_size)
        page = torch.arange(-(-slots // page_size), dtype=torch.int32, device=device)
        page = torch.where(page < sinks, page, sinks + (page - sinks) % ring)
        first = torch.arange(batch, dtype=torch.int32, device=device) * (sinks + ring)
        table = first[:, None] + page
        layers = _layers(shard, table, batch * (sinks + ring), page_size, dtype)
        return cls(layers=layers, positions=layers[0].capacity)

    def sequence(self, number: int) -> KVCache:
        """The part of one sequence, on the same memory."""
        one = slice(number, number + 1)
        layers = [
            LayerCache(key=layer.key, value=layer.value, page_table=layer.page_table[one])
            for layer in self.layers
        ]
        shift = None if self.shift is None else self.shift[one]
        return KVCache(layers=layers, positions=self.positions, shift=shift)

    @property
    def batch(self) -> int:
        """The number of sequences that the cache holds."""
        return self.layers[0].page_table.shape[0]

    @property
    def capacity(self) -> int:
        """The most tokens of a sequence that the cache's pages can address."""
        return self.layers[0].capacity

    @property
    def page_size(self) -> int:
        """The number of token slots a page."""
        return self.layers[0].page_size

    @property
    def bytes(self) -> int:
        """The bytes of all keys and values of the cache."""
        first = self.layers[0]
        return 2 * len(self.layers) * first.key.numel() * first.key.element_size()

    def fill_random(self, generator: torch.Generator) -> None:
        """Random keys and values everywhere: zeros would be faster to read than real ones."""
        for layer in self.layers:
            layer.key.normal_(generator=generator)
            layer.value.normal_(generator=generator)


def full_bytes(
    shard: Shard, batch: int, slots: int, dtype: torch.dtype, page_size: int = PAGE
) -> int:
    """Bytes that `KVCache.full` takes, known before it is made."""
    return _bytes(shard, batch * -(-slots // page_size), dtype, page_size)


def ring_bytes(
    shard: Shard,
    batch: int,
    dtype: torch.dtype,
    *,
    view: Window,
    scratch: int,
    page_size: int = PAGE,
) -> int:
    """Bytes that `KVCache.ring` takes, known before it is made."""
    return _bytes(shard, batch * sum(_ring_pages(view, scratch, page_size)), dtype, page_size)


def _bytes(shard: Shard, pages: int, dtype: torch.dtype, page_size: int) -> int:
    slot = 2 * shard.shape.layers * shard.kv_heads * shard.shape.head_dim * dtype.itemsize
    return pages * page_size * slot


def _ring_pages(view: Window, scratch: int, page_size: int) -> tuple[int, int]:
    """Pages of the sinks, and pages that come round: a window, what is being written, and one more
    because neither starts at a page."""
    return -(-view.sinks // page_size), -(-(view.window + scratch) // page_size) + 1


def _layers(
    shard: Shard, table: Tensor, pages: int, page_size: int, dtype: torch.dtype
) -> list[LayerCache]:
    return [
        LayerCache.allocate(
            page_table=table,
            pages=pages,
            page_size=page_size,
            kv_heads=shard.kv_heads,
            head_dim=shard.shape.head_dim,
            dtype=dtype,
        )
        for _ in range(shard.shape.layers)
    ]
