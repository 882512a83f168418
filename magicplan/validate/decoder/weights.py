"""The tensors of a Llama-shaped model, from a checkpoint or random, whole or one rank's part.

Queries, keys and values are one matrix, gate and up another: fewer and larger products.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.validate.decoder.checkpoint import Checkpoint
from magicplan.validate.decoder.llama_config import LlamaConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One rank's part of a model: KV heads, feed-forward width and vocabulary in equal parts.

    Raises UsageError where KV heads, feed-forward or vocabulary do not divide.
    """

    shape: ModelShape
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        counts = {
            "KV heads": self.shape.kv_heads,
            "feed-forward width": self.shape.ffn,
            "vocabulary": self.shape.vocab,
        }
        for what, count in counts.items():
            if count % self.ranks:
                raise UsageError(
                    f"{self.shape.name}: {what} {count} does not divide over {self.ranks} ranks"
                )

    def part(self, count: int) -> slice:
        """The rows, of `count`, that this rank holds."""
        each = count // self.ranks
        return slice(self.rank * each, (self.rank + 1) * each)

    @property
    def q_heads(self) -> int:
        return self.shape.q_heads // self.ranks

    @property
    def kv_heads(self) -> int:
        return self.shape.kv_heads // self.ranks

    @property
    def vocab(self) -> int:
        return self.shape.vocab // self.ranks


@dataclass(slots=True, kw_only=True)
class LayerWeights:
    """One layer. Matrices are [out, in]; biases and per-head norms may be None: there are none."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    ffn_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(slots=True, kw_only=True)
class Weights:
    """All tensors of one rank: `embedding` [vocab, hidden], `head` [vocab / ranks, hidden]."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor


Read = Callable[[str, tuple[int, ...], slice | None, slice | None], Tensor]
"""Name, whole shape, rows and columns to take; the tensor on its device in its dtype."""


def checkpoint_reader(source: Checkpoint, device: torch.device, dtype: torch.dtype) -> Read:
    """Tensors of a checkpoint, each read once and moved straight to the device."""

    def read(
        name: str, shape: tuple[int, ...], rows: slice | None, columns: slice | None
    ) -> Tensor:
        return source.read(name, shape, rows, columns).to(device=device, dtype=dtype)

    return read


def random_reader(
    device: torch.device, dtype: torch.dtype, seed: int, attention_scale: float = 1.0
) -> Read:
    """Random tensors by name and seed: matrices N(0, 1 / columns), norms 1, biases N(0, 0.02).

    Every layer then adds numbers of size 1 to the residual, and logits are of size 1; tied
    embeddings do not make the model repeat its input. `attention_scale` multiplies what attention
    adds: with less of it, a draft that sees less of the context agrees more often.
    A tensor does not depend on which part of it is taken, so ranks agree with one process.
    """

    def read(
        name: str, shape: tuple[int, ...], rows: slice | None, columns: slice | None
    ) -> Tensor:
        if name.endswith("norm.weight"):
            values = torch.ones(shape, dtype=dtype, device=device)
        else:
            generator = torch.Generator(device=device)
            generator.manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            spread = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
            values = torch.empty(shape, dtype=dtype, device=device)
            values.normal_(0.0, spread, generator=generator)
            if name.endswith("o_proj.weight") and attention_scale != 1:
                values.mul_(attention_scale)
        values = values[rows or slice(None)]
        return values[..., columns or slice(None)].contiguous()

    return read


def build_weights(config: LlamaConfig, shard: Shard, read: Read, *, tied: bool) -> Weights:
    """All tensors of one rank, read under their Hugging Face names.

    `tied`: the head is the embedding (by the config, or because the checkpoint has no head).
    """
    shape = config.shape
    whole = (shape.vocab, shape.hidden)
    embedding = read("model.embed_tokens.weight", whole, None, None)
    rows = shard.part(shape.vocab)
    return Weights(
        embedding=embedding,
        layers=[_layer(config, shard, read, f"model.layers.{i}.") for i in range(shape.layers)],
        norm=read("model.norm.weight", (shape.hidden,), None, None),
        head=embedding[rows] if tied else read("lm_head.weight", whole, rows, None),
    )


def _layer(config: LlamaConfig, shard: Shard, read: Read, at: str) -> LayerWeights:
    shape = config.shape

    def norm(name: str, size: int) -> Tensor:
        return read(f"{at}{name}.weight", (size,), None, None)

    qkv, qkv_bias = _stacked(
        read,
        shard,
        {
            f"{at}self_attn.q_proj": shape.q_heads * shape.head_dim,
            f"{at}self_attn.k_proj": shape.kv_heads * shape.head_dim,
            f"{at}self_attn.v_proj": shape.kv_heads * shape.head_dim,
        },
        shape.qkv_bias,
    )
    gate_up, gate_up_bias = _stacked(
        read,
        shard,
        {f"{at}mlp.gate_proj": shape.ffn, f"{at}mlp.up_proj": shape.ffn},
        shape.ffn_bias,
    )
    output, output_bias = _summed(
        read, shard, f"{at}self_attn.o_proj", shape.q_heads * shape.head_dim, shape.output_bias
    )
    down, down_bias = _summed(read, shard, f"{at}mlp.down_proj", shape.ffn, shape.ffn_bias)
    return LayerWeights(
        attention_norm=norm("input_layernorm", shape.hidden),
        qkv=qkv,
        qkv_bias=qkv_bias,
        q_norm=norm("self_attn.q_norm", shape.head_dim) if config.qk_norm else None,
        k_norm=norm("self_attn.k_norm", shape.head_dim) if config.qk_norm else None,
        output=output,
        output_bias=output_bias,
        ffn_norm=norm("post_attention_layernorm", shape.hidden),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
    )


def _stacked(
    read: Read, shard: Shard, parts: dict[str, int], bias: bool
) -> tuple[Tensor, Tensor | None]:
    """This rank's rows of matrices that share their input, one below the other."""
    hidden = shard.shape.hidden
    matrix = torch.cat(
        [read(f"{n}.weight", (rows, hidden), shard.part(rows), None) for n, rows in parts.items()]
    )
    if not bias:
        return matrix, None
    biases = [read(f"{n}.bias", (rows,), shard.part(rows), None) for n, rows in parts.items()]
    return matrix, torch.cat(biases)


def _summed(
    read: Read, shard: Shard, name: str, columns: int, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """This rank's columns of a matrix whose products are summed over ranks; one rank adds bias."""
    shape = (shard.shape.hidden, columns)
    matrix = read(f"{name}.weight", shape, None, shard.part(columns))
    if not bias:
        return matrix, None
    whole = read(f"{name}.bias", (shard.shape.hidden,), None, None)
    return matrix, whole if shard.rank == 0 else torch.zeros_like(whole)
