"""Configs as people have them: other spellings, lists, wrappers, draft heads, and transformers' own
count of parameters."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magicplan import model_specs
from magicplan.errors import MagicplanError, SpecError
from magicplan.model_specs import draft_heads, from_config
from magicplan.model_specs.config import FAMILIES, WRAPPED, known
from magicplan.model_specs.reader import class_defaults

MOE: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 768, "intermediate_size": 2048,
    "moe_intermediate_size": 384, "head_dim": 64, "num_attention_heads": 12,
    "num_key_value_heads": 4, "num_hidden_layers": 5, "num_experts": 24, "num_experts_per_tok": 4,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 20000,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA4: dict[str, Any] = {
    "model_type": "llama4_text", "hidden_size": 512, "intermediate_size": 1024,
    "intermediate_size_mlp": 2048, "head_dim": 64, "num_attention_heads": 8,
    "num_key_value_heads": 2, "num_hidden_layers": 6, "num_local_experts": 8,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 4096,
    "vocab_size": 30000, "max_position_embeddings": 65536,
}  # fmt: skip


def renamed(config: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in config.items()}


def test_spellings_of_transformers_5() -> None:
    """It saves `num_experts` as `num_local_experts` and `torch_dtype` as `dtype`."""
    told = from_config(MOE, "config.json")
    said = from_config(renamed(MOE, "num_experts", "num_local_experts"), "config.json")
    assert told.parameters == said.parameters
    assert said.experts is not None
    assert (said.experts.count, said.experts.layers) == (24, 5)


def test_a_list_of_layers_with_experts_beats_the_step() -> None:
    """Layers 1, 3 and 5 have experts: the others a feed-forward of the other width."""
    every = from_config(LLAMA4, "config.json")
    listed = from_config(LLAMA4 | {"moe_layers": [1, 3, 5]}, "config.json")
    expert, dense = 3 * 512 * 1024, 3 * 512 * 2048
    mixture = 8 * expert + expert + 8 * 512  # routed, shared, router
    assert every.parameters - listed.parameters == 3 * (mixture - dense)


def test_keys_of_a_kind_that_no_layer_is_of_mean_nothing() -> None:
    config = renamed(MOE, "num_experts", "num_local_experts") | {
        "model_type": "minimax_m2", "intermediate_size": 384, "attn_type_list": [1] * 5
    }  # fmt: skip
    assert from_config(config, "config.json").full_layers == 5
    with pytest.raises(SpecError, match="attn_type_list asks for linear attention"):
        from_config(config | {"attn_type_list": [1, 0, 1, 1, 1]}, "config.json")


def test_a_text_config_is_completed_by_its_class_and_a_whole_model_is_not() -> None:
    """Gemma 3 4B as its makers publish it; heads, vocabulary and widths are those of the class."""
    text = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024,
    }  # fmt: skip
    wrapped = from_config({"model_type": "gemma3", "text_config": text}, "config.json")
    assert wrapped.parameters == model_specs.load("gemma-3-4b").parameters
    assert (wrapped.sliding_layers, wrapped.window_tokens) == (29, 1024)
    with pytest.raises(SpecError, match="vocab_size is missing"):
        from_config(text, "config.json")


def test_null_is_null_and_no_default() -> None:
    """Mistral's class has a window of 4096; files say null for none."""
    config = {
        "model_type": "mistral", "hidden_size": 512, "intermediate_size": 1024,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 1000, "max_position_embeddings": 32768,
    }  # fmt: skip
    assert from_config(config | {"sliding_window": None}, "config.json").sliding_layers == 0
    assert from_config(config | {"sliding_window": 4096}, "config.json").sliding_layers == 4


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "qwen3"])
def test_biases_that_a_config_asks_for_are_counted(family: str) -> None:
    config = {
        "model_type": family, "hidden_size": 512, "intermediate_size": 1024, "head_dim": 64,
        "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 1000, "max_position_embeddings": 4096, "sliding_window": 512,
    }  # fmt: skip
    plain = from_config(config, "config.json").parameters
    biased = from_config(config | {"attention_bias": True}, "config.json").parameters
    assert biased - plain == 3 * (8 * 64 + 2 * 2 * 64 + 512)


def test_vision_towers_are_held_and_said() -> None:
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    text = {"model_type": "qwen3_vl_text"} | {k: v for k, v in MOE.items() if "expert" not in k}
    text |= {"model_type": "qwen3_vl_text"}
    config = {"model_type": "qwen3_vl", "text_config": text, "vision_config": vision}
    shape = from_config(config, "config.json")
    assert shape.tower_parameters == 27 * (4 * 1152**2 + 2 * 1152 * 4304)
    assert any("encoders" in note for note in shape.notes)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"]}, "EAGLE-3"),
        ({"model_type": "llama", "draft_vocab_size": 32000}, "EAGLE-3"),
        ({"model_type": "qwen3", "architectures": ["DFlashDraftModel"], "block_size": 8}, "DFlash"),
        ({"speculators_model_type": "eagle3"}, "EAGLE-3"),
        ({"speculators_config": {"algorithm": "dspark"}}, "speculator"),
        ({"model_type": "qwen3", "block_size": 8, "num_target_layers": 36}, "block drafter"),
        ({"model_type": "medusa"}, "Medusa"),
        ({"architectures": ["EagleLlamaForCausalLM"]}, "EAGLE"),
    ],
)
def test_a_draft_head_is_known_for_what_it_is(config: dict[str, Any], method: str) -> None:
    with pytest.raises(SpecError, match=r"is a draft head \(.*--draft") as problem:
        from_config(config, "config.json")
    assert f"({method})" in str(problem.value)
    head = draft_heads.read(config)
    assert head is not None
    assert head.method == method


def test_a_models_own_config_is_no_head() -> None:
    for preset in sorted((Path(model_specs.__file__).parent / "presets").glob("*.json")):
        assert draft_heads.read(json.loads(preset.read_text())) is None, preset.name
    assert draft_heads.kind(MOE) == ""


def test_what_a_head_says_of_itself() -> None:
    config = {
        "architectures": ["DFlashDraftModel"], "num_hidden_layers": 5, "block_size": 16,
        "num_target_layers": 36, "draft_vocab_size": None,
    }  # fmt: skip
    head = draft_heads.read(config)
    assert head is not None
    assert (head.layers, head.block_tokens, head.target_layers) == (5, 16, 36)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"model_type": "llama", "index_topk": 2048}, "index_topk asks for a sparse-attention"),
        ({"model_type": "qwen2", "kv_lora_rank": 512}, "kv_lora_rank asks for latent attention"),
        ({"model_type": "deepseek_v3", "index_topk": 512}, "index_topk"),
        ({"model_type": "qwen3_moe", "layer_types": ["linear_attention"] * 5}, "linear attention"),
        ({"layer_types": ["full_attention"] * 4}, "no list of 5 layers"),
        (
            {
                "moe_layer_start_index": "x",
                "decoder_sparse_step": None,
                "mlp_only_layers": None,
                "model_type": "ernie4_5_moe",
            },
            "moe_layer_start_index",
        ),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MXM"}, "hybrid_override_pattern"),
        ({"model_type": "kimi_linear"}, "kv_lora_rank is missing"),
        ({"model_type": "deepseek_v4", "compress_ratios": [4, 4, 5, 4, 4]}, "compress_ratios"),
    ],
)
def test_what_a_kind_cannot_be_is_refused_by_name(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        from_config(MOE | changes, "config.json")


def test_class_defaults_are_of_families_that_are_read() -> None:
    assert set(class_defaults()) <= {*known(), *WRAPPED.values()}
    assert class_defaults()["mistral"]["sliding_window"] == 4096


def documents() -> list[dict[str, Any]]:
    folder = Path(model_specs.__file__).parent / "presets"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


DOCUMENTS = documents()


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_config_is_right_or_refused(data: st.DataObject) -> None:
    """Drop, rename, nest or list any key: no traceback, and what still reads has parameters and a
    cache that can be counted."""
    config = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    key = data.draw(st.sampled_from(sorted(set(config) - {"_magicplan"})))
    how = data.draw(st.sampled_from(["drop", "rename", "nest", "list"]))
    value = config.pop(key)
    if how == "rename":
        config[f"{key}_x"] = value
    elif how == "nest":
        config["inner"] = {key: value}
    elif how == "list":
        config[key] = [value]
    try:
        shape = from_config(config, "config.json")
    except MagicplanError:
        return
    assert shape.parameters > 0
    assert shape.kv_numbers_per_token >= 0


SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_experts",
    "num_local_experts", "n_routed_experts", "moe_intermediate_size", "kv_lora_rank", "q_lora_rank",
)  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d["_magicplan"]["id"])
def test_a_size_that_is_dropped_is_missed(document: dict[str, Any]) -> None:
    """A whole model says its sizes itself: one that is gone is no default's, and no other count."""
    whole = from_config(document, "config.json").parameters
    for key in SIZES:
        if key not in document or key == "q_lora_rank":
            continue
        less = {k: v for k, v in document.items() if k != key}
        with contextlib.suppress(SpecError):
            assert from_config(less, "config.json").parameters == whole, key


def test_every_family_is_reached_by_its_name() -> None:
    assert set(FAMILIES) <= set(known())
    assert len(known()) >= 90
