"""Families that a few traits describe, by model_type; sources are transformers' modeling files."""

from __future__ import annotations

from dataclasses import replace

from magicplan.model_specs.families.build import Kind, Traits, Windows
from magicplan.model_specs.reader import Reader


def all_slide(read: Reader, layers: int) -> list[Kind]:
    """Every layer (Mistral-7B-v0.1, Phi-3)."""
    return ["sliding" if read.raw("sliding_window") else "full"] * layers


def qwen_windows(read: Reader, layers: int) -> list[Kind]:
    """Layers from `max_window_layers` on, where `use_sliding_window` says so."""
    if not read.flag("use_sliding_window"):
        return ["full"] * layers
    first = read.whole("max_window_layers", default=layers, low=0)
    return ["sliding" if at >= first else "full" for at in range(layers)]


def even_slide(read: Reader, layers: int) -> list[Kind]:
    """Layers 0, 2, 4, ... (Gemma 2, gpt-oss)."""
    return ["full" if at % 2 else "sliding" for at in range(layers)]


def every(period: int, *keys: str) -> Windows:
    """All layers but each `period`-th, which sees everything; keys may say the period."""

    def listed(read: Reader, layers: int) -> list[Kind]:
        step = read.whole(*keys, default=period) if keys else period
        return ["sliding" if (at + 1) % step else "full" for at in range(layers)]

    return listed


def no_rope(read: Reader, layers: int) -> list[Kind]:
    """Llama 4: layers without rotary positions see everything, by list or every fourth."""
    flags = read.wholes("no_rope_layers")
    if flags:
        return ["sliding" if flag else "full" for flag in flags[:layers]]
    return every(4, "no_rope_layer_interval")(read, layers)


def smollm(read: Reader, layers: int) -> list[Kind]:
    """SmolLM3: windows only where `use_sliding_window` says so, in layers with rotary positions."""
    return no_rope(read, layers) if read.flag("use_sliding_window") else ["full"] * layers


def laguna(read: Reader, layers: int) -> list[Kind]:
    """Laguna: heads that differ by layer are refused, the rest is as it is listed."""
    listed = read.wholes("num_attention_heads_per_layer")
    if listed and len(set(listed)) > 1:
        raise read.refuse("num_attention_heads_per_layer", "layers of unlike heads")
    return ["full"] * layers


BIAS = "attention_bias"
LLAMA = Traits(qkv_bias=BIAS, output_bias=BIAS, ffn_bias="mlp_bias")
QWEN3 = Traits(qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", windows=qwen_windows)
GEMMA2 = Traits(qkv_bias=BIAS, output_bias=BIAS, norms=4, tied=True, windows=even_slide)
GEMMA3 = Traits(
    qkv_bias=BIAS, output_bias=BIAS, norms=4, tied=True, query_key_norms="head",
    windows=every(6, "sliding_window_pattern"),
)  # fmt: skip
FULL_NORM = Traits(qkv_bias=BIAS, output_bias=BIAS, query_key_norms="full")
COHERE = Traits(qkv_bias=BIAS, output_bias=BIAS, norms=1, tied=True)
EXAONE4 = Traits(query_key_norms="head", windows=every(4, "sliding_window_pattern"))
GPT = Traits(qkv_bias=True, output_bias=True, ffn_bias=True, norm_bias=True, gated=False, tied=True)

TRAITS: dict[str, Traits] = {
    "llama": LLAMA,
    "mistral": Traits(windows=all_slide),
    "ministral": Traits(windows=all_slide),
    "ministral3": Traits(windows=all_slide),
    "qwen2": Traits(qkv_bias=True, windows=qwen_windows),
    "qwen2_vl_text": Traits(qkv_bias=True, windows=qwen_windows),
    "qwen2_5_vl_text": Traits(qkv_bias=True, windows=qwen_windows),
    "qwen3": QWEN3,
    "qwen3_vl_text": QWEN3,
    "mimo": Traits(qkv_bias=True, windows=qwen_windows),
    "gemma": Traits(qkv_bias=BIAS, output_bias=BIAS, tied=True),
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA3,
    "vaultgemma": Traits(qkv_bias=BIAS, output_bias=BIAS, tied=True, windows=even_slide),
    "phi": Traits(
        qkv_bias=True, output_bias=True, ffn_bias=True, norms=1, norm_bias=True, gated=False,
        head_bias=True,
    ),
    "phi3": Traits(windows=all_slide),
    "cohere": COHERE,
    "cohere2": Traits(
        qkv_bias=BIAS, output_bias=BIAS, norms=1, tied=True,
        windows=every(4, "sliding_window_pattern"),
    ),
    "granite": LLAMA,
    "granite_swa": replace(LLAMA, sinks=True),
    "glm": Traits(qkv_bias=BIAS),
    "glm4": Traits(qkv_bias=BIAS, norms=4),
    "olmo": Traits(qkv_bias=BIAS, output_bias=BIAS, norms=0),
    "olmo2": FULL_NORM,
    "olmo3": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="full",
        windows=every(4),
    ),
    "smollm3": Traits(
        qkv_bias=BIAS, output_bias=BIAS, ffn_bias="mlp_bias", tied=True, windows=smollm
    ),
    "starcoder2": Traits(
        qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias", norm_bias=True,
        gated=False, tied=True, windows=all_slide,
    ),
    "stablelm": Traits(qkv_bias="use_qkv_bias", norm_bias=True),
    "seed_oss": Traits(
        qkv_bias=BIAS, output_bias="attention_out_bias", ffn_bias="mlp_bias"
    ),
    "helium": LLAMA,
    "arcee": Traits(qkv_bias=BIAS, output_bias=BIAS, ffn_bias="mlp_bias", gated=False),
    "apertus": Traits(qkv_bias=BIAS, output_bias=BIAS, gated=False, query_key_norms="head"),
    "exaone4": EXAONE4,
    "ernie4_5": Traits(
        qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias", tied=True
    ),
    "hunyuan_v1_dense": Traits(qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head"),
    "nemotron": Traits(
        qkv_bias=BIAS, output_bias=BIAS, ffn_bias="mlp_bias", norm_bias=True, gated=False
    ),
    "cwm": Traits(windows=every(4)),
    "internlm3": Traits(qkv_bias="qkv_bias", output_bias="bias", ffn_bias="bias"),
    "iquestcoder": LLAMA,
    "hyperclovax": replace(LLAMA, norms=4),
    "jais2": Traits(
        qkv_bias=BIAS, output_bias=BIAS, ffn_bias="mlp_bias", norm_bias=True, gated=False
    ),
    "bitnet": Traits(qkv_bias=BIAS, output_bias=BIAS, norms=3),
    "diffllama": Traits(qkv_bias=BIAS, output_bias=BIAS),
    "nanochat": Traits(qkv_bias=BIAS, output_bias=BIAS, norms=0, gated=False),
    "persimmon": GPT,
    "gpt_neox": Traits(
        qkv_bias=BIAS, output_bias=BIAS, ffn_bias=True, norm_bias=True, gated=False
    ),
    # ---- mixtures of experts ----
    "mixtral": Traits(windows=all_slide, routed=True, width_keys=("intermediate_size",)),
    "qwen2_moe": Traits(
        qkv_bias="qkv_bias", windows=qwen_windows, routed=True, shared_gate=True
    ),
    "qwen3_moe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", windows=qwen_windows, routed=True
    ),
    "qwen3_vl_moe_text": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True
    ),
    "olmoe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="full", routed=True,
        width_keys=("intermediate_size",),
    ),
    "flex_olmo": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="full", routed=True,
        width_keys=("intermediate_size",),
    ),
    "phimoe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, norm_bias=True, head_bias="lm_head_bias", routed=True,
        width_keys=("intermediate_size",), windows=all_slide,
    ),
    "granitemoe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, routed=True, width_keys=("intermediate_size",)
    ),
    "granitemoeshared": Traits(
        qkv_bias=BIAS, output_bias=BIAS, routed=True, width_keys=("intermediate_size",)
    ),
    "granitemoe_swa": Traits(
        qkv_bias=BIAS, output_bias=BIAS, routed=True, width_keys=("intermediate_size",), sinks=True
    ),
    "gpt_oss": Traits(
        qkv_bias=True, output_bias=True, sinks=True, windows=even_slide, routed=True,
        width_keys=("intermediate_size",), expert_bias=True,
    ),
    "llama4": Traits(
        qkv_bias=BIAS, output_bias=BIAS, windows=no_rope, window_keys=("attention_chunk_size",),
        routed=True, width_keys=("intermediate_size",), shared_experts=1,
    ),
    "dots1": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True, correction=True,
        windows=None,
    ),
    "ernie4_5_moe": Traits(
        qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias", tied=True, routed=True,
        correction=True,
    ),
    "solar_open": Traits(qkv_bias=BIAS, routed=True, correction=True),
    "exaone_moe": Traits(
        query_key_norms="head", routed=True, correction=True,
        windows=every(4, "sliding_window_pattern"),
    ),
    "afmoe": Traits(
        qkv_bias=BIAS, norms=4, query_key_norms="head", gate="full", routed=True, correction=True,
        windows=every(4, "global_attn_every_n_layers"),
    ),
    "step3p7": Traits(
        query_key_norms="head", gate="head", routed=True, correction=True
    ),
    "hy_v3": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True, correction=True
    ),
    "sarvam_moe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True, correction=True
    ),
    "laguna": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", gate="head", routed=True,
        correction=True, windows=laguna,
    ),
    "kolibri1": Traits(
        qkv_bias=BIAS, output_bias=BIAS, norms=4, query_key_norms="head", routed=True,
        windows=every(5),
    ),
    "cohere2_moe": Traits(
        qkv_bias=BIAS, output_bias=BIAS, norms=1, tied=True, routed=True,
        width_keys=("intermediate_size",),
        windows=every(4, "sliding_window_pattern"),
    ),
    "mellum": Traits(qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True),
    "flint": Traits(
        qkv_bias=BIAS, output_bias=BIAS, query_key_norms="head", routed=True, sinks=True
    ),
}  # fmt: skip
