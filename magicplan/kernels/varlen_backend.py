"""The `varlen` backend: attention by torch.nn.attention.varlen (Flash Attention); CUDA only.

Plain causal attention: decode and chain verification. It has no tree mask and no sinks. The rest of
the operations is plain torch, or our kernels' where Triton is there.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import Ability, LayerCache, Window
from magicplan.kernels.torch_backend import TorchBackend

WANTED = {"block_table", "seqused_k", "enable_gqa", "window_size"}
"""The parameters of torch's varlen attention that an older torch lacks."""


def refuse(name: str, view: Window | None, tree: Tensor | None) -> None:
    """Raises UsageError for what the backend cannot do."""
    if view is not None:
        raise UsageError(f"the {name} backend has no window with sinks; use torch or triton")
    if tree is not None:
        raise UsageError(f"the {name} backend has no tree mask; use torch or triton")


class VarlenBackend(TorchBackend):
    """A backend whose attention is Flash Attention as torch ships it."""

    name = "varlen"
    abilities: frozenset[Ability] = frozenset()

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
        """Computes attention of new queries over the cache, as `Backend.attention` defines it, in
        float16 and bfloat16."""
        refuse(self.name, view, tree)
        from torch.nn.attention import varlen

        attend: Any = varlen.varlen_attn
        batch, tokens = query.shape[:2]
        starts = torch.arange(batch + 1, dtype=torch.int32, device=query.device) * tokens
        out: Tensor = attend(
            query.flatten(0, 1),
            cache.key,
            cache.value,
            starts,
            None,
            tokens,
            cache.capacity,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=lengths + (first + tokens),
            block_table=cache.page_table,
        )
        return out.view(query.shape)


def create() -> VarlenBackend:
    """Raises UsageError where there is no CUDA GPU, or torch's function is too old."""
    known: set[str] = set()
    with contextlib.suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        known = set(inspect.signature(varlen_attn).parameters)
    if not known >= WANTED:
        raise UsageError(
            f"the varlen backend needs torch.nn.attention.varlen with {', '.join(sorted(WANTED))}; "
            f"torch {torch.__version__} has it not"
        )
    if not torch.cuda.is_available():
        raise UsageError("the varlen backend needs a CUDA GPU")
    return VarlenBackend()
