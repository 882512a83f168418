"""A Llama-shaped transformer over a KV cache: one forward pass of T tokens a sequence.

Decoding, drafting, verifying a chain or a tree and reading a prompt are the same pass; where its
tokens stand and what they see is in `Block`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from magicplan.kernels.backend import Backend, LayerCache, Window
from magicplan.kernels.torch_attention import rotate
from magicplan.validate.decoder.checkpoint import Checkpoint
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.llama_config import LlamaConfig
from magicplan.validate.decoder.tensor_parallel import ALONE, RankGroup
from magicplan.validate.decoder.weights import (
    LayerWeights,
    Shard,
    Weights,
    build_weights,
    checkpoint_reader,
    random_reader,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The places of T tokens in the caches of a batch, and what they see.

    lengths: [B] int32, tokens before the block. depths: [T] int32, position of each token beyond
    `lengths`. Token t is written at slot lengths + first + t. view, tree: see `Backend.attention`.
    """

    lengths: Tensor
    depths: Tensor
    first: int = 0
    view: Window | None = None
    tree: Tensor | None = None


Watch = Callable[[int, Tensor], None]
"""Called with a layer's number and its rotated queries [B, T, Hq, D]."""


class Transformer:
    """Weights on a device and the pass over them. `ranks` share heads, widths and vocabulary."""

    def __init__(
        self,
        config: LlamaConfig,
        weights: Weights,
        *,
        ranks: RankGroup = ALONE,
        origin: str = "random",
    ) -> None:
        self.config, self.weights, self.ranks, self.origin = config, weights, ranks, origin
        self.shape = config.shape
        self.shard = Shard(shape=config.shape, rank=ranks.rank, ranks=ranks.count)
        self.device, self.dtype = weights.embedding.device, weights.embedding.dtype
        self._angles = torch.empty(0), torch.empty(0)
        self._still = torch.empty(0), torch.empty(0)

    @classmethod
    def random(
        cls,
        config: LlamaConfig,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        attention_scale: float = 1.0,
        ranks: RankGroup = ALONE,
    ) -> Transformer:
        """Random weights that depend on the seed alone, not on device count."""
        read = random_reader(torch.device(device), dtype, seed, attention_scale)
        shard = Shard(shape=config.shape, rank=ranks.rank, ranks=ranks.count)
        weights = build_weights(config, shard, read, tied=config.shape.tied_embeddings)
        return cls(config, weights, ranks=ranks)

    @classmethod
    def from_checkpoint(
        cls,
        config: LlamaConfig,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        ranks: RankGroup = ALONE,
    ) -> Transformer:
        """The weights of a local Hugging Face folder.

        Raises SpecError for a folder without a checkpoint, pickle files, a file cut short, and a
        tensor that is missing or of another shape than the config's.
        """
        source = Checkpoint(folder)
        read = checkpoint_reader(source, torch.device(device), dtype)
        shard = Shard(shape=config.shape, rank=ranks.rank, ranks=ranks.count)
        tied = config.shape.tied_embeddings or "lm_head.weight" not in source
        weights = build_weights(config, shard, read, tied=tied)
        return cls(config, weights, ranks=ranks, origin="checkpoint")

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors of this rank; a tied head is counted once."""
        w = self.weights
        tensors = [w.embedding, w.norm]
        if w.head.untyped_storage().data_ptr() != w.embedding.untyped_storage().data_ptr():
            tensors.append(w.head)
        for layer in w.layers:
            parts = (getattr(layer, name) for name in layer.__slots__)
            tensors += [part for part in parts if part is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def rope(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [positions or more, D / 2] float32; made once for the longest need."""
        if self._angles[0].shape[0] < positions:
            frequency = torch.tensor(
                self.config.rope.frequencies(self.shape.head_dim), dtype=torch.float64
            )
            angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
            self._angles = (
                angle.cos().to(self.device, torch.float32),
                angle.sin().to(self.device, torch.float32),
            )
        return self._angles

    def _no_turn(self, positions: int) -> tuple[Tensor, Tensor]:
        """Tables that rotate by nothing, for keys that are rotated already."""
        if self._still[0].shape[0] < positions:
            size = (positions, self.shape.head_dim // 2)
            self._still = (
                torch.ones(size, device=self.device),
                torch.zeros(size, device=self.device),
            )
        return self._still

    def forward(self, tokens: Tensor, cache: KVCache, block: Block, backend: Backend) -> Tensor:
        """Logits [B, T, V / ranks] of tokens [B, T]; their K and V are written to the cache."""
        x = self.hidden(tokens, cache, block, backend)
        return F.linear(self._norm(x, self.weights.norm), self.weights.head)

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache,
        block: Block,
        backend: Backend,
        watch: Watch | None = None,
    ) -> Tensor:
        """Hidden states after the last layer, [B, T, hidden]: all that prefill needs."""
        x = F.embedding(tokens, self.weights.embedding)
        for number, (layer, kv) in enumerate(zip(self.weights.layers, cache.layers, strict=True)):
            seen = None if watch is None else (lambda q, n=number: watch(n, q))
            x = x + self._attention(self._norm(x, layer.attention_norm), layer, kv, cache, block,
                                    backend, seen)  # fmt: skip
            x = x + self._feed_forward(self._norm(x, layer.ffn_norm), layer)
        return x

    def choose(self, logits: Tensor) -> Tensor:
        """[...] int64: the greedy token of logits [..., V / ranks]."""
        return self.ranks.choose(logits)

    def whole(self, logits: Tensor) -> Tensor:
        """The logits of the whole vocabulary, [..., V], from this rank's part, [..., V / ranks]."""
        return self.ranks.whole(logits)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.norm_eps)

    def _attention(
        self,
        x: Tensor,
        layer: LayerWeights,
        kv: LayerCache,
        cache: KVCache,
        block: Block,
        backend: Backend,
        watch: Callable[[Tensor], None] | None,
    ) -> Tensor:
        batch, tokens, _ = x.shape
        heads, kv_heads, dim = self.shard.q_heads, self.shard.kv_heads, self.shape.head_dim
        packed = F.linear(x, layer.qkv, layer.qkv_bias).view(batch, tokens, -1, dim)
        query, key, value = torch.split(packed, [heads, kv_heads, kv_heads], dim=2)
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = self._norm(query, layer.q_norm), self._norm(key, layer.k_norm)
        lengths = block.lengths
        cos, sin = self.rope(cache.positions)
        if cache.shift is not None:
            # slots are not positions: rotate here, then append with a rotation by nothing
            at = (lengths[:, None] + block.depths).long()
            angle = cos[at][:, :, None], sin[at][:, :, None]
            query, key = rotate(query, *angle), rotate(key, *angle)
            lengths = lengths + cache.shift
            cos, sin = self._no_turn(cache.capacity)
        query = backend.rope_append(
            query, key, value, kv, lengths, block.depths, cos, sin, first=block.first
        )
        if watch is not None:
            watch(query)
        seen = backend.attention(
            query, kv, lengths, view=block.view, tree=block.tree, first=block.first
        )
        out = F.linear(seen.reshape(batch, tokens, heads * dim), layer.output, layer.output_bias)
        return self.ranks.sum(out)

    def _feed_forward(self, x: Tensor, layer: LayerWeights) -> Tensor:
        gate, up = F.linear(x, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return self.ranks.sum(F.linear(F.silu(gate) * up, layer.down, layer.down_bias))
