"""Draft heads: small models that draft for one target, known by what their config says they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ARCHITECTURES = {
    r"eagle_?3": "EAGLE-3",
    r"eagle": "EAGLE",
    r"dflash": "DFlash",
    r"dspark": "DSpark",
    r"medusa": "Medusa",
    r"hydra": "Hydra",
    r"mlpspeculator": "MLP speculator",
    r"p_?eagle": "P-EAGLE",
    r"speculator": "speculator",
    r"nextn|mtp(?:model|forcausal|head)": "multi-token prediction",
}
"""Words in `architectures` and what they mean, the first that matches counts."""
MODEL_TYPES = {
    "eagle": "EAGLE", "eagle3": "EAGLE-3", "medusa": "Medusa", "mlp_speculator": "MLP speculator",
    "dflash": "DFlash", "deepseek_mtp": "multi-token prediction",
    "speculator_model": "speculator", "gemma4_assistant": "Gemma 4 assistant",
    "gemma4_unified_assistant": "Gemma 4 assistant",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DraftHead:
    """What a head's config states: its method, and the sizes that decide what drafting costs."""

    method: str
    layers: int | None
    draft_vocab: int | None
    """Tokens that its own LM head knows; None for the target's."""
    block_tokens: int | None
    """Tokens drafted in one pass by a block drafter; None for one token a pass."""
    target_layers: int | None
    """Layers of the model it was made for, where it says so."""


def kind(config: Mapping[str, Any]) -> str:
    """The method that a draft head's config names, "" for a model's own config."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type.lower() in MODEL_TYPES:
        return MODEL_TYPES[model_type.lower()]
    stated = config.get("speculators_model_type")
    words = [stated] if isinstance(stated, str) else []
    listed = config.get("architectures")
    words += [w for w in listed if isinstance(w, str)] if isinstance(listed, list) else []
    for word in words:
        for pattern, method in ARCHITECTURES.items():
            if re.search(pattern, word.lower()):
                return method
    if config.get("speculators_config") or config.get("speculators_model_type"):
        return "speculator"
    if config.get("draft_vocab_size"):
        return "EAGLE-3"
    if config.get("block_size") and config.get("num_target_layers"):
        return "block drafter"
    return ""


def read(config: Mapping[str, Any]) -> DraftHead | None:
    """The head a config describes, None for a model's own config."""
    method = kind(config)
    if not method:
        return None
    inner = config.get("transformer_layer_config")
    sizes = inner if isinstance(inner, Mapping) else config

    def whole(source: Mapping[str, Any], key: str) -> int | None:
        value = source.get(key)
        good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return value if good else None

    return DraftHead(
        method=method,
        layers=whole(sizes, "num_hidden_layers"),
        draft_vocab=whole(config, "draft_vocab_size"),
        block_tokens=whole(config, "block_size"),
        target_layers=whole(config, "num_target_layers"),
    )
