"""The `flashinfer` backend: a cross-check of ours by FlashInfer, where a user has it; CUDA only.

Its wrappers plan on the host, so every call reads the lengths: right, but its step times hold that
synchronisation, and it cannot be captured in a graph. Trees and windows go through its dense mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import LayerCache, Window
from magicplan.kernels.torch_attention import visible
from magicplan.kernels.torch_backend import TorchBackend

WORKSPACE_BYTES = 256 << 20


class FlashInferBackend(TorchBackend):
    """FlashInfer's paged decode (one token) and prefill (more) wrappers; float16 and bfloat16."""

    name = "flashinfer"

    def __init__(self) -> None:
        self._workspace: Tensor | None = None

    def attention(
        self,
        query: Tensor,
        cache: LayerCache,
        lengths: Tensor,
        *,
        view: Window | None = None,
        tree: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Computes attention of new queries over the cache, as `Backend.attention` defines it."""
        import flashinfer

        batch, tokens, heads, dim = query.shape
        if self._workspace is None or self._workspace.device != query.device:
            self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=query.device)
        ends = lengths.cpu() + first + tokens
        pages = (ends + cache.page_size - 1) // cache.page_size
        starts = torch.cat([torch.zeros(1, dtype=torch.int32), pages.cumsum(0).int()])
        rows = [cache.page_table[b, :n] for b, n in enumerate(pages.tolist())]
        table = starts, torch.cat(rows), (ends - 1) % cache.page_size + 1
        shape = heads, cache.key.shape[2], dim, cache.page_size
        types: dict[str, Any] = {"q_data_type": query.dtype, "kv_data_type": cache.key.dtype}
        if tokens == 1 and view is None and tree is None:
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(self._workspace, "HND")
            wrapper.plan(*table, *shape, **types)
        else:
            wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "HND")
            queries = torch.arange(batch + 1, dtype=torch.int32) * tokens
            mask = None
            if view is not None or tree is not None:
                slots = torch.arange(int(ends.max()), device=query.device).expand(batch, -1)
                seen = visible(slots, lengths, tokens, view=view, tree=tree, first=first)
                mask = torch.cat([s[:, :e].flatten() for s, e in zip(seen, ends, strict=True)])
            wrapper.plan(queries, *table, *shape, custom_mask=mask, causal=mask is None, **types)
        pools = tuple(pool.transpose(1, 2) for pool in (cache.key, cache.value))
        out: Tensor = wrapper.run(query.flatten(0, 1), pools)
        return out.view(query.shape)


def create() -> FlashInferBackend:
    """Raises UsageError where there is no CUDA GPU."""
    if not torch.cuda.is_available():
        raise UsageError("the flashinfer backend needs a CUDA GPU")
    return FlashInferBackend()
