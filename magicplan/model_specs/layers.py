"""What a layer is: few kinds of mixer and of feed-forward, each with the sizes that cost.

A mixer brings tokens together: attention over a cache, or a recurrence over a state. Each kind says
which linear layers it has; what its context costs stands in `magicplan.roofline.layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A width of `numbers`, made of `pieces` that tensor-parallel ranks share whole.

    Past `pieces` ranks each holds a copy of one: 8 KV heads on 16 ranks; 1 piece is on every rank.
    """

    numbers: int
    pieces: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear layer Y[rows, wide] = X[rows, deep] W^T; `biased` adds one number a column."""

    name: str
    wide: tuple[Split, ...]
    deep: Split
    biased: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases of the whole layer."""
        wide = sum(part.numbers for part in self.wide)
        return wide * (self.deep.numbers + self.biased)


def projection(
    name: str, wide: int, deep: int, pieces: int = 1, deep_pieces: int = 1
) -> Projection:
    """A linear layer without a bias, its columns in `pieces` and its rows in `deep_pieces`."""
    return Projection(
        name=name,
        wide=(Split(numbers=wide, pieces=pieces),),
        deep=Split(numbers=deep, pieces=deep_pieces),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """What picks the cached tokens that a query attends to, by scoring a small key a token.

    DeepSeek-V3.2 (arXiv 2512.02556, section 2) scores every token and takes 2048; MiniMax-M3 takes
    16 blocks of 128 tokens. `key_bytes` is what the engine caches of one key: 128 fp8 numbers and
    an fp32 scale are 132 in vLLM (v1/attention/backends/mla/indexer.py). `selects` is False where a
    layer takes over the choice of one before it, and has neither weights nor keys of its own.
    """

    heads: int
    head_dim: int
    selected_tokens: int
    key_bytes: float
    query_rank: int = 0
    """Width its queries are projected from; 0 for the hidden size."""
    head_weights: bool = True
    """Whether a projection weighs its heads for each token."""
    scores_dtype: str = "fp8"
    selects: bool = True

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Its linear layers, which every rank holds whole."""
        if not self.selects:
            return ()
        queries = self.heads * self.head_dim
        found = (
            projection("index_query", queries, self.query_rank or hidden),
            projection("index_key", self.head_dim, hidden),
        )
        weights = projection("index_head_weights", self.heads, hidden)
        return (*found, weights) if self.head_weights else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Multi-head, grouped or multi-query attention over a cache of keys and values.

    `window_tokens` bounds what a query sees, as a sliding window or a chunk. A layer that does not
    own its cache reads that of an earlier layer (Gemma-3n). `gate_numbers` widens the query
    projection by an output gate (Qwen3-Next); `one_projection` makes keys and values from one
    (Gemma-4); an `indexer` picks the blocks a query sees (MiniMax-M3).
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    """Numbers of a head's value, where they differ from those of its key (MiMo-V2); else 0."""
    window_tokens: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    gate_numbers: int = 0
    owns_cache: bool = True
    one_projection: bool = False
    normed: bool = False
    """Whether every head's query and key is normalised."""
    indexer: Indexer | None = None

    @property
    def values(self) -> int:
        """Numbers of one head's value."""
        return self.value_dim or self.head_dim

    @property
    def heads(self) -> int:
        """Query heads, which tensor parallelism splits."""
        return self.q_heads

    @property
    def key_heads(self) -> int:
        """KV heads, which it splits or copies."""
        return self.kv_heads

    @property
    def cached_numbers(self) -> int:
        """Numbers the cache gains a token in this layer."""
        return self.kv_heads * (self.head_dim + self.values) if self.owns_cache else 0

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Fused queries, keys and values; the output."""
        wide = [Split(numbers=self.q_heads * self.head_dim, pieces=self.q_heads)]
        if self.owns_cache:
            widths = self.head_dim if self.one_projection else self.head_dim + self.values
            wide.append(Split(numbers=self.kv_heads * widths, pieces=self.kv_heads))
        if self.gate_numbers:
            wide.append(Split(numbers=self.gate_numbers, pieces=self.q_heads))
        entry = Split(numbers=hidden)
        read = Split(numbers=self.q_heads * self.values, pieces=self.q_heads)
        return (
            Projection(name="qkv", wide=tuple(wide), deep=entry, biased=self.qkv_bias),
            Projection(name="output", wide=(entry,), deep=read, biased=self.output_bias),
            *(self.indexer.projections(hidden) if self.indexer else ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): one latent a token.

    The cache holds `kv_rank + rope_head_dim` numbers a token and layer, shared by all heads.
    `q_rank` 0 means that queries are projected directly.
    """

    kv_rank: int
    q_rank: int
    nope_head_dim: int
    rope_head_dim: int
    value_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """A layer of latent attention, which an `indexer` makes sparse (DeepSeek-V3.2, GLM-5)."""

    q_heads: int
    ranks: LatentAttention
    gate_numbers: int = 0
    indexer: Indexer | None = None

    @property
    def heads(self) -> int:
        """Query heads, which tensor parallelism splits."""
        return self.q_heads

    @property
    def key_heads(self) -> int:
        """Latents, of which every rank holds a copy."""
        return 1

    @property
    def cached_numbers(self) -> int:
        """Numbers the cache gains a token in this layer."""
        return self.ranks.kv_rank + self.ranks.rope_head_dim

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Queries by way of their rank, the latent, and what absorbs its two expansions."""
        a, h = self.ranks, self.q_heads
        query = h * (a.nope_head_dim + a.rope_head_dim)
        queries = (
            (
                projection("query_down", a.q_rank, hidden),
                projection("query_up", query, a.q_rank, h),
            )
            if a.q_rank
            else (projection("query", query, hidden, h),)
        )
        gate = self.gate_numbers
        return (
            *queries,
            projection("kv_down", a.kv_rank + a.rope_head_dim, hidden),
            projection("key_up", h * a.nope_head_dim, a.kv_rank, h),
            projection("value_up", h * a.value_head_dim, a.kv_rank, h),
            *((projection("output_gate", gate, hidden, h),) if gate else ()),
            projection("output", hidden, h * a.value_head_dim, deep_pieces=h),
            *(self.indexer.projections(hidden) if self.indexer else ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """DeepSeek-V4 attention: one shared key-value head, recent tokens whole, older ones merged.

    Every `ratio` tokens become one cached entry beside a window of `window_tokens`; with ratio 4 an
    indexer picks entries, with 128 all are read, and 0 leaves the window alone (transformers,
    models/deepseek_v4). `o_rank` and `o_groups` are those of the grouped output projection.
    """

    q_heads: int
    head_dim: int
    q_rank: int
    o_rank: int
    o_groups: int
    window_tokens: int
    ratio: int = 0
    overlap: int = 1
    """Entries a token contributes to: 2 where neighbouring groups overlap."""
    indexer: Indexer | None = None

    @property
    def heads(self) -> int:
        """Query heads, which tensor parallelism splits."""
        return self.q_heads

    @property
    def key_heads(self) -> int:
        """The one shared head, of which every rank holds a copy."""
        return 1

    @property
    def cached_numbers(self) -> int:
        """Numbers the cache gains a token while the window fills: key and value are one."""
        return self.head_dim

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """Queries by way of their rank, one key-value head, the grouped output, the compressor."""
        h, d = self.q_heads, self.head_dim
        found = [
            projection("query_down", self.q_rank, hidden),
            projection("query_up", h * d, self.q_rank, h),
            projection("kv", d, hidden),
            projection("output_down", self.o_rank, h * d, deep_pieces=self.o_groups),
            projection("output", hidden, self.o_groups * self.o_rank, deep_pieces=self.o_groups),
        ]
        if self.ratio:
            found.append(projection("compressor", 2 * self.overlap * d, hidden))
        if self.indexer:
            i = self.indexer
            found += [
                projection("index_query", i.heads * i.head_dim, self.q_rank),
                projection("index_key", 2 * self.overlap * i.head_dim, hidden),
                projection("index_head_weights", i.heads, hidden),
            ]
        return tuple(found)


Recurrence = Literal["gated_delta", "kda", "mamba2", "mamba", "lightning", "short_conv", "rg_lru"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """A layer whose memory is a state of constant size, read and written once a token.

    `state_numbers` of `state_number_bytes` each and `window_numbers` of 16 bits (what a causal
    convolution still needs) are held a sequence; `update_flops` are those of one token's update and
    read-out. Kinds: Gated DeltaNet (arXiv 2412.06464), Kimi delta attention (arXiv 2510.26692),
    Mamba-2 (arXiv 2405.21060), Mamba (arXiv 2312.00752), lightning attention (arXiv 2501.08313),
    short convolutions (LFM2), the real-gated linear recurrent unit (Griffin, arXiv 2402.19427).
    """

    kind: Recurrence
    heads: int
    state_numbers: int
    window_numbers: int
    update_flops: int
    linear: tuple[Projection, ...]
    state_number_bytes: float = 4.0

    @property
    def key_heads(self) -> int:
        """Heads that own a part of the state."""
        return self.heads

    @property
    def cached_numbers(self) -> int:
        """Nothing grows with the context."""
        return 0

    @property
    def state_bytes(self) -> float:
        """Bytes of one sequence's state in this layer."""
        return self.state_numbers * self.state_number_bytes + 2.0 * self.window_numbers

    def projections(self, hidden: int) -> tuple[Projection, ...]:
        """The linear layers its config gives it; `hidden` decides nothing."""
        return self.linear


Mixer = Attention | Latent | Compressed | Recurrent


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A feed-forward that every token passes."""

    ffn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture-of-experts feed-forward; `layers` of the model's layers have it.

    `shared_ffn` is the total width of the experts that every token visits, 0 for none.
    `bias` says whether router and experts carry biases. `hidden` is the width that routed experts
    work in where it is not the model's (LatentMoE of Nemotron-3, Kimi-K3); 0 where it is.
    """

    count: int
    per_token: int
    ffn: int
    layers: int
    shared_ffn: int = 0
    bias: bool = False
    hidden: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: its mixers (two at once in Falcon-H1), then its feed-forwards; either may lack.

    `extras` are linear layers of neither: hyper-connections, low-rank residuals, per-layer inputs.
    """

    mixers: tuple[Mixer, ...] = ()
    feed_forwards: tuple[Dense | Experts, ...] = ()
    extras: tuple[Projection, ...] = ()
