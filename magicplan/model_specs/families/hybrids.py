"""Families with recurrent layers: Gated DeltaNet, Kimi delta attention, Mamba, lightning attention,
short convolutions."""

from __future__ import annotations

from dataclasses import replace

from magicplan.model_specs.families.build import (
    EXPERTS,
    Kind,
    Part,
    Traits,
    assemble,
    attention,
    dense_width,
    experts,
    has_experts,
    kinds,
    plain,
    refused,
    sizes,
    sparse_layers,
    windowed,
)
from magicplan.model_specs.families.latents import latent
from magicplan.model_specs.layers import (
    Dense,
    Projection,
    Recurrence,
    Recurrent,
    Split,
    projection,
)
from magicplan.model_specs.reader import Reader
from magicplan.model_specs.shape import ModelShape

STATE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "auto": 4.0, "": 4.0}


def state_bytes(read: Reader) -> float:
    """Bytes of one number of a state: 32 bits unless the config says less."""
    said = read.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    if said not in STATE_BYTES:
        raise refused(read, f"mamba_ssm_dtype is {said!r}, expected float32, bfloat16 or float16")
    return STATE_BYTES[said]


def _recurrent(
    read: Reader,
    kind: Recurrence,
    *,
    heads: int,
    state: int,
    channels: int,
    kernel: int,
    linear: tuple[Projection, ...],
    per_number: int,
) -> Recurrent:
    return Recurrent(
        kind=kind,
        heads=heads,
        state_numbers=state,
        window_numbers=channels * (kernel - 1),
        update_flops=per_number * state + 2 * channels * kernel,
        linear=linear,
        state_number_bytes=state_bytes(read),
    )


def gated_delta(read: Reader, *, kernel_bias: bool = False) -> Part:
    """Gated DeltaNet (Qwen3-Next): decay, S k, the outer product, S q are 7 FLOP a state number."""
    hidden = sizes(read)[1]
    k_heads, v_heads = read.whole("linear_num_key_heads"), read.whole("linear_num_value_heads")
    k_dim, v_dim = read.whole("linear_key_head_dim"), read.whole("linear_value_head_dim")
    kernel = read.whole("linear_conv_kernel_dim", default=4)
    keys, values = k_heads * k_dim, v_heads * v_dim
    wide = (
        Split(numbers=2 * keys, pieces=k_heads),
        Split(numbers=2 * values, pieces=v_heads),
        Split(numbers=2 * v_heads, pieces=v_heads),
    )
    linear = (
        Projection(name="in", wide=wide, deep=Split(numbers=hidden)),
        projection("out", hidden, values, deep_pieces=v_heads),
    )
    channels = 2 * keys + values
    mixer = _recurrent(
        read, "gated_delta", heads=v_heads, state=v_heads * k_dim * v_dim, channels=channels,
        kernel=kernel, linear=linear, per_number=7,
    )  # fmt: skip
    vectors = channels * (kernel + kernel_bias) + 2 * v_heads + v_dim
    return Part(parts=(mixer,), vectors=vectors)


GATED = Traits(
    query_key_norms="head", gate="full", qkv_bias="attention_bias", output_bias="attention_bias",
    routed=True, shared_gate=True,
)  # fmt: skip


def _every_fourth(read: Reader, layers: int) -> list[Kind]:
    step = read.whole("full_attention_interval", default=4)
    return ["full" if (at + 1) % step == 0 else "state" for at in range(layers)]


def qwen3_next(read: Reader, name: str) -> ModelShape:
    """Three layers of Gated DeltaNet to one of gated attention (Qwen3-Next, Qwen3.5, 3.6)."""
    gated = read.flag("attn_output_gate", default=True)
    t = replace(
        GATED, windows=_every_fourth, gate="full" if gated else "", routed=has_experts(read)
    )
    return plain(read, name, t, gated_delta(read))


def olmo_hybrid(read: Reader, name: str) -> ModelShape:
    """Gated DeltaNet with separate projections; queries and keys normalised over their width."""
    t = Traits(
        query_key_norms="full", qkv_bias="attention_bias", output_bias="attention_bias",
        windows=_every_fourth,
    )  # fmt: skip
    return plain(read, name, t, gated_delta(read))


def kimi_linear(read: Reader, name: str) -> ModelShape:
    """Kimi delta attention with latent attention among it (Kimi-Linear, Kimi-K3)."""
    layers, hidden, _ = sizes(read)
    listed = read.part("linear_attn_config")
    inner = Reader(listed, f"{read.where}: linear_attn_config", whole_model=False)
    full = inner.wholes("full_attn_layers")
    if read.each("layer_types") is not None:
        of = kinds(read, Traits(), layers)
    elif full is not None:
        of = ["full" if at + 1 in full else "state" for at in range(layers)]
    else:
        of = ["full" if at and at % 4 == 0 else "state" for at in range(layers)]
    state = _delta_attention(read, inner, hidden)
    gate = read.flag("mla_use_output_gate", default=False)
    mixers: dict[str, Part] = {"full": latent(read, gate), "state": state}
    t = Traits(routed=True, correction=True)
    dense = read.whole("first_k_dense_replace", default=1, low=0)
    sparse = [at >= dense for at in range(layers)]
    if read.config.get("mlp_layer_types") is not None:
        sparse = sparse_layers(read, layers)
    mixture = experts(read, t, hidden, sparse)
    first = Part(parts=(Dense(ffn=read.whole("intermediate_size")),))
    return assemble(
        read,
        name,
        t,
        layers=[(mixers[k], mixture if s else first) for k, s in zip(of, sparse, strict=True)],
        norms=2 * hidden,
        top_vectors=hidden,
    )


def _delta_attention(read: Reader, inner: Reader, hidden: int) -> Part:
    """Kimi delta attention: a decay for every key channel, by way of one head's width or whole."""
    heads = inner.whole("num_heads", default=read.whole("linear_num_heads", default=32))
    width = inner.whole("head_dim", default=read.whole("linear_head_dim", default=128))
    kernel = inner.whole(
        "short_conv_kernel_size", default=read.whole("linear_conv_kernel_dim", default=4)
    )
    all_heads = heads * width
    linear = [
        projection("in", 3 * all_heads, hidden, heads),
        projection("forget_down", width, hidden),
        projection("forget_up", all_heads, width, heads),
        projection("beta", heads, hidden, heads),
    ]
    if inner.flag("use_full_rank_gate", default=False):
        linear.append(projection("gate", all_heads, hidden, heads))
    else:
        linear += [
            projection("gate_down", width, hidden),
            projection("gate_up", all_heads, width, heads),
        ]
    linear.append(projection("out", hidden, all_heads, deep_pieces=heads))
    mixer = _recurrent(
        read, "kda", heads=heads, state=heads * width * width, channels=3 * all_heads,
        kernel=kernel, linear=tuple(linear), per_number=7,
    )  # fmt: skip
    return Part(parts=(mixer,), vectors=3 * all_heads * kernel + all_heads + heads + width)


def mamba2(
    read: Reader,
    hidden: int,
    *,
    heads: int,
    width: int,
    groups: int,
    state: int,
    kernel: int,
    normed: bool = True,
) -> Part:
    """Mamba-2: a gate, the values and the two state vectors of every group, a step a head."""
    inner = heads * width
    channels = inner + 2 * groups * state
    wide = (
        Split(numbers=2 * inner, pieces=heads),
        Split(numbers=2 * groups * state, pieces=groups),
        Split(numbers=heads, pieces=heads),
    )
    linear = (
        Projection(name="in", wide=wide, deep=Split(numbers=hidden)),
        projection("out", hidden, inner, deep_pieces=heads),
    )
    mixer = _recurrent(
        read, "mamba2", heads=heads, state=inner * state, channels=channels, kernel=kernel,
        linear=linear, per_number=5,
    )  # fmt: skip
    bias = read.flag("use_conv_bias", "mamba_conv_bias", default=True)
    vectors = channels * (kernel + bias) + 3 * heads + inner * normed
    if read.flag("mamba_proj_bias", "use_bias", "projectors_bias", default=False):
        vectors += 2 * inner + 2 * groups * state + heads + hidden
    return Part(parts=(mixer,), vectors=vectors)


def _ibm_mamba(read: Reader, hidden: int, *, normed: bool = True) -> Part:
    heads = read.whole("mamba_n_heads")
    inner = read.whole("mamba_expand", default=2) * hidden
    stated = read.raw("mamba_d_head")
    return mamba2(
        read,
        hidden,
        heads=heads,
        width=inner // heads if stated in (None, "auto") else read.whole("mamba_d_head"),
        groups=read.whole("mamba_n_groups", default=1),
        state=read.whole("mamba_d_state"),
        kernel=read.whole("mamba_d_conv", default=4),
        normed=normed,
    )


def granite_hybrid(read: Reader, name: str) -> ModelShape:
    """Mamba-2 and attention (Granite-4); experts beside a shared feed-forward, or that alone."""
    _, hidden, _ = sizes(read)
    routed = has_experts(read)
    t = Traits(
        qkv_bias="attention_bias", output_bias="attention_bias", routed=routed,
        width_keys=("intermediate_size",),
    )  # fmt: skip
    if not routed:
        shared = {**read.config, "intermediate_size": read.raw("shared_intermediate_size")}
        read = Reader(shared, read.where, whole_model=read.whole_model)
    return plain(read, name, t, _ibm_mamba(read, hidden))


def bamba(read: Reader, name: str) -> ModelShape:
    """Mamba-2 with attention in the layers that are listed."""
    layers, hidden, _ = sizes(read)
    listed = read.wholes("attn_layer_indices") or []
    of: list[Kind] = ["full" if at in listed else "state" for at in range(layers)]
    t = Traits(
        qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias",
        windows=lambda _, __: of,
    )  # fmt: skip
    return plain(read, name, t, _ibm_mamba(read, hidden))


def falcon_h1(read: Reader, name: str) -> ModelShape:
    """Attention and Mamba-2 side by side in every layer."""
    layers, hidden, _ = sizes(read)
    t = Traits(
        qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias"
    )  # fmt: skip
    heads = read.whole("mamba_n_heads")
    inner = read.whole("mamba_d_ssm", default=read.whole("mamba_expand", default=2) * hidden)
    state = mamba2(
        read, hidden, heads=heads, width=inner // heads,
        groups=read.whole("mamba_n_groups", default=1), state=read.whole("mamba_d_state"),
        kernel=read.whole("mamba_d_conv", default=4),
        normed=read.flag("mamba_rms_norm", default=False),
    )  # fmt: skip
    full = attention(read, t, hidden)
    both = Part(parts=full.parts + state.parts, vectors=full.vectors + state.vectors)
    dense = Part(parts=(Dense(ffn=dense_width(read)),))
    return assemble(
        read, name, t, layers=[(both, dense)] * layers, norms=2 * hidden, top_vectors=hidden
    )


PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def nemotron_h(read: Reader, name: str) -> ModelShape:
    """One mixer or one feed-forward a layer (Nemotron-H, Nemotron-3): squared ReLU, no gate."""
    listed = _blocks(read)
    hidden = sizes(read, listed=len(listed))[1]
    t = Traits(
        qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias="mlp_bias", gated=False,
        routed=True, correction=True,
    )  # fmt: skip
    state = mamba2(
        read, hidden, heads=read.whole("mamba_num_heads"), width=read.whole("mamba_head_dim"),
        groups=read.whole("n_groups", default=8), state=read.whole("ssm_state_size"),
        kernel=read.whole("conv_kernel", default=4),
    )  # fmt: skip
    choices: dict[str, tuple[Part, Part]] = {"mamba": (state, Part())}
    if "attention" in listed:
        choices["attention"] = (attention(read, t, hidden), Part())
    if "mlp" in listed:
        choices["mlp"] = (Part(), Part(parts=(Dense(ffn=dense_width(read)),)))
    if "moe" in listed:
        mixture = experts(read, t, hidden, [entry == "moe" for entry in listed])
        choices["moe"] = (Part(), mixture)
    pairs = [choices[entry] for entry in listed]
    return assemble(read, name, t, layers=pairs, norms=hidden, top_vectors=hidden)


def _blocks(read: Reader) -> list[str]:
    text = read.config.get("hybrid_override_pattern")
    if isinstance(text, str) and text:
        if set(text) - set(PATTERN):
            raise read.refuse("hybrid_override_pattern", f"blocks other than {''.join(PATTERN)}")
        return [PATTERN[letter] for letter in text]
    listed = read.each("layers_block_type") or read.each("layer_types")
    if not listed:
        raise refused(read, "layers_block_type is missing, expected a list of blocks")
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    found = [names.get(str(entry), str(entry)) for entry in listed]
    unknown = sorted(set(found) - set(PATTERN.values()))
    if unknown:
        raise read.refuse("layers_block_type", ", ".join(unknown))
    return found


def pure_mamba2(read: Reader, name: str) -> ModelShape:
    """Mamba-2 and nothing else."""
    layers, hidden, _ = sizes(read)
    state = mamba2(
        read, hidden, heads=read.whole("num_heads"), width=read.whole("head_dim"),
        groups=read.whole("n_groups", default=1), state=read.whole("state_size"),
        kernel=read.whole("conv_kernel", default=4),
    )  # fmt: skip
    pairs = [(state, Part())] * layers
    return assemble(read, name, Traits(), layers=pairs, norms=hidden, top_vectors=hidden)


def mamba(read: Reader, hidden: int, *, inner: int, state: int, rank: int, kernel: int) -> Part:
    """Mamba: a state of `state` numbers for every channel, steps by way of a rank."""
    linear = (
        projection("in", 2 * inner, hidden, inner),
        projection("step_and_state", rank + 2 * state, inner, deep_pieces=inner),
        projection("step", inner, rank, inner),
        projection("out", hidden, inner, deep_pieces=inner),
    )
    mixer = _recurrent(
        read, "mamba", heads=inner, state=inner * state, channels=inner, kernel=kernel,
        linear=linear, per_number=5,
    )  # fmt: skip
    bias = read.flag("use_conv_bias", "mamba_conv_bias", default=True)
    return Part(parts=(mixer,), vectors=inner * (kernel + bias) + 2 * inner + inner * state)


def pure_mamba(read: Reader, name: str) -> ModelShape:
    """Mamba and nothing else (also Falcon-Mamba)."""
    layers, hidden, _ = sizes(read)
    inner = read.whole("intermediate_size", default=read.whole("expand", default=2) * hidden)
    rank = read.raw("time_step_rank")
    state = mamba(
        read, hidden, inner=inner, state=read.whole("state_size"),
        rank=read.whole("time_step_rank") if isinstance(rank, int) else -(-hidden // 16),
        kernel=read.whole("conv_kernel", default=4),
    )  # fmt: skip
    t = Traits(tied=True)
    pairs = [(state, Part())] * layers
    return assemble(read, name, t, layers=pairs, norms=hidden, top_vectors=hidden)


def jamba(read: Reader, name: str) -> ModelShape:
    """Mamba with attention in every eighth layer, experts in every second."""
    layers, hidden, _ = sizes(read)
    t = Traits(routed=True, width_keys=("intermediate_size",))
    inner = read.whole("mamba_expand", default=2) * hidden
    numbers, rank = read.whole("mamba_d_state", default=16), read.raw("mamba_dt_rank")
    rank = read.whole("mamba_dt_rank") if isinstance(rank, int) else -(-hidden // 16)
    state = mamba(
        read, hidden, inner=inner, state=numbers, rank=rank,
        kernel=read.whole("mamba_d_conv", default=4),
    )  # fmt: skip
    state = replace(state, vectors=state.vectors + rank + 2 * numbers)
    full, dense = attention(read, t, hidden), Part(parts=(Dense(ffn=dense_width(read)),))
    step, first = read.whole("attn_layer_period"), read.whole("attn_layer_offset", low=0)
    every = read.whole("expert_layer_period", default=2)
    offset = read.whole("expert_layer_offset", default=1, low=0)
    single = read.raw(*EXPERTS) in (None, 1)
    sparse = [at % every == offset and not single for at in range(layers)]
    mixture = experts(read, t, hidden, sparse) if any(sparse) else Part()
    pairs = [
        (full if at % step == first else state, mixture if sparse[at] else dense)
        for at in range(layers)
    ]
    return assemble(read, name, t, layers=pairs, norms=2 * hidden, top_vectors=hidden)


def recurrent_gemma(read: Reader, name: str) -> ModelShape:
    """Two layers of a gated linear recurrent unit to one of windowed attention (Griffin)."""
    layers, hidden, _ = sizes(read)
    t = Traits(
        qkv_bias="attention_bias", output_bias=True, ffn_bias=True, tied=True,
        window_keys=("attention_window_size",),
    )  # fmt: skip
    heads, width = read.whole("num_attention_heads"), read.whole("lru_width", default=hidden)
    kernel, block = read.whole("conv1d_width", default=4), width // heads
    linear = (
        Projection(name="in", wide=(Split(numbers=2 * width, pieces=heads),),
                   deep=Split(numbers=hidden), biased=True),
        projection("gates", 2 * block, width, deep_pieces=heads),
        Projection(name="out", wide=(Split(numbers=hidden),),
                   deep=Split(numbers=width, pieces=heads), biased=True),
    )  # fmt: skip
    mixer = _recurrent(
        read, "rg_lru", heads=heads, state=width, channels=width, kernel=kernel, linear=linear,
        per_number=6,
    )  # fmt: skip
    state = Part(parts=(mixer,), vectors=width * (kernel + 1) + width + 2 * width)
    near = windowed(attention(read, t, hidden), read.whole("attention_window_size"))
    types = read.each("block_types") or ["recurrent", "recurrent", "attention"]
    half = Part(parts=(Dense(ffn=read.whole("intermediate_size") // 2),))
    pairs = [
        (near if types[at % len(types)] == "attention" else state, half) for at in range(layers)
    ]
    return assemble(read, name, t, layers=pairs, norms=2 * hidden, top_vectors=hidden)


def lightning(read: Reader, name: str) -> ModelShape:
    """MiniMax-Text-01: lightning attention, a state of head by head numbers, every eighth layer
    whole attention; experts everywhere."""
    layers, hidden, _ = sizes(read)
    t = Traits(routed=True, width_keys=("intermediate_size",))
    full = attention(read, t, hidden)
    heads, width = full.parts[0].q_heads, full.parts[0].head_dim
    all_heads = heads * width
    linear = (
        projection("qkv", 3 * all_heads, hidden, heads),
        projection("output_gate", all_heads, hidden, heads),
        projection("out", hidden, all_heads, deep_pieces=heads),
    )
    mixer = _recurrent(
        read, "lightning", heads=heads, state=heads * width * width, channels=0, kernel=1,
        linear=linear, per_number=5,
    )  # fmt: skip
    flags = read.wholes("attn_type_list", layers)
    if flags is not None:
        chosen: list[Kind] = ["full" if flag else "state" for flag in flags]
        t = replace(t, windows=lambda _, __: chosen)
    else:
        t = replace(t, windows=lambda _, n: ["full" if at % 2 == 0 else "state" for at in range(n)])
    return plain(read, name, t, Part(parts=(mixer,), vectors=all_heads))


def lfm2(read: Reader, name: str) -> ModelShape:
    """Gated short convolutions with attention among them (LFM2); a window of three tokens is all
    that they hold."""
    layers, hidden, _ = sizes(read)
    width = read.whole("conv_L_cache", default=3)
    bias = read.flag("conv_bias", default=False)
    linear = (
        projection("in", 3 * hidden, hidden, hidden),
        projection("out", hidden, hidden, deep_pieces=hidden),
    )
    mixer = _recurrent(
        read, "short_conv", heads=hidden, state=0, channels=hidden, kernel=width, linear=linear,
        per_number=0,
    )  # fmt: skip
    state = Part(parts=(mixer,), vectors=hidden * (width + bias) + 4 * hidden * bias)
    listed = read.wholes("full_attn_idxs")
    if listed is not None:
        of: list[Kind] = ["full" if at in listed else "state" for at in range(layers)]
        windows = lambda _, __: of  # noqa: E731
    else:
        windows = None
    routed = has_experts(read)
    t = Traits(
        query_key_norms="head", tied=True, routed=routed,
        correction=read.flag("use_expert_bias", default=False), windows=windows,
    )  # fmt: skip
    if read.flag("block_auto_adjust_ff_dim", default=False):
        read = Reader(
            {**read.config, "intermediate_size": _adjusted(read)}, read.where,
            whole_model=read.whole_model,
        )  # fmt: skip
    return plain(read, name, t, state)


def _adjusted(read: Reader) -> int:
    """LFM2's width of a feed-forward: two thirds, scaled, rounded up to a multiple."""
    width = 2 * read.whole("intermediate_size") // 3
    scale = read.raw("block_ffn_dim_multiplier")
    if isinstance(scale, int | float) and not isinstance(scale, bool):
        width = int(scale * width)
    step = read.whole("block_multiple_of", default=256)
    return step * -(-width // step)
