"""The `triton` backend: our kernels on a CUDA GPU, or in Triton's interpreter on a CPU (slow)."""

from __future__ import annotations

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels import interpreted
from magicplan.kernels.backend import Accepted, LayerCache, Noise, Topology, Window
from magicplan.kernels.torch_backend import TorchBackend
from magicplan.kernels.triton_kernels import accept, attention
from magicplan.kernels.triton_kernels import cache as cache_kernels


class TritonBackend(TorchBackend):
    """Every operation as a Triton kernel of this package."""

    name = "triton"

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
        return attention.attention(query, cache, lengths, view=view, tree=tree, first=first)

    def rope_append(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: LayerCache,
        lengths: Tensor,
        depths: Tensor,
        cos: Tensor,
        sin: Tensor,
        *,
        first: int = 0,
    ) -> Tensor:
        """Rotates queries and keys and writes keys and values to the cache, as
        `Backend.rope_append` defines it."""
        return cache_kernels.launch_rope_append(
            query, key, value, cache, lengths, depths, cos, sin, first=first
        )

    def accept_greedy(self, draft: Tensor, target: Tensor) -> Accepted:
        """Verifies a drafted chain greedily, as `Backend.accept_greedy` defines it."""
        return accept.launch_greedy(draft, target)

    def accept_sampled(
        self, draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Verifies a drafted chain by sampling, as `Backend.accept_sampled` defines it."""
        return accept.launch_sampled(draft, draft_logits, target_logits, noise)

    def accept_tree_greedy(self, tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
        """Verifies a drafted tree greedily, as `Backend.accept_tree_greedy` defines it."""
        return accept.launch_tree_greedy(tree, tokens, target)

    def accept_tree_sampled(
        self, tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Verifies a drafted tree by sampling, as `Backend.accept_tree_sampled` defines it."""
        return accept.launch_tree_sampled(tree, tokens, target_logits, noise)

    def sample(self, logits: Tensor, noise: Noise, *, node: int = 0) -> Tensor:
        """Draws one token a sequence from logits, as `Backend.sample` defines it."""
        return accept.launch_sample(logits, noise, node=node)

    def compact(self, cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
        """Moves an accepted path to consecutive cache slots, as `Backend.compact` defines
        it."""
        cache_kernels.launch_compact(cache, lengths, nodes)


def create() -> TritonBackend:
    """Raises UsageError where there is neither a CUDA GPU nor the interpreter."""
    if not (torch.cuda.is_available() or interpreted()):
        raise UsageError(
            "the triton backend needs a CUDA GPU (for tests: TRITON_INTERPRET=1 before the start)"
        )
    return TritonBackend()
