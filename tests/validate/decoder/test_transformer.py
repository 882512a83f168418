"""Our logits are those of `transformers`, and a bad checkpoint is refused by file and tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicplan.errors import SpecError, UnknownName, UsageError
from magicplan.model_specs.load import all_models
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.llama_config import MODEL_A, MODEL_B, Rope, config_of, load_config
from magicplan.validate.decoder.transformer import Block, Transformer
from tests.validate.decoder import tiny

transformers = pytest.importorskip("transformers", reason="writes the checkpoints")

BASE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "all biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "one KV head": ("Llama", {"num_key_value_heads": 1}),
    "no groups": ("Llama", {"num_key_value_heads": 4}),
    "wide heads": ("Llama", {"head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2, qkv bias": ("Qwen2", {}),
    "qwen3, head norms": ("Qwen3", {"head_dim": 16}),
}


def reference(case: str) -> Any:
    """A random model of `transformers` with every bias and norm away from its start."""
    family, changes = CASES[case]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(BASE | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, values in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(values, 1.0 if "norm" in name else 0.0, 0.2)
    return model.eval()


def saved(case: str, folder: Path, **options: Any) -> Any:
    model = reference(case)
    model.save_pretrained(folder, **options)
    return model


def logits_of(model: Transformer, tokens: torch.Tensor, chunk: int) -> torch.Tensor:
    """Logits of a text that passes in chunks."""
    cache = KVCache.full(
        model.shard, len(tokens), tokens.shape[1], device=model.device, dtype=model.dtype,
        page_size=16,
    )  # fmt: skip
    parts = []
    for start in range(0, tokens.shape[1], chunk):
        part = tokens[:, start : start + chunk]
        depths = torch.arange(part.shape[1], dtype=torch.int32)
        lengths = torch.full((len(tokens),), start, dtype=torch.int32)
        block = Block(lengths=lengths, depths=depths)
        parts.append(model.forward(part, cache, block, tiny.backend()))
    return torch.cat(parts, 1)


def loaded(folder: Path, **options: Any) -> Transformer:
    return Transformer.from_checkpoint(load_config(str(folder)), folder, **options)


RUN = ("llama", "mistral", "qwen2", "qwen3")
TOKENS = torch.randint(0, 128, (2, 150), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = saved(case, tmp_path)
    with torch.no_grad():
        expected = theirs(TOKENS).logits
    found = logits_of(loaded(tmp_path), TOKENS, 64)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_several_files_is_the_same(tmp_path: Path) -> None:
    saved("llama", tmp_path / "one")
    saved("llama", tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (logits_of(loaded(tmp_path / n), TOKENS, 150) for n in ("one", "many"))
    assert torch.equal(one, many)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    exact = logits_of(loaded(tmp_path), TOKENS, 150)
    half = logits_of(loaded(tmp_path, dtype=dtype), TOKENS, 150).float()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    values = tensors(folder)
    change(values)
    save_file(values, folder / "model.safetensors")


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite(tmp_path, lambda values: values.update({name: torch.zeros(64, 95)}))
    with pytest.raises(SpecError, match=rf"{name} has shape \[64, 95\], expected \[64, 96\]"):
        loaded(tmp_path)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    name = "model.layers.0.self_attn.k_proj.weight"
    rewrite(tmp_path, lambda values: values.__delitem__(name))
    with pytest.raises(SpecError, match=f"no tensor {name}"):
        loaded(tmp_path)


def test_integers_are_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    name = "model.norm.weight"
    rewrite(tmp_path, lambda values: values.update({name: torch.ones(64, dtype=torch.int8)}))
    with pytest.raises(SpecError, match=r"torch\.int8: quantised"):
        loaded(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_a_file_cut_short_is_refused(keep: float, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(SpecError, match=r"model\.safetensors: is no whole safetensors file"):
        loaded(tmp_path)


def test_pickle_files_are_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(SpecError, match=r"pickle files \(pytorch_model\.bin\)"):
        loaded(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SpecError, match="holds no checkpoint"):
        loaded(tmp_path)


def test_a_bad_index_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path, max_shard_size="40KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(SpecError, match=r"elsewhere\.safetensors: does not exist"):
        loaded(tmp_path)
    index.write_text("{}")
    with pytest.raises(SpecError, match="weight_map is missing"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mixtral-8x7b", "mixture-of-experts"),
        ("deepseek-v2-lite", r"mixture-of-experts|latent attention"),
        ("mistral-7b-v0.1", "sliding-window"),
        ("gemma-2-2b", r"sliding-window|gemma2"),
        ("phi-4", "phi3"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(name: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        load_config(name)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"partial_rotary_factor": 0.5}, "partially rotated"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope scaling 'yarn'"),
    ],
)
def test_values_that_are_not_computed_are_refused(document: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        config_of(MODEL_A, document)


def test_incomplete_rope_scaling_is_refused() -> None:
    with pytest.raises(SpecError, match="llama3 lacks or misstates 'low_freq_factor'"):
        config_of(MODEL_A, {"rope_scaling": {"type": "llama3", "factor": 8}})


def test_every_preset_is_run_or_refused_by_name() -> None:
    run = []
    for shape in all_models():
        refused = shape.experts or shape.latent or shape.sliding_layers or shape.family not in RUN
        if refused:
            with pytest.raises(UsageError, match=f"{shape.name}: the decoder does not run"):
                load_config(shape.name)
        else:
            run.append(load_config(shape.name).shape.name)
    assert {"llama-3.1-8b", "mistral-7b-v0.3", "qwen2.5-7b", "qwen3-8b"} <= set(run)


def test_an_unknown_model_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName):
        load_config("lama-3.1-8b")


def test_the_small_models_are_the_size_they_say() -> None:
    for shape, megabytes in ((MODEL_A, 54.5), (MODEL_B, 22.0)):
        model = Transformer.random(load_config(shape.name), dtype=torch.bfloat16)
        assert model.weight_bytes == 2 * shape.parameters
        assert model.weight_bytes / 1e6 == pytest.approx(megabytes, abs=0.1)
        assert 2 * shape.layers * shape.kv_heads * shape.head_dim * 2 == 8192


def test_random_weights_depend_on_the_seed_alone() -> None:
    one, same, other = (tiny.model(seed=s).weights.layers[1].qkv for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_llama3_scaling_keeps_short_waves_and_divides_long_ones() -> None:
    plain = Rope(theta=5e5).frequencies(128)
    scaled = Rope(theta=5e5, scaling="llama3", factor=8.0).frequencies(128)
    ratio = [p / s for p, s in zip(plain, scaled, strict=True)]
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(8.0)
    assert ratio == sorted(ratio)
