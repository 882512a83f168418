"""Number formats by part: what every quantisation method writes, and published file sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magicplan import model_specs
from magicplan.errors import SpecError
from magicplan.model_specs import from_config
from magicplan.model_specs.formats import BF16, Formats, format_of
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.memory import weights_bytes

MOE: dict[str, Any] = {
    "model_type": "deepseek_v3", "hidden_size": 1024, "intermediate_size": 3072,
    "moe_intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
    "kv_lora_rank": 256, "q_lora_rank": 384, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
    "v_head_dim": 64, "n_routed_experts": 32, "n_shared_experts": 1, "num_experts_per_tok": 4,
    "first_k_dense_replace": 1, "vocab_size": 20000, "max_position_embeddings": 8192,
}  # fmt: skip


def read(quantised: dict[str, Any], **changes: Any) -> Formats:
    config = MOE | changes | {"quantization_config": quantised}
    return from_config(config, "config.json").formats


def test_bytes_of_a_number_by_hand() -> None:
    assert format_of("mxfp4").bytes == (4 + 8 / 32) / 8
    assert format_of("nvfp4").bytes == (4 + 8 / 16) / 8
    assert format_of("int4", 32).bytes == (4 + 16 / 32) / 8
    assert format_of("fp8", 128).bytes == (8 + 32 / 128**2) / 8
    assert format_of("int8").bytes == 1
    assert BF16.bytes == 2


def test_weight_only_multiplies_in_16_bits_anywhere() -> None:
    everything = frozenset({"fp4", "fp8", "int8", "bf16"})
    formats = Formats(experts=format_of("int4", 128), mlp=format_of("nvfp4"))
    assert formats.on(everything, "bf16").experts.math == "bf16"
    assert formats.on(everything, "bf16").mlp.math == "fp4"
    assert formats.on(frozenset({"fp16"}), "fp16").mlp.math == "fp16"


@pytest.mark.parametrize(
    ("quantised", "experts", "attention"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", "int4"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 64}, "int8", "int8"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "int4", "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "int8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "int8", "int8"),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16"),
        ({"producer": {"name": "modelopt"}, "quant_algo": "NVFP4"}, "nvfp4", "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", "fp8"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4,
          "group_size": 64}}}, "int4", "int4"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4",
          "group_size": 32}, "input_tensors": None}, "exclude": ["*self_attn*"]}, "mxfp4", "bf16"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]}, "fp8", "bf16"),
        ({"bits": 4, "group_size": 64}, "int4", "int4"),
    ],
)  # fmt: skip
def test_every_method_is_read(quantised: dict[str, Any], experts: str, attention: str) -> None:
    formats = read(quantised)
    assert (formats.experts.name, formats.attention.name) == (experts, attention)
    assert (formats.head, formats.embeddings, formats.router) == (BF16, BF16, BF16)


def groups(ignore: list[str], **more: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ignore
    } | more  # fmt: skip


def test_what_a_list_ignores_stays_16_bits() -> None:
    """By expression, by glob, by every layer's name, and by a word anywhere in a path."""
    for attention in (
        ["re:.*self_attn.*"], ["*.self_attn*"], [f"model.layers.{i}.self_attn" for i in range(6)],
        ["self_attn"], [f"language_model.model.layers.{i}.self_attn*" for i in range(6)],
    ):  # fmt: skip
        formats = read(groups(["lm_head", *attention]))
        assert (formats.attention.name, formats.experts.name) == ("bf16", "int4"), attention
    formats = read(groups(["re:.*shared_experts.*", r"re:.*mlp\.(gate|up|down)_proj.*"]))
    assert (formats.shared.name, formats.mlp.name, formats.experts.name) == ("bf16", "bf16", "int4")


def test_a_part_of_two_formats_has_the_bits_of_both() -> None:
    """One of six layers ignored: the attention of five is narrow."""
    formats = read(groups(["model.layers.2.self_attn*"]))
    assert formats.attention.name == "int4"
    assert formats.attention.bytes == pytest.approx((5 * (4 + 0.5) + 16) / 6 / 8)


def test_it_is_found_inside_the_text_config_and_beside_the_file(tmp_path: Path) -> None:
    text = MOE | {"quantization_config": groups(["re:.*self_attn.*"])}
    wrapped = from_config({"model_type": "kimi_k25", "text_config": text}, "config.json")
    assert wrapped.formats.experts.name == "int4"
    (tmp_path / "config.json").write_text(json.dumps(MOE))
    beside = {
        "producer": {"name": "modelopt"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["*self_attn*"],
        },
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    shape = model_specs.load(str(tmp_path))
    assert (shape.formats.experts.name, shape.formats.attention.name) == ("nvfp4", "bf16")
    assert shape.formats.kv.name == "fp8"


def test_modules_of_their_own_formats() -> None:
    """modelopt's mixed precision names every module; a head is narrow where it is named."""
    own = {
        **{f"model.layers.{i}.self_attn.o_proj": {"quant_algo": "FP8"} for i in range(6)},
        **{f"model.layers.{i}.mlp.experts.{e}.up_proj": {"quant_algo": "NVFP4"}
           for i in range(6) for e in range(32)},
        "lm_head": {"quant_algo": "FP8"},
    }  # fmt: skip
    formats = read({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                    "quantized_layers": own})  # fmt: skip
    assert (formats.experts.name, formats.head.name) == ("nvfp4", "fp8")
    assert 1 < formats.attention.bytes < 2


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "magic"}, {"quant_method": 3}, {"quant_method": "hqq"},
        {"quant_method": "compressed-tensors", "config_groups": 7},
        {"quant_method": "modelopt", "quant_algo": "NEW"}, {"quant_method": "torchao"},
        {"quant_method": "awq", "bits": "four"}, {"quant_method": "gptq", "bits": 400},
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(quantised: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="quantization_config"):
        read(quantised)


@pytest.mark.parametrize("m", model_specs.all_models(), ids=lambda m: m.name)
def test_published_file_sizes(m: model_specs.ModelShape) -> None:
    """Within 1 % of the files of every preset whose size is published: Kimi-K2.5's 594 GB, gpt-oss
    in its model card's table 1, and 16-bit checkpoints by their safetensors totals."""
    published = model_specs.preset_info(m.name).published_bytes
    if published is None:
        pytest.skip("no published size")
    held = weights_bytes(m, Deployment(formats=m.formats))
    assert held == pytest.approx(published, rel=0.01)


def test_enough_sizes_are_published() -> None:
    sizes = [model_specs.preset_info(m.name).published_bytes for m in model_specs.all_models()]
    assert sum(size is not None for size in sizes) >= 8
