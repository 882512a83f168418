"""What every backend does, and the values it does it on.

One round of speculation is: `rope_append` and `attention` in every layer (decode, draft, verify and
tree are the same call), then one `accept_*`, then, for a tree, `compact` in every layer. Nothing
here waits for the device: lengths, counts and tokens stay where the tensors are.

Names of axes: B sequences, T query tokens, Hq query heads, Hkv KV heads, D head dimension,
V vocabulary, N tree nodes (the root included), S slots of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from magicplan.errors import UsageError

Ability = Literal["window", "tree"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerCache:
    """Keys and values of one layer, in pages; `rope_append` and `compact` write into it.

    key, value: [pages, page_size, Hkv, D], the last axis dense. `allocate` keeps a head's slots
        together in memory, so that a head of a page is one dense block.
    page_table: [B, pages of a sequence] int32; slot s of sequence b is row s % page_size of page
        page_table[b, s // page_size]. Layers share one table. A ring is a table that repeats: its
        pages come round again, and a window shorter than the ring sees only what is still there.
    """

    key: Tensor
    value: Tensor
    page_table: Tensor

    @classmethod
    def allocate(
        cls,
        *,
        page_table: Tensor,
        pages: int,
        page_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> LayerCache:
        """An empty layer (uninitialised memory) on the device of its page table."""

        def pool() -> Tensor:
            shape = (pages, kv_heads, page_size, head_dim)
            return torch.empty(shape, dtype=dtype, device=page_table.device).transpose(1, 2)

        return cls(key=pool(), value=pool(), page_table=page_table)

    @property
    def page_size(self) -> int:
        """The number of token slots a page."""
        return self.key.shape[1]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Elements from page to page, slot to slot and head to head, of K and of V alike."""
        page, slot, head, _ = self.key.stride()
        return page, slot, head

    @property
    def capacity(self) -> int:
        """Slots of a sequence: what its row of the page table can hold."""
        return self.page_table.shape[1] * self.page_size


def identity_pages(batch: int, slots: int, page_size: int, device: torch.device | str) -> Tensor:
    """[B, pages of a sequence] int32: every sequence's pages in order, its slots contiguous."""
    each = -(-slots // page_size)
    return torch.arange(batch * each, dtype=torch.int32, device=device).view(batch, each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A view of the cache (StreamingLLM's): the first `sinks` slots and the last `window` slots.

    A query at slot x sees slot s <= x where s < sinks or s > x - window: `window` counts the query
    itself. Under a tree the root stands for x, and nodes see each other by the tree alone.
    """

    sinks: int
    window: int

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.window < 1:
            raise UsageError(
                f"a window of {self.window} slots with {self.sinks} sinks: expected at least "
                "one slot and no negative sinks"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noise:
    """A source of random numbers that counts, so that equal counters give equal numbers.

    Philox 4x32-10 with key `seed` and counter (token, request, step, stream and node). A number
    is used once: `step` must advance every round (on the device, so that a graph can be replayed).

    seed: 0 <= seed < 2**63.
    request, step: [B] int32.
    """

    seed: int
    request: Tensor
    step: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accepted:
    """What a verification yields.

    count: [B] int32, accepted draft tokens, without the token below.
    token: [B] int64, the token that follows them: the correction or the bonus.
    nodes: [B, depth] int32 for a tree, the accepted nodes from the root's child downwards, then
        -1; None for a chain.
    """

    count: Tensor
    token: Tensor
    nodes: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Topology:
    """A draft tree on the device. Node 0 is the root: the last committed token, verified with it.

    depths: [N] int32, the root's 0: node n stands at position lengths + depths[n].
    ancestors: [N] int64, or [N, words] above 64 nodes; bit j % 64 of word j // 64: node j is the
        node or its ancestor. What `attention` takes as `tree`.
    parents, first_child, next_sibling: [N] int32, -1 where there is none; siblings in order.
    levels: levels below the root, at least 1 so that paths have an axis.
    """

    parents: Tensor
    depths: Tensor
    ancestors: Tensor
    first_child: Tensor
    next_sibling: Tensor
    levels: int

    @classmethod
    def of(cls, parents: tuple[int, ...], device: torch.device | str = "cpu") -> Topology:
        """The tree whose node n has parent parents[n] < n; the root's is -1.

        Raises UsageError if the parents describe no tree.
        """
        if not parents or parents[0] != -1:
            raise UsageError("a tree starts with its root, whose parent is -1")
        size = len(parents)
        depths, masks = [0], [1]
        first_child, next_sibling = [-1] * size, [-1] * size
        youngest = [-1] * size
        for node, parent in enumerate(parents[1:], 1):
            if not 0 <= parent < node:
                raise UsageError(f"node {node} has parent {parent}, expected an earlier node")
            depths.append(depths[parent] + 1)
            masks.append(masks[parent] | 1 << node)
            if youngest[parent] < 0:
                first_child[parent] = node
            else:
                next_sibling[youngest[parent]] = node
            youngest[parent] = node

        def column(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        return cls(
            parents=column(parents),
            depths=column(depths),
            ancestors=_words(masks).to(device),
            first_child=column(first_child),
            next_sibling=column(next_sibling),
            levels=max(1, *depths),
        )


def _words(masks: list[int]) -> Tensor:
    """Bit masks of any length as [N] int64 or [N, words] int64, the lowest word first."""
    words = -(-len(masks) // 64)
    low = (1 << 64) - 1
    cut = [[m >> 64 * w & low for w in range(words)] for m in masks]
    signed = torch.tensor([[v - (1 << 64) if v >> 63 else v for v in row] for row in cut])
    return signed[:, 0] if words == 1 else signed


class Backend(Protocol):
    """The operations of a decoder. Every backend passes one conformance suite."""

    name: str
    abilities: frozenset[Ability]
    """What `attention` takes beyond plain causal attention; the rest raises UsageError."""

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
        """softmax(q k / sqrt(D)) v of T new tokens, whose K and V already stand in the cache.

        query: [B, T, Hq, D], rotated. lengths: [B] int32, slots before node 0 of the block.
        Query t stands at slot lengths + first + t. Without a tree it sees every slot up to its
        own. With `tree` ([T] int64, or [T, words]), it sees the slots before `lengths` and, of the
        block, the nodes whose bit is set (`Topology.ancestors[first : first + T]`).
        Returns [B, T, Hq, D] in the query's type.
        """
        ...

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
        """Rotates q and k at positions lengths + depths; writes K and V at lengths + first + t.

        query: [B, T, Hq, D]; key, value: [B, T, Hkv, D]. depths: [T] int32, first + 0..T-1 for a
        chain. cos, sin: [positions, D / 2] float32; halves are rotated (Llama's convention).
        Returns the rotated query, [B, T, Hq, D].
        """
        ...

    def accept_greedy(self, draft: Tensor, target: Tensor) -> Accepted:
        """Drafts are accepted up to the first that is not the target's argmax.

        draft: [B, gamma] int64. target: [B, gamma + 1] int64, the target's choices, or
        [B, gamma + 1, V] logits; equal logits: the lowest token.
        """
        ...

    def accept_sampled(
        self, draft: Tensor, draft_logits: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Leviathan's rule: accept with min(1, p/q), else draw from max(p - q, 0).

        draft: [B, gamma] int64, drawn from softmax(draft_logits [B, gamma, V]).
        target_logits: [B, gamma + 1, V]; both after temperature and top-p (-inf: excluded).
        """
        ...

    def accept_tree_greedy(self, tree: Topology, tokens: Tensor, target: Tensor) -> Accepted:
        """Walks from the root to the child that carries the target's argmax, while there is one.

        tokens: [B, N] int64, the root's unused. target: [B, N] int64 or [B, N, V] logits.
        """
        ...

    def accept_tree_sampled(
        self, tree: Topology, tokens: Tensor, target_logits: Tensor, noise: Noise
    ) -> Accepted:
        """Walks by the target's law alone (SGLang's rule, its thresholds 1): one coin a level.

        Siblings accumulate p(token); the first whose sum passes the coin is accepted, else a token
        is drawn from p without the siblings tried. Lossless where siblings are distinct and chosen
        without looking at the coin, so also the rule for a deterministic chain (n-gram).
        tokens: [B, N] int64. target_logits: [B, N, V].
        """
        ...

    def sample(self, logits: Tensor, noise: Noise, *, node: int = 0) -> Tensor:
        """[B] int64 drawn from softmax(logits [B, V]) by an exponential race."""
        ...

    def compact(self, cache: LayerCache, lengths: Tensor, nodes: Tensor) -> None:
        """Moves the accepted path to consecutive slots: node nodes[b, i] to lengths[b] + 1 + i.

        nodes: [B, depth] int32, increasing along a path, -1 after its end (`Accepted.nodes`).
        The root stays at slot lengths[b].
        """
        ...
