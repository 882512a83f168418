"""What every family reads alike: sizes, which layer is of which kind, experts, windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from magicplan.errors import SpecError
from magicplan.model_specs.layers import (
    Attention,
    Compressed,
    Dense,
    Experts,
    Latent,
    Layer,
    Mixer,
    Projection,
)
from magicplan.model_specs.reader import Reader, show
from magicplan.model_specs.shape import ModelShape, runs_of, said_by_widths

Kind = Literal["full", "sliding", "state"]
LAYER_TYPES: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "local": "sliding",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "conv": "state",
    "recurrent": "state",
}
"""Entries of `layer_types` and of its relatives."""

Flag = bool | str
"""A constant of the family, or the key that says."""
Windows = Callable[[Reader, int], list[Kind]]
"""Which layers are of which kind, where a config lists none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a family does otherwise than Llama: biases, norms, gates, experts.

    `norms` counts vectors of the hidden size a layer, with a bias each under LayerNorm; queries and
    keys are normalised a head ("head") or over their whole width ("full").
    """

    qkv_bias: Flag = False
    output_bias: Flag = False
    ffn_bias: Flag = False
    norms: int = 2
    norm_bias: bool = False
    query_key_norms: Literal["", "head", "full"] = ""
    gated: bool = True
    tied: bool = False
    head_bias: Flag = False
    gate: Literal["", "full", "head"] = ""
    sinks: bool = False
    windows: Windows | None = None
    """Which layers slide where the config lists none; None where all see everything."""
    window_keys: tuple[str, ...] = ("sliding_window",)
    routed: bool = False
    width_keys: tuple[str, ...] = ("moe_intermediate_size",)
    expert_bias: bool = False
    correction: bool = False
    """Whether the choice of experts has a bias for each (DeepSeek-V3)."""
    shared_gate: bool = False
    shared_experts: int = 0
    """Experts that every token visits, where no key says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Mixers or feed-forwards of one layer, and the numbers beside their linear layers."""

    parts: tuple[Any, ...] = ()
    vectors: int = 0


def flag(read: Reader, said: Flag) -> bool:
    """A constant, or what the key says."""
    return said if isinstance(said, bool) else read.flag(said)


def sizes(read: Reader, listed: int | None = None) -> tuple[int, int, int]:
    """Layers, hidden size, vocabulary; `listed` are the layers where a pattern has said them."""
    return (
        listed or read.whole("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
        read.whole("hidden_size", "n_embd", "d_model", "n_embed"),
        read.whole("vocab_size"),
    )


def heads(read: Reader, hidden: int) -> tuple[int, int, int]:
    """Query heads, KV heads, numbers a head."""
    q_heads = read.whole("num_attention_heads", "n_head", "n_heads")
    kv_heads = read.whole("num_key_value_heads", "num_kv_heads", default=q_heads)
    if q_heads % kv_heads:
        raise refused(
            read, f"num_key_value_heads {kv_heads} does not divide num_attention_heads {q_heads}"
        )
    stated = read.raw("head_dim", "attention_head_dim")
    if stated is None and hidden % q_heads:
        raise refused(read, f"num_attention_heads {q_heads} does not divide hidden_size {hidden}")
    return (
        q_heads,
        kv_heads,
        read.whole("head_dim", "attention_head_dim", default=max(1, hidden // q_heads)),
    )


def refused(read: Reader, sentence: str) -> SpecError:
    """An error about several keys."""
    return SpecError(read.where, sentence)


def attention(read: Reader, t: Traits, hidden: int) -> Part:
    """The family's ordinary attention."""
    q_heads, kv_heads, head_dim = heads(read, hidden)
    value = read.whole("v_head_dim", default=head_dim) if "v_head_dim" in read.config else head_dim
    normed = {"head": 2 * head_dim, "full": (q_heads + kv_heads) * head_dim, "": 0}
    gate = {"full": q_heads * head_dim, "head": q_heads, "": 0}[t.gate]
    mixer = Attention(
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value if value != head_dim else 0,
        qkv_bias=flag(read, t.qkv_bias),
        output_bias=flag(read, t.output_bias),
        gate_numbers=gate,
        normed=bool(t.query_key_norms),
    )
    return Part(parts=(mixer,), vectors=normed[t.query_key_norms] + t.sinks * q_heads)


def kinds(read: Reader, t: Traits, layers: int) -> list[Kind]:
    """Which layer is of which kind: as listed, else as the family's pattern has it."""
    for key in ("layer_types", "layers_block_type", "attn_layer_types"):
        listed = read.each(key, layers)
        if listed is not None:
            unknown = sorted({str(t) for t in listed} - set(LAYER_TYPES))
            if unknown:
                raise refused(read, f"{key} asks for {', '.join(unknown)}, which is not modelled")
            return [LAYER_TYPES[str(entry)] for entry in listed]
    return t.windows(read, layers) if t.windows else ["full"] * layers


def window(read: Reader, t: Traits, context: int) -> int | None:
    """Tokens of a window; None where it is longer than the context, or not stated."""
    if read.raw(*t.window_keys) is None:
        return None
    found = read.whole(*t.window_keys)
    return found if found < context else None


def windowed(full: Part, tokens: int | None) -> Part:
    """Attention limited to a window of the last `tokens`; unlimited where `tokens` is None."""
    if tokens is None:
        return full
    return replace(full, parts=tuple(replace(m, window_tokens=tokens) for m in full.parts))


def sparse_layers(read: Reader, layers: int) -> list[bool]:
    """Which layers have experts: the key that is there says, all if none is."""
    listed = read.each("mlp_layer_types", layers)
    if listed is not None:
        return [entry in ("sparse", "moe") for entry in listed]
    chosen = read.wholes("moe_layers")
    if chosen is not None:
        return [at in chosen for at in range(layers)]
    flags = read.config.get("moe_layer_freq")
    if isinstance(flags, list):
        return [bool(entry) for entry in read.each("moe_layer_freq", layers) or ()]
    if read.raw("decoder_sparse_step") is not None or read.raw("mlp_only_layers") is not None:
        step = read.whole("decoder_sparse_step", default=1)
        dense = read.wholes("mlp_only_layers") or []
        return [(at + 1) % step == 0 and at not in dense for at in range(layers)]
    if read.raw("interleave_moe_layer_step") is not None:
        step = read.whole("interleave_moe_layer_step")
        return [(at + 1) % step == 0 for at in range(layers)]
    if read.raw("moe_layer_start_index") is not None:
        first = read.whole("moe_layer_start_index", low=0)
        last = read.whole("moe_layer_end_index", default=layers - 1, low=0)
        step = read.whole("moe_layer_interval", default=1)
        return [first <= at <= last and (at + 1) % step == 0 for at in range(layers)]
    step = read.whole("moe_layer_freq", default=1)
    dense_first = read.whole(
        "first_k_dense_replace", "num_dense_layers", "n_dense_layers", default=0, low=0
    )
    if dense_first > layers:
        raise refused(read, "first_k_dense_replace exceeds num_hidden_layers")
    return [at >= dense_first and at % step == 0 for at in range(layers)]


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k",
    "top_k_experts",
)  # fmt: skip
SHARED_WIDTHS = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
    "shared_intermediate_size", "shared_experts_intermediate_size",
)  # fmt: skip
SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")


def says_no_experts(read: Reader) -> bool:
    """Whether a config of a family of mixtures says that this model is none."""
    return any(key in read.config for key in EXPERTS) and read.raw(*EXPERTS) in (None, 0)


def has_experts(read: Reader) -> bool:
    """Whether the config is of a mixture: it counts experts, or says what only experts have, so
    that a count which has gone missing is missed."""
    if any(key in read.config for key in EXPERTS):
        return not says_no_experts(read)
    if any(read.config.get(key) is not None for key in (*CHOSEN, "moe_intermediate_size")):
        return True
    return not read.whole_model and read.raw(*EXPERTS) not in (None, 0)


def experts(read: Reader, t: Traits, hidden: int, sparse: list[bool]) -> Part:
    """The family's mixture of experts, in the layers marked."""
    count, chosen = read.whole(*EXPERTS), read.whole(*CHOSEN)
    if chosen > count:
        said = next((key for key in EXPERTS if read.config.get(key) is not None), EXPERTS[0])
        raise refused(read, f"num_experts_per_tok {chosen} exceeds {said} {count}")
    width = read.whole(*t.width_keys)
    mixture = Experts(
        count=count,
        per_token=chosen,
        ffn=width,
        layers=sum(sparse),
        shared_ffn=shared_width(read, width) or t.shared_experts * width,
        bias=t.expert_bias,
        hidden=read.whole("moe_latent_size", "routed_expert_hidden_size", default=0, low=0),
    )
    gate = hidden * t.shared_gate * bool(mixture.shared_ffn)
    return Part(parts=(mixture,), vectors=t.correction * count + gate)


def shared_width(read: Reader, width: int) -> int:
    """Total width of the experts that every token visits."""
    number = read.raw(*SHARED)
    stated = next((key for key in SHARED_WIDTHS if read.config.get(key) is not None), None)
    if stated is not None and number != 0:
        return read.whole(stated, low=0)
    return read.whole(*SHARED, default=0, low=0) * width if number is not None else 0


def assemble(
    read: Reader,
    name: str,
    t: Traits,
    *,
    layers: list[tuple[Part, Part]],
    norms: int,
    extras: tuple[Projection, ...] = (),
    top_vectors: int = 0,
    **more: Any,
) -> ModelShape:
    """A shape from the mixers and the feed-forwards of each layer.

    `norms` are the numbers of a layer's norms, `top_vectors` those of the last norm and of whatever
    no layer holds.
    """
    hidden, vocab = sizes(read, listed=len(layers))[1:]
    built = [Layer(mixers=m.parts, feed_forwards=f.parts, extras=extras) for m, f in layers]
    vectors = sum(m.vectors + f.vectors for m, f in layers) + norms * len(layers) + top_vectors
    mixers: list[Mixer] = [mixer for layer in built for mixer in layer.mixers]
    feeds = [feed for layer in built for feed in layer.feed_forwards]
    fields = {
        "name": name,
        "family": read.text("model_type").removesuffix("_text"),
        "layers": len(built),
        "hidden": hidden,
        "vocab": vocab,
        "ffn": next((feed.ffn for feed in feeds if isinstance(feed, Dense)), 0),
        "experts": next((feed for feed in feeds if isinstance(feed, Experts)), None),
        "max_ctx_tokens": context(read),
        "tied_embeddings": read.flag("tie_word_embeddings", default=t.tied),
        "gated": t.gated,
        "ffn_bias": flag(read, t.ffn_bias),
        "query_key_norms": bool(t.query_key_norms),
        "norm_parameters": vectors,
        "listed": runs_of(built),
        "native_dtype": read.text("torch_dtype", "dtype", default="bfloat16"),
        "mtp_layers": mtp_layers(read),
        **_ordinary(mixers),
        **more,
    }
    return said_by_widths(ModelShape(**fields))


def context(read: Reader) -> int:
    """Tokens of the longest context."""
    return read.whole(
        "max_position_embeddings", "model_max_length", "max_sequence_length", "n_positions",
        "max_seq_len", "seq_length", default=2048,
    )  # fmt: skip


def mtp_layers(read: Reader) -> int:
    """Layers that a checkpoint holds for predicting several tokens."""
    keys = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")
    found = next((key for key in keys if read.config.get(key) is not None), None)
    return read.whole(found, low=0) if found else 0


def _ordinary(mixers: list[Mixer]) -> Mapping[str, Any]:
    """The widths of a model's ordinary attention, which drafts and reports go by."""
    plain = [m for m in mixers if isinstance(m, Attention)]
    latent = [m for m in mixers if isinstance(m, Latent)]
    sliding = [m for m in plain if m.window_tokens]
    first = next((m for m in plain if not m.window_tokens), plain[0] if plain else None)
    if latent:
        a = latent[0].ranks
        width = a.nope_head_dim + a.rope_head_dim
        heads_of = latent[0].q_heads
        return {"q_heads": heads_of, "kv_heads": heads_of, "head_dim": width, "latent": a}
    joint = next((m for m in mixers if isinstance(m, Compressed)), None)
    if joint is not None:
        return {"q_heads": joint.q_heads, "kv_heads": 1, "head_dim": joint.head_dim}
    if first is None:
        number = mixers[0].heads if mixers else 1
        return {"q_heads": number, "kv_heads": number, "head_dim": 1}
    return {
        "q_heads": first.q_heads,
        "kv_heads": first.kv_heads,
        "head_dim": first.head_dim,
        "qkv_bias": first.qkv_bias,
        "output_bias": first.output_bias,
        "window_tokens": sliding[0].window_tokens if sliding else None,
        "sliding_layers": len(sliding),
    }


def plain(read: Reader, name: str, t: Traits, state: Part | None = None) -> ModelShape:
    """A model of attention layers, or of recurrent ones among them, with dense feed-forwards or
    experts: what most families are."""
    layers, hidden, _ = sizes(read)
    full = attention(read, t, hidden)
    listed = kinds(read, t, layers)
    mixers = {"full": full, "state": state or Part()}
    if "state" in listed and state is None:
        raise refused(read, "layer_types asks for linear attention, which this family has not")
    if "sliding" in listed:
        mixers["sliding"] = windowed(full, window(read, t, context(read)))
    routes = t.routed and not says_no_experts(read)
    sparse = sparse_layers(read, layers) if routes else [False] * layers
    dense = Part()
    if not all(sparse):
        dense = Part(parts=(Dense(ffn=dense_width(read)),))
    routed = experts(read, t, hidden, sparse) if any(sparse) else Part()
    norm = hidden * (1 + t.norm_bias)
    return assemble(
        read,
        name,
        t,
        layers=[(mixers[k], routed if s else dense) for k, s in zip(listed, sparse, strict=True)],
        norms=t.norms * norm,
        top_vectors=norm * bool(t.norms) + flag(read, t.head_bias) * read.whole("vocab_size"),
    )


def dense_width(read: Reader) -> int:
    """Width of a dense feed-forward; one number, or a list of equal ones."""
    keys = (
        "dense_intermediate_size",
        "intermediate_size_mlp",
        "intermediate_size",
        "ffn_hidden_size",
    )
    for key in keys:
        value = read.config.get(key)
        if isinstance(value, list):
            if len(set(map(str, value))) > 1:
                raise refused(
                    read, f"{key} is {show(value)}: layers of unlike widths are not modelled"
                )
            return Reader({key: value[0] if value else None}, read.where).whole(key)
        if value is not None:
            return read.whole(key)
    return read.whole("intermediate_size", "n_inner")
