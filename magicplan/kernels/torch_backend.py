"""The `torch` backend: plain torch on any device, the twin of every kernel."""

from __future__ import annotations

from torch import Tensor

from magicplan.kernels import torch_accept, torch_attention
from magicplan.kernels.backend import Ability, Accepted, LayerCache, Noise, Topology, Window


class TorchBackend:
    """Plain torch. The other backends inherit what they have no kernel for."""

    name: str = "torch"
    abilities: frozenset[Ability] = frozenset({"window", "tree"})

    def race(self, weights: Tensor, noise: Noise, stream: int, node: Tensor) -> Tensor:
        """Draws one token a row, as `torch_accept.race` defines it; backends with a faster
        generator override this."""
        return torch_accept.race(weights, noise, stream, node)

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
        on_cpu = query.device.type == "cpu"
        path = torch_attention.sliced_attention if on_cpu else torch_attention.dense_attention
        return path(query, cache, lengths, view=view, tree=tree, first=first)

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
        return torch_attention.rope_append(
            query, key, value, cache, lengths, depths, cos, sin, first=first
        )

    def accept_greedy(self, draft: Tensor, target: Tensor) -> Accepted:
        """Verifies a drafted chain greedily, as `Backend.accept_greedy` defines it."""
        return torch_accept.accept_greedy(draft, target)

    def accept_sampled(
        self, draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Verifies a drafted chain by sampling, as `Backend.accept_sampled` defines it."""
        return torch_accept.accept_sampled(draft, draft_logits, target_logits, noise, self.race)

    def accept_tree_greedy(self, tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
        """Verifies a drafted tree greedily, as `Backend.accept_tree_greedy` defines it."""
        return torch_accept.accept_tree_greedy(tree, tokens, target)

    def accept_tree_sampled(
        self, tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Verifies a drafted tree by sampling, as `Backend.accept_tree_sampled` defines it."""
        return torch_accept.accept_tree_sampled(tree, tokens, target_logits, noise, self.race)

    def sample(self, logits: Tensor, noise: Noise, *, node: int = 0) -> Tensor:
        """Draws one token a sequence from logits, as `Backend.sample` defines it."""
        return torch_accept.sample(logits, noise, node=node, race=self.race)

    def compact(self, cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
        """Moves an accepted path to consecutive cache slots, as `Backend.compact` defines
        it."""
        torch_attention.compact(cache, lengths, nodes)


def create() -> TorchBackend:
    """A backend that needs torch alone."""
    return TorchBackend()
