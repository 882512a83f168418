"""From a Hugging Face config.json to a `ModelShape`: what it asks for is modelled or refused.

How a family departs from Llama stands in `families`, how a checkpoint is quantised is read by
`quantisation`. Key names are those of the transformers library's configuration classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from magicplan.errors import SpecError
from magicplan.model_specs import draft_heads, quantisation
from magicplan.model_specs.families import hybrids, latents, others
from magicplan.model_specs.families.build import plain
from magicplan.model_specs.families.table import TRAITS
from magicplan.model_specs.formats import Formats
from magicplan.model_specs.reader import Reader, show
from magicplan.model_specs.shape import ModelShape

REFUSED = {
    "cross_attention_layers": "cross-attention to an image encoder",
    "ssm_cfg": "state-space layers in a family that is not known to have them",
    "blocksparse_block_size": "block-sparse attention",
    "num_encoder_layers": "an encoder",
    "encoder_layers": "an encoder",
}
FOREIGN = {
    "index_topk": "a sparse-attention indexer",
    "kv_lora_rank": "latent attention",
    "compress_ratios": "compressed attention",
    "hybrid_override_pattern": "state-space layers",
    "block_configs": "layers of unlike widths",
    "num_kv_shared_layers": "KV shared between layers",
    "altup_num_inputs": "residual streams",
    "hc_mult": "hyper-connections",
}
"""Keys of kinds of layer that a table of traits cannot say: refused in a family of the table."""

Family = Callable[[Reader, str], ModelShape]
FAMILIES: dict[str, Family] = {
    "deepseek_v2": latents.deepseek_v2,
    "minicpm3": latents.deepseek_v2,
    "deepseek_v3": latents.deepseek_v3,
    "kimi_k2": latents.deepseek_v3,
    "glm4_moe_lite": latents.deepseek_v3,
    "axk1": latents.deepseek_v3,
    "sarvam_mla": latents.deepseek_v3,
    "youtu": latents.deepseek_v3,
    "longcat_flash": latents.longcat_flash,
    "deepseek_v32": latents.sparse_latent,
    "glm_moe_dsa": latents.sparse_latent,
    "deepseek_v4": latents.deepseek_v4,
    "deepseek_ref": latents.deepseek_v4,
    "qwen3_next": hybrids.qwen3_next,
    "qwen3_5_text": hybrids.qwen3_next,
    "qwen3_5_moe_text": hybrids.qwen3_next,
    "olmo_hybrid": hybrids.olmo_hybrid,
    "kimi_linear": hybrids.kimi_linear,
    "nemotron_h": hybrids.nemotron_h,
    "granitemoehybrid": hybrids.granite_hybrid,
    "bamba": hybrids.bamba,
    "falcon_h1": hybrids.falcon_h1,
    "minimax": hybrids.lightning,
    "minimax_text_01": hybrids.lightning,
    "lfm2": hybrids.lfm2,
    "lfm2_moe": hybrids.lfm2,
    "mamba": hybrids.pure_mamba,
    "falcon_mamba": hybrids.pure_mamba,
    "mamba2": hybrids.pure_mamba2,
    "jamba": hybrids.jamba,
    "recurrent_gemma": hybrids.recurrent_gemma,
    "gemma3n": others.gemma3n,
    "gemma3n_text": others.gemma3n,
    "gemma4": others.gemma4,
    "gemma4_text": others.gemma4,
    "minimax_m2": others.minimax_m2,
    "minimax_m3": others.minimax_m3,
    "minimax_m3_vl_text": others.minimax_m3,
    "glm4_moe": others.glm4_moe,
    "mimo_v2_flash": others.mimo_v2,
    "nemotron-nas": others.nemotron_nas,
}
WRAPPED = {
    "llama4": "llama4_text", "gemma3": "gemma3_text", "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text", "qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text", "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text", "minimax_m3_vl": "minimax_m3_vl_text", "llava": "llama",
    "llava_next": "llama", "pixtral": "mistral", "mistral3": "mistral", "kimi_k25": "deepseek_v3",
    "kimi_k3": "kimi_linear",
}  # fmt: skip
"""What a wrapper's text part is where it does not say; other text parts have to."""
TEXT_PARTS = ("text_config", "llm_config", "language_config")


def known() -> tuple[str, ...]:
    """Every model_type that is modelled."""
    return tuple(sorted({*FAMILIES, *TRAITS}))


def from_config(
    config: Mapping[str, Any],
    where: str,
    name: str = "",
    quantised: Mapping[str, Any] | None = None,
) -> ModelShape:
    """The shape a config describes; `quantised` is a `hf_quant_config.json` that lies beside it.

    Raises SpecError naming the file, the field, what is right.
    """
    head = draft_heads.kind(config)
    if head:
        raise SpecError(
            where, f"is a draft head ({head}), not a model; it drafts for one under --draft"
        )
    top = Reader(config, where)
    read, notes = _text(top)
    model_type = read.text("model_type")
    if not model_type:
        raise SpecError(where, "model_type is missing: this is no model's config.json")
    _refuse(read, model_type)
    shape = _family(read, model_type, name or where)
    stated = _quantisation(top, read, quantised)
    if stated is not None:
        shape = replace(shape, formats=quantisation.formats(stated, shape, where))
    towers = _towers(top)
    if towers:
        notes += (f"encoders of about {towers / 1e9:.2g} billion parameters are held beside",)
    return replace(shape, notes=shape.notes + notes, tower_parameters=towers)


def _text(top: Reader) -> tuple[Reader, tuple[str, ...]]:
    """The part of a config that describes the text decoder, and what to say of the rest."""
    key = next((key for key in TEXT_PARTS if key in top.config), None)
    if key is None:
        return top, ()
    merged = dict(top.part(key))
    model_type = top.text("model_type")
    merged.setdefault("model_type", WRAPPED.get(model_type, model_type))
    if top.config.get("tie_word_embeddings") is not None:
        merged.setdefault("tie_word_embeddings", top.config["tie_word_embeddings"])
    notes = ("text decoder only: images and sounds cost nothing here",)
    return Reader(merged, top.where, whole_model=False), notes


def _refuse(read: Reader, model_type: str) -> None:
    """Name what cannot be modelled; ignoring it would be a wrong answer."""
    for key, what in REFUSED.items():
        if read.config.get(key):
            raise read.refuse(key, what)
    if read.flag("is_encoder_decoder", default=False):
        raise SpecError(read.where, "is_encoder_decoder: only decoders are modelled")
    if model_type in FAMILIES:
        return
    if model_type.removesuffix("_text") not in TRAITS and model_type not in TRAITS:
        raise SpecError(
            read.where,
            f"model_type {show(model_type)} is not modelled; known: {', '.join(known())}",
        )
    for key, what in FOREIGN.items():
        if read.config.get(key):
            raise read.refuse(key, f"{what}, which {model_type} has not")


def _family(read: Reader, model_type: str, name: str) -> ModelShape:
    if model_type in FAMILIES:
        return FAMILIES[model_type](read, name)
    traits = TRAITS.get(model_type) or TRAITS[model_type.removesuffix("_text")]
    return plain(read, name, traits)


def _quantisation(
    top: Reader, read: Reader, beside: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The quantisation config, wherever it stands; experts' own format is taken along."""
    for source in (top, read):
        for key in ("quantization_config", "quantization"):
            found = source.part(key)
            if found and not (key == "quantization" and "bits" not in found):
                own = read.config.get("expert_dtype")
                return {**found, "expert_dtype": own} if own else found
    return beside


def _towers(top: Reader) -> int:
    """Parameters of the vision and audio encoders, by the widths that their configs state."""
    total = 0
    for key in ("vision_config", "audio_config", "vision_tower_config"):
        inner = top.config.get(key)
        if not isinstance(inner, Mapping):
            continue
        width = inner.get("hidden_size") or inner.get("embed_dim") or inner.get("vt_hidden_size")
        depth = (
            inner.get("num_hidden_layers")
            or inner.get("depth")
            or inner.get("vt_num_hidden_layers")
        )
        ffn = inner.get("intermediate_size") or inner.get("vt_intermediate_size")
        numbers = (width, depth, ffn or 0)
        if all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 10**6 for v in numbers):
            wide = ffn or 4 * width  # type: ignore[operator]
            total += depth * (4 * width * width + 2 * width * wide)  # type: ignore[operator]
    return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PresetInfo:
    """A preset's names, its origin, and the sizes that its publisher states."""

    id: str
    aliases: tuple[str, ...]
    published_parameters: int | None
    """None where nobody is known to have published one."""
    published_bytes: int | None
    """Size of the published weight files, where it is known."""
    basis: str
    sources: tuple[str, ...]
    seen: str


__all__ = ["FAMILIES", "Formats", "PresetInfo", "from_config", "known"]
