"""From a Hugging Face config.json to a `ModelShape`: what it asks for is modelled or refused.

One function an architecture family says where its config departs from Llama's; everything else
is shared. Key names are those of the transformers library's configuration classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from magicplan.errors import SpecError
from magicplan.model_specs.formats import Formats
from magicplan.model_specs.layers import Experts, LatentAttention
from magicplan.model_specs.shape import ModelShape

LARGEST = 2**31
REFUSED = {
    "index_topk": "a sparse-attention indexer",
    "cross_attention_layers": "cross-attention to an image encoder",
    "ssm_cfg": "state-space layers",
    "mamba_d_state": "state-space layers",
    "mamba_expand": "state-space layers",
    "attn_type_list": "linear-attention layers",
    "linear_attn_config": "linear-attention layers",
    "linear_num_key_heads": "linear-attention layers",
    "blocksparse_block_size": "block-sparse attention",
    "num_encoder_layers": "an encoder",
    "encoder_layers": "an encoder",
    "num_kv_shared_layers": "KV shared between layers",
}
QUANTISED = ("fp8", "mxfp4", "awq", "gptq", "compressed-tensors", "modelopt", "bitsandbytes")
SLIDING = ("sliding_attention", "chunked_attention")


class Reader:
    """A config with its name: reads one key at a time and says what was wrong with it."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def whole(self, key: str, default: int | None = None, *, low: int = 1) -> int:
        """A whole number of at least `low`; an absent or null key takes the default."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < LARGEST:
            raise SpecError(
                self.where, f"{key} is {_show(value)}, expected a whole number from {low}"
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false; an absent or null key takes the default."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise SpecError(self.where, f"{key} is {_show(value)}, expected true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A text; an absent or null key takes the default."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise SpecError(self.where, f"{key} is {_show(value)}, expected a text")
        return value

    def part(self, key: str) -> Mapping[str, Any]:
        """A nested object, empty where absent."""
        value = self.config.get(key)
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise SpecError(self.where, f"{key} is {_show(value)}, expected an object")
        return value


def _show(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def from_config(config: Mapping[str, Any], where: str, name: str = "") -> ModelShape:
    """The shape a config describes. Raises SpecError naming the file, the field, what is right."""
    read = Reader(config, where)
    model_type = read.text("model_type")
    if not model_type:
        raise SpecError(where, "model_type is missing: this is no model's config.json")
    notes: tuple[str, ...] = ()
    if "text_config" in config:
        notes = ("text decoder only: weights of other encoders are not counted",)
        merged = dict(read.part("text_config"))
        merged.setdefault("model_type", model_type)
        if "tie_word_embeddings" in config:
            merged.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
        read = Reader(merged, where)
        model_type = read.text("model_type")
    _refuse(read, model_type)
    method = _quantisation(Reader(config, where))
    if method:
        notes += (f"the checkpoint is quantised ({method}): --dtype says how it is served",)
    family = FAMILIES[model_type]
    shape = family(read, _plain(read, name or where))
    return replace(shape, notes=shape.notes + notes, formats=Formats(method=method))


def _refuse(read: Reader, model_type: str) -> None:
    """Name what cannot be modelled; ignoring it would be a wrong answer."""
    for key, what in REFUSED.items():
        if read.config.get(key):
            raise SpecError(read.where, f"{key} asks for {what}, which is not modelled")
    if read.flag("is_encoder_decoder", False):
        raise SpecError(read.where, "is_encoder_decoder: only decoders are modelled")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise SpecError(
            read.where, f"model_type {_show(model_type)} is not modelled; known: {known}"
        )


def _quantisation(read: Reader) -> str:
    """How the published checkpoint is quantised, "" if it is not."""
    method = Reader(read.part("quantization_config"), read.where).text("quant_method")
    if not method and not read.part("quantization_config"):
        return ""
    if method not in QUANTISED:
        raise SpecError(
            read.where,
            f"quantization_config.quant_method {_show(method)} is not modelled; known: "
            f"{', '.join(QUANTISED)}",
        )
    return method


def _plain(read: Reader, name: str) -> ModelShape:
    """What all families share, as Llama has it: two norms a layer and one at the end."""
    hidden, layers = read.whole("hidden_size"), read.whole("num_hidden_layers")
    q_heads = read.whole("num_attention_heads")
    kv_heads = read.whole("num_key_value_heads", q_heads)
    if q_heads % kv_heads:
        raise SpecError(
            read.where,
            f"num_key_value_heads {kv_heads} does not divide num_attention_heads {q_heads}",
        )
    if read.config.get("head_dim") is None and hidden % q_heads:
        raise SpecError(
            read.where, f"num_attention_heads {q_heads} does not divide hidden_size {hidden}"
        )
    return ModelShape(
        name=name,
        family=read.text("model_type").removesuffix("_text"),
        layers=layers,
        hidden=hidden,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=read.whole("head_dim", max(1, hidden // q_heads)),
        ffn=read.whole("intermediate_size"),
        vocab=read.whole("vocab_size"),
        max_ctx_tokens=read.whole("max_position_embeddings", 2048),
        tied_embeddings=read.flag("tie_word_embeddings", False),
        norm_parameters=(2 * layers + 1) * hidden,
        native_dtype=read.text("torch_dtype") or read.text("dtype") or "bfloat16",
        mtp_layers=read.whole("num_nextn_predict_layers", 0, low=0),
    )


def _windowed(read: Reader, shape: ModelShape, sliding_layers: int) -> ModelShape:
    """The shape with its window on that many layers; a window past the context is none."""
    window = read.whole("sliding_window")
    if not sliding_layers or window >= shape.max_ctx_tokens:
        return shape
    return replace(shape, window_tokens=window, sliding_layers=sliding_layers)


def _listed(read: Reader, shape: ModelShape, default: int) -> int:
    """Sliding layers by `layer_types`, where the config lists them."""
    types = read.config.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != shape.layers:
        raise SpecError(read.where, f"layer_types is no list of {shape.layers} layers")
    unknown = {str(t) for t in types} - {"full_attention", *SLIDING}
    if unknown:
        raise SpecError(
            read.where, f"layer_types asks for {', '.join(sorted(unknown))}, which is not modelled"
        )
    return sum(t in SLIDING for t in types)


def _qk_norm(shape: ModelShape) -> ModelShape:
    extra = 2 * shape.head_dim * shape.layers
    return replace(shape, query_key_norms=True, norm_parameters=shape.norm_parameters + extra)


def _llama(read: Reader, shape: ModelShape) -> ModelShape:
    bias = read.flag("attention_bias", False)
    return replace(shape, qkv_bias=bias, output_bias=bias, ffn_bias=read.flag("mlp_bias", False))


def _mistral(read: Reader, shape: ModelShape) -> ModelShape:
    if read.config.get("sliding_window") is None:
        return shape
    return _windowed(read, shape, _listed(read, shape, shape.layers))


def _qwen2(read: Reader, shape: ModelShape) -> ModelShape:
    return _qwen_window(read, replace(shape, qkv_bias=True))


def _qwen_window(read: Reader, shape: ModelShape) -> ModelShape:
    if not read.flag("use_sliding_window", False):
        return shape
    first = read.whole("max_window_layers", shape.layers, low=0)
    return _windowed(read, shape, _listed(read, shape, max(0, shape.layers - first)))


def _qwen3(read: Reader, shape: ModelShape) -> ModelShape:
    bias = read.flag("attention_bias", False)
    return _qwen_window(read, _qk_norm(replace(shape, qkv_bias=bias, output_bias=bias)))


def _qwen3_moe(read: Reader, shape: ModelShape) -> ModelShape:
    shape = _qwen3(read, shape)
    step = read.whole("decoder_sparse_step", 1)
    dense = read.config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise SpecError(read.where, f"mlp_only_layers is {_show(dense)}, expected a list")
    sparse = [i for i in range(shape.layers) if (i + 1) % step == 0 and i not in dense]
    return _mixture(read, shape, count="num_experts", layers=len(sparse))


def _gemma2(read: Reader, shape: ModelShape) -> ModelShape:
    """Four norms a layer; even layers slide."""
    shape = replace(
        shape,
        tied_embeddings=read.flag("tie_word_embeddings", True),
        norm_parameters=(4 * shape.layers + 1) * shape.hidden,
    )
    return _windowed(read, shape, _listed(read, shape, (shape.layers + 1) // 2))


def _gemma3(read: Reader, shape: ModelShape) -> ModelShape:
    """Gemma 2 with normalised queries and keys; one layer in six attends to everything."""
    period = read.whole("sliding_window_pattern", 6)
    shape = replace(
        shape,
        tied_embeddings=read.flag("tie_word_embeddings", True),
        norm_parameters=(4 * shape.layers + 1) * shape.hidden,
    )
    sliding = shape.layers - shape.layers // period
    return _windowed(read, _qk_norm(shape), _listed(read, shape, sliding))


def _mixtral(read: Reader, shape: ModelShape) -> ModelShape:
    shape = _mistral(read, shape)
    return _mixture(
        read, shape, count="num_local_experts", width="intermediate_size", layers=shape.layers
    )


def _gpt_oss(read: Reader, shape: ModelShape) -> ModelShape:
    """Biases everywhere, one learned attention sink a query head, every other layer slides."""
    shape = replace(
        shape,
        qkv_bias=True,
        output_bias=True,
        norm_parameters=shape.norm_parameters + shape.layers * shape.q_heads,
    )
    shape = _windowed(read, shape, _listed(read, shape, (shape.layers + 1) // 2))
    return _mixture(
        read,
        shape,
        count="num_local_experts",
        width="intermediate_size",
        layers=shape.layers,
        bias=True,
    )


def _llama4(read: Reader, shape: ModelShape) -> ModelShape:
    """Chunked attention in three layers of four; experts in every `step`-th layer."""
    step = read.whole("interleave_moe_layer_step", 1)
    moe_layers = shape.layers // step
    chunk = read.whole("attention_chunk_size", 8192)
    sliding = _listed(read, shape, shape.layers - shape.layers // 4)
    width = read.whole("intermediate_size")
    if chunk < shape.max_ctx_tokens:
        shape = replace(shape, window_tokens=chunk, sliding_layers=sliding)
    return _mixture(
        read,
        replace(shape, ffn=read.whole("intermediate_size_mlp")),
        count="num_local_experts",
        width="intermediate_size",
        layers=moe_layers,
        shared=width,
    )


def _glm4_moe(read: Reader, shape: ModelShape) -> ModelShape:
    shape = replace(shape, qkv_bias=read.flag("attention_bias", False))
    if read.flag("use_qk_norm", False):
        shape = _qk_norm(shape)
    return _routed_after_dense(read, shape, correction=True)


def _deepseek(read: Reader, shape: ModelShape, *, correction: bool) -> ModelShape:
    """Latent attention; a norm on each compressed query and key-value vector."""
    ranks = LatentAttention(
        kv_rank=read.whole("kv_lora_rank"),
        q_rank=read.whole("q_lora_rank", 0, low=0),
        nope_head_dim=read.whole("qk_nope_head_dim"),
        rope_head_dim=read.whole("qk_rope_head_dim"),
        value_head_dim=read.whole("v_head_dim"),
    )
    norms = shape.layers * (ranks.kv_rank + ranks.q_rank)
    shape = replace(
        shape,
        latent=ranks,
        head_dim=ranks.nope_head_dim + ranks.rope_head_dim,
        norm_parameters=shape.norm_parameters + norms,
    )
    return _routed_after_dense(read, shape, correction=correction)


def _deepseek_v2(read: Reader, shape: ModelShape) -> ModelShape:
    return _deepseek(read, shape, correction=False)


def _deepseek_v3(read: Reader, shape: ModelShape) -> ModelShape:
    return _deepseek(read, shape, correction=True)


def _routed_after_dense(read: Reader, shape: ModelShape, *, correction: bool) -> ModelShape:
    """Experts in all layers but the first few; `correction` is a routing bias an expert."""
    if read.whole("moe_layer_freq", 1) != 1:
        raise SpecError(read.where, "moe_layer_freq above 1 is not modelled")
    layers = shape.layers - read.whole("first_k_dense_replace", 0, low=0)
    if layers < 0:
        raise SpecError(read.where, "first_k_dense_replace exceeds num_hidden_layers")
    shared = read.whole("n_shared_experts", 0, low=0) * read.whole("moe_intermediate_size")
    shape = _mixture(read, shape, count="n_routed_experts", layers=layers, shared=shared)
    if correction and shape.experts:
        extra = layers * shape.experts.count
        shape = replace(shape, norm_parameters=shape.norm_parameters + extra)
    return shape


def _mixture(
    read: Reader,
    shape: ModelShape,
    *,
    count: str,
    layers: int,
    width: str = "moe_intermediate_size",
    shared: int = 0,
    bias: bool = False,
) -> ModelShape:
    """The shape with experts in `layers` of its layers."""
    experts, chosen = read.whole(count), read.whole("num_experts_per_tok")
    if chosen > experts:
        raise SpecError(read.where, f"num_experts_per_tok {chosen} exceeds {count} {experts}")
    if not layers:
        return shape
    mixture = Experts(
        count=experts,
        per_token=chosen,
        ffn=read.whole(width),
        layers=layers,
        shared_ffn=shared,
        bias=bias,
    )
    return replace(shape, experts=mixture, ffn=shape.ffn if layers < shape.layers else 0)


Family = Callable[[Reader, ModelShape], ModelShape]
FAMILIES: dict[str, Family] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3,
    "phi3": _mistral,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "llama4_text": _llama4,
    "glm4_moe": _glm4_moe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PresetInfo:
    """Where a preset comes from."""

    id: str
    aliases: tuple[str, ...]
    published_parameters: int
    basis: str
    sources: tuple[str, ...]
    seen: str
