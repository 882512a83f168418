"""Families with latent attention, by an indexer or not, and DeepSeek-V4's compressed attention."""

from __future__ import annotations

from dataclasses import replace

from magicplan.model_specs.families.build import (
    Part,
    Traits,
    assemble,
    dense_width,
    experts,
    has_experts,
    refused,
    sizes,
    sparse_layers,
)
from magicplan.model_specs.layers import (
    Compressed,
    Dense,
    Indexer,
    Latent,
    LatentAttention,
    projection,
)
from magicplan.model_specs.reader import Reader, show
from magicplan.model_specs.shape import ModelShape

FP8_KEY_BYTES = 1 + 4 / 128
"""Bytes of one number of an index key: fp8, and an fp32 scale for every 128 numbers, as in vLLM's
indexer cache."""
DEEPSEEK = Traits(routed=True, correction=True)


def latent(read: Reader, gate: bool = False) -> Part:
    """Latent attention, with a norm on each compressed query and key-value vector."""
    ranks = LatentAttention(
        kv_rank=read.whole("kv_lora_rank"),
        q_rank=read.whole("q_lora_rank", default=0, low=0),
        nope_head_dim=read.whole("qk_nope_head_dim"),
        rope_head_dim=read.whole("qk_rope_head_dim"),
        value_head_dim=read.whole("v_head_dim"),
    )
    heads = read.whole("num_attention_heads")
    mixer = Latent(
        q_heads=heads, ranks=ranks, gate_numbers=heads * ranks.value_head_dim if gate else 0
    )
    biases = 0
    if read.flag("attention_bias"):
        biases = ranks.q_rank + ranks.kv_rank + ranks.rope_head_dim + sizes(read)[1]
    return Part(parts=(mixer,), vectors=ranks.kv_rank + ranks.q_rank + biases)


def indexer(read: Reader) -> Indexer:
    """DeepSeek-V3.2's indexer, whose keys are cached in fp8."""
    width = read.whole("index_head_dim")
    return Indexer(
        heads=read.whole("index_n_heads"),
        head_dim=width,
        selected_tokens=read.whole("index_topk"),
        key_bytes=width * FP8_KEY_BYTES,
        query_rank=read.whole("q_lora_rank", default=0, low=0),
    )


def _routed(read: Reader, name: str, mixers: list[Part], *, correction: bool) -> ModelShape:
    layers, hidden, _ = sizes(read)
    t = replace(DEEPSEEK, correction=correction)
    sparse = sparse_layers(read, layers) if has_experts(read) else [False] * layers
    mixture = experts(read, t, hidden, sparse) if any(sparse) else Part()
    dense = Part() if all(sparse) else Part(parts=(Dense(ffn=dense_width(read)),))
    feeds = [mixture if routed else dense for routed in sparse]
    pairs = list(zip(mixers, feeds, strict=True))
    return assemble(read, name, t, layers=pairs, norms=2 * hidden, top_vectors=hidden)


def deepseek_v2(read: Reader, name: str) -> ModelShape:
    """Latent attention, experts without a routing bias (DeepSeek-V2, MiniCPM3 without experts)."""
    _no_indexer(read)
    mixers = [latent(read)] * sizes(read)[0]
    return _routed(read, name, mixers, correction=False)


def deepseek_v3(read: Reader, name: str) -> ModelShape:
    """Latent attention, experts with a routing bias (DeepSeek-V3, Kimi-K2, GLM-4.7-Flash)."""
    _no_indexer(read)
    return _routed(read, name, [latent(read)] * sizes(read)[0], correction=True)


def longcat_flash(read: Reader, name: str) -> ModelShape:
    """Two latent attentions and two dense feed-forwards a layer around one mixture of experts, some
    of which do nothing: a token's visits to those cost nothing and are counted as visits."""
    layers, hidden, _ = sizes(read)
    one = latent(read)
    idle = read.whole("zero_expert_num", default=0, low=0)
    mixture = experts(
        read, replace(DEEPSEEK, width_keys=("expert_ffn_hidden_size",)), hidden, [True] * layers
    )
    width = read.whole("ffn_hidden_size", "intermediate_size")
    dense = Dense(ffn=width)
    feeds = Part(
        parts=(dense, dense, *mixture.parts), vectors=mixture.vectors + idle * (hidden + 1)
    )
    both = Part(parts=one.parts * 2, vectors=2 * one.vectors)
    return assemble(
        read,
        name,
        DEEPSEEK,
        layers=[(both, feeds)] * layers,
        norms=4 * hidden,
        top_vectors=hidden,
    )


def _no_indexer(read: Reader) -> None:
    if read.config.get("index_topk"):
        raise read.refuse("index_topk", "a sparse-attention indexer under this model_type")


def sparse_latent(read: Reader, name: str) -> ModelShape:
    """Latent attention of tokens that an indexer picks; layers marked "shared" take over the choice
    of the last one before them that picks (GLM-5.2)."""
    layers = sizes(read)[0]
    own, one = latent(read), indexer(read)
    listed = read.each("indexer_types", layers) or ["full"] * layers
    unknown = sorted({str(entry) for entry in listed} - {"full", "shared"})
    if unknown:
        raise read.refuse("indexer_types", ", ".join(unknown))
    mixers = []
    for entry in listed:
        picks = replace(one, selects=entry == "full")
        parts = tuple(replace(mixer, indexer=picks) for mixer in own.parts)
        vectors = own.vectors + 2 * one.head_dim * picks.selects
        mixers.append(Part(parts=parts, vectors=vectors))
    return _routed(read, name, mixers, correction=True)


V4_TYPES = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}


def deepseek_v4(read: Reader, name: str) -> ModelShape:
    """Compressed attention, hyper-connections around both halves of a layer, experts everywhere;
    the first layers choose theirs by a table of tokens, which has no routing bias."""
    layers, hidden, _ = sizes(read)
    streams = read.whole("hc_mult", default=4)
    mix = (2 + streams) * streams
    mixers = {ratio: _compressed(read, hidden, ratio) for ratio in set(_ratios(read, layers))}
    hashed = read.whole("num_hash_layers", default=3, low=0)
    mixture = experts(read, replace(DEEPSEEK, correction=False), hidden, [True] * layers)
    count = mixture.parts[0].count
    pairs = [
        (mixers[ratio], replace(mixture, vectors=0 if at < hashed else count))
        for at, ratio in enumerate(_ratios(read, layers))
    ]
    return assemble(
        read,
        name,
        DEEPSEEK,
        layers=pairs,
        norms=2 * hidden + 2 * (mix + 3),
        extras=tuple(projection(part, mix, streams * hidden) for part in ("hc_attn", "hc_ffn")),
        top_vectors=hidden + streams * streams * hidden + streams + 1,
    )


def _ratios(read: Reader, layers: int) -> list[int]:
    listed = read.each("layer_types", layers)
    if listed is not None:
        unknown = sorted({str(entry) for entry in listed} - set(V4_TYPES))
        if unknown:
            raise read.refuse("layer_types", ", ".join(unknown))
        return [V4_TYPES[str(entry)] for entry in listed]
    ratios = read.wholes("compress_ratios", layers)
    if ratios is None:
        return [128, 128, *(4 if at % 2 == 0 else 128 for at in range(2, layers))][:layers]
    if set(ratios) - {0, 4, 128}:
        raise refused(read, f"compress_ratios is {show(ratios)}, expected 0, 4 or 128 a layer")
    return ratios


def _compressed(read: Reader, hidden: int, ratio: int) -> Part:
    heads, width = read.whole("num_attention_heads"), read.whole("head_dim")
    overlap = 2 if ratio == 4 else 1
    picks = None
    vectors = read.whole("q_lora_rank") + width + heads
    if ratio:
        vectors += ratio * overlap * width + width
    if ratio == 4:
        dim = read.whole("index_head_dim")
        picks = Indexer(
            heads=read.whole("index_n_heads"),
            head_dim=dim,
            selected_tokens=read.whole("index_topk"),
            key_bytes=dim * FP8_KEY_BYTES,
            query_rank=read.whole("q_lora_rank"),
        )
        vectors += ratio * overlap * dim + dim
    mixer = Compressed(
        q_heads=heads,
        head_dim=width,
        q_rank=read.whole("q_lora_rank"),
        o_rank=read.whole("o_lora_rank"),
        o_groups=read.whole("o_groups"),
        window_tokens=read.whole("sliding_window"),
        ratio=ratio,
        overlap=overlap,
        indexer=picks,
    )
    return Part(parts=(mixer,), vectors=vectors)
