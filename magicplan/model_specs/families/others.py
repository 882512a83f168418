"""Families that share caches, pick blocks, or list every layer's widths."""

from __future__ import annotations

from dataclasses import replace

from magicplan.model_specs.families.build import (
    Kind,
    Part,
    Traits,
    assemble,
    attention,
    context,
    dense_width,
    experts,
    heads,
    kinds,
    plain,
    refused,
    sizes,
    sparse_layers,
    window,
    windowed,
)
from magicplan.model_specs.layers import Attention, Dense, Indexer, Projection, projection
from magicplan.model_specs.reader import Reader
from magicplan.model_specs.shape import ModelShape


def _gemma_kinds(read: Reader, layers: int, period: int) -> list[Kind]:
    step = read.whole("sliding_window_pattern", default=period)
    t = Traits(windows=lambda _, n: ["sliding" if (at + 1) % step else "full" for at in range(n)])
    return kinds(read, t, layers)


GEMMA = Traits(
    qkv_bias="attention_bias", output_bias="attention_bias", norms=4, tied=True,
    query_key_norms="head",
)  # fmt: skip


def gemma3n(read: Reader, name: str) -> ModelShape:
    """The last layers read caches of earlier ones; four residual streams, a low-rank residual, an
    input a layer from an embedding of its own."""
    layers, hidden, _ = sizes(read)
    full = attention(read, GEMMA, hidden)
    by_kind = {"full": full, "sliding": windowed(full, window(read, GEMMA, context(read)))}
    first_shared = layers - read.whole("num_kv_shared_layers", default=0, low=0)
    streams = read.whole("altup_num_inputs", default=4)
    rank, per_layer = read.whole("laurel_rank"), read.whole("hidden_size_per_layer_input")
    dense = Part(parts=(Dense(ffn=dense_width(read)),))
    pairs = [
        (_reader(by_kind[kind], at >= first_shared), dense)
        for at, kind in enumerate(_gemma_kinds(read, layers, 5))
    ]
    extras = (
        projection("laurel_down", rank, hidden),
        projection("laurel_up", hidden, rank),
        projection("altup", 1 + streams, streams * streams),
        projection("altup_router", streams, hidden),
        *_per_layer(hidden, per_layer),
        projection("per_layer_model", per_layer, hidden),
    )
    table = read.whole("vocab_size_per_layer_input") * layers * per_layer
    unembed = 2 * (streams - 1) * hidden * hidden
    return assemble(
        read,
        name,
        GEMMA,
        layers=pairs,
        # norms: four, after laurel, of altup's router, after the layer's input; one scale vector
        norms=8 * hidden,
        extras=extras,
        top_vectors=hidden + per_layer + unembed,
        gathered_parameters=table,
    )


def _per_layer(hidden: int, width: int) -> tuple[Projection, ...]:
    return (
        projection("per_layer_gate", width, hidden),
        projection("per_layer_projection", hidden, width),
    )


def _reader(part: Part, shares: bool) -> Part:
    """A layer that reads an earlier layer's cache: no keys and values, no norm of keys."""
    if not shares:
        return part
    mixers = tuple(replace(m, owns_cache=False) for m in part.parts)
    return replace(part, parts=mixers, vectors=part.vectors - mixers[0].head_dim)


def gemma4(read: Reader, name: str) -> ModelShape:
    """Wider heads, and keys that serve as values, in the layers that see everything; caches shared
    by the last layers; experts beside the dense feed-forward; an input a layer."""
    layers, hidden, _ = sizes(read)
    full = attention(read, GEMMA, hidden)
    same = read.flag("attention_k_eq_v", default=False)
    mixer: Attention = full.parts[0]
    width = read.whole("global_head_dim", default=512)
    kv = mixer.kv_heads
    if same:
        kv = read.whole("num_global_key_value_heads", default=kv)
    whole = replace(mixer, head_dim=width, kv_heads=kv, one_projection=same)
    of = _gemma_kinds(read, layers, 6)
    of[-1] = "full"
    by_kind = {
        "full": Part(parts=(whole,), vectors=2 * width),
        "sliding": windowed(full, window(read, GEMMA, context(read))),
    }
    first_shared = layers - read.whole("num_kv_shared_layers", default=0, low=0)
    double = read.flag("use_double_wide_mlp", default=False)
    routed = read.flag("enable_moe_block", default=False)
    ffn = dense_width(read)
    mixture = experts(read, Traits(routed=True), hidden, [True] * layers) if routed else Part()
    pairs = []
    for at, kind in enumerate(of):
        shares = at >= first_shared
        dense = Dense(ffn=2 * ffn if double and shares else ffn)
        beside = mixture.parts[0].count + hidden if routed else 0
        feed = Part(parts=(dense, *mixture.parts), vectors=beside)
        pairs.append((_reader(by_kind[kind], shares), feed))
    per_layer = read.whole("hidden_size_per_layer_input", default=0, low=0)
    norms = (4 + 3 * routed) * hidden
    if not per_layer:
        return assemble(read, name, GEMMA, layers=pairs, norms=norms, top_vectors=hidden)
    table = read.whole("vocab_size_per_layer_input") * layers * per_layer
    return assemble(
        read,
        name,
        GEMMA,
        layers=pairs,
        norms=norms + hidden,
        extras=(
            *_per_layer(hidden, per_layer),
            projection("per_layer_model", per_layer, hidden),
        ),
        top_vectors=hidden + per_layer,
        gathered_parameters=table,
    )


def minimax_m3(read: Reader, name: str) -> ModelShape:
    """Attention over blocks of 128 tokens that an indexer picks, after a few dense layers."""
    layers, hidden, _ = sizes(read)
    widths = ("moe_intermediate_size", "intermediate_size")
    t = Traits(query_key_norms="head", routed=True, correction=True, width_keys=widths)
    inner = Reader(read.part("sparse_attention_config"), read.where, whole_model=False)
    full = attention(read, t, hidden)
    width = inner.whole("sparse_index_dim", default=read.whole("index_head_dim", default=128))
    number = inner.whole("sparse_num_index_heads", default=read.whole("index_n_heads", default=4))
    block = inner.whole("sparse_block_size", default=read.whole("index_block_size", default=128))
    blocks = inner.whole("sparse_topk_blocks", default=read.whole("index_topk_blocks", default=16))
    picks = Indexer(
        heads=number,
        head_dim=width,
        selected_tokens=blocks * block,
        key_bytes=2.0 * width,
        head_weights=False,
        scores_dtype="bf16",
    )
    parts = tuple(replace(mixer, indexer=picks) for mixer in full.parts)
    sparse = replace(full, parts=parts, vectors=full.vectors + 2 * width)
    flags = inner.wholes("sparse_attention_freq", layers)
    if flags is None:
        listed = read.each("layer_types", layers) or []
        flags = [int("sparse" in str(entry)) for entry in listed] or [0] * layers
    experts_in = sparse_layers(read, layers)
    mixture = experts(read, t, hidden, experts_in)
    dense = Part(parts=(Dense(ffn=dense_width(read)),))
    pairs = [
        (sparse if picked else full, mixture if routed else dense)
        for picked, routed in zip(flags, experts_in, strict=True)
    ]
    return assemble(read, name, t, layers=pairs, norms=2 * hidden, top_vectors=hidden)


def minimax_m2(read: Reader, name: str) -> ModelShape:
    """Whole attention everywhere; a list of other kinds is that of an earlier model's."""
    flags = read.wholes("attn_type_list")
    if flags and not all(flags):
        raise read.refuse("attn_type_list", "linear attention in a model of this model_type")
    normed = read.flag("use_qk_norm", default=True)
    t = Traits(
        query_key_norms="full" if normed else "", routed=True,
        correction=read.flag("use_routing_bias", default=True), width_keys=("intermediate_size",),
    )  # fmt: skip
    return plain(read, name, t)


def glm4_moe(read: Reader, name: str) -> ModelShape:
    """GLM-4.5: norms of queries and keys where `use_qk_norm` says so."""
    t = Traits(
        qkv_bias="attention_bias", routed=True, correction=True,
        query_key_norms="head" if read.flag("use_qk_norm", default=False) else "",
    )  # fmt: skip
    return plain(read, name, t)


def mimo_v2(read: Reader, name: str) -> ModelShape:
    """MiMo-V2: values narrower than keys, twice the KV heads and a sink a head within windows."""
    layers, hidden, _ = sizes(read)
    t = Traits(routed=True, correction=True, qkv_bias="attention_bias")
    q_heads, kv_heads, width = heads(read, hidden)
    value = read.whole("v_head_dim", default=128)
    full = Attention(q_heads=q_heads, kv_heads=kv_heads, head_dim=width, value_dim=value)
    near = replace(
        full,
        q_heads=read.whole("swa_num_attention_heads", default=q_heads),
        kv_heads=read.whole("swa_num_key_value_heads", default=2 * kv_heads),
        head_dim=read.whole("swa_head_dim", default=width),
        value_dim=read.whole("swa_v_head_dim", default=value),
        window_tokens=read.whole("sliding_window"),
    )
    flags = read.wholes("hybrid_layer_pattern", layers)
    if flags is None:
        of = kinds(
            read,
            replace(t, windows=lambda _, n: [_mimo_kind(at) for at in range(n)]),
            layers,
        )
        flags = [int(kind == "sliding") for kind in of]
    sparse = sparse_layers(read, layers)
    if read.config.get("moe_layer_freq") is None and read.config.get("mlp_layer_types") is None:
        sparse = [at > 0 for at in range(layers)]
    mixture = experts(read, t, hidden, sparse)
    dense = Part(parts=(Dense(ffn=dense_width(read)),))
    sinks = read.flag("add_swa_attention_sink_bias", default=True)
    mixers = (Part(parts=(full,)), Part(parts=(near,), vectors=near.q_heads * sinks))
    pairs = [
        (mixers[bool(slides)], mixture if routed else dense)
        for slides, routed in zip(flags, sparse, strict=True)
    ]
    return assemble(read, name, t, layers=pairs, norms=2 * hidden, top_vectors=hidden)


def _mimo_kind(at: int) -> Kind:
    return "full" if at == 0 or (at + 1) % 6 == 0 else "sliding"


def nemotron_nas(read: Reader, name: str) -> ModelShape:
    """Llama layers whose heads, widths and very presence are listed block by block (NVIDIA's
    searched models); a width is a multiple of two thirds of the hidden size, rounded up to 256."""
    layers, hidden, _ = sizes(read)
    q_heads = read.whole("num_attention_heads")
    width = read.whole("head_dim", default=hidden // q_heads)
    pairs = []
    for at, entry in enumerate(read.each("block_configs", layers) or []):
        block = Reader(entry, f"{read.where}: block_configs[{at}]", whole_model=False)
        mixer = Reader(block.part("attention"), block.where, whole_model=False)
        feed = Reader(block.part("ffn"), block.where, whole_model=False)
        mixers, feeds = Part(), Part()
        for part in (mixer, feed):
            if part.flag("replace_with_linear", default=False):
                raise part.refuse("replace_with_linear", "a linear layer in a block's stead")
        if not mixer.flag("no_op", default=False):
            group = mixer.whole("n_heads_in_group")
            if q_heads % group:
                raise refused(mixer, f"n_heads_in_group {group} does not divide {q_heads} heads")
            one = Attention(q_heads=q_heads, kv_heads=q_heads // group, head_dim=width)
            mixers = Part(parts=(one,), vectors=hidden)
        if not feed.flag("no_op", default=False):
            times = feed.raw("ffn_mult")
            if isinstance(times, bool) or not isinstance(times, int | float) or times <= 0:
                raise refused(feed, f"ffn_mult is {times!r}, expected a number above 0")
            ffn = 256 * -(-int(2 * times * hidden / 3) // 256)
            feeds = Part(parts=(Dense(ffn=ffn),), vectors=hidden)
        pairs.append((mixers, feeds))
    if not pairs:
        raise refused(read, "block_configs is missing, expected a list of blocks")
    return assemble(read, name, Traits(), layers=pairs, norms=0, top_vectors=hidden)
