"""Every preset against its published count, names, and configs good and bad."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan import model_specs
from magicplan.errors import MagicplanError, SpecError, UnknownName
from magicplan.model_specs import ModelShape, from_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def test_there_are_enough() -> None:
    assert len(model_specs.all_models()) >= 55


@pytest.mark.parametrize("m", model_specs.all_models(), ids=lambda m: m.name)
def test_parameters_are_the_published_ones(m: ModelShape) -> None:
    """Within 0.5 %, or half of the last digit that was published: "35B" is 34.5 to 35.5."""
    assert model_specs.preset_info(m.name).sources
    if m.published_parameters is None:
        pytest.skip("no count is published")
    digits = str(m.published_parameters)
    last = 10 ** (len(digits) - len(digits.rstrip("0")))
    off = abs(m.parameters - m.published_parameters)
    assert off <= max(0.005 * m.published_parameters, last / 2)


@pytest.mark.parametrize("m", model_specs.all_models(), ids=lambda m: m.name)
def test_no_model_is_named_by_a_count_it_has_not(m: ModelShape) -> None:
    """Names round down, and some count a tower: within 6 % or .65 billion of the text part (a third
    for the smallest), which a name of another size never is."""
    named = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", m.name)
    if named is None or "x" in m.name.split("-")[1] or "llama-4" in m.name:
        pytest.skip("its name says no count of all parameters")
    stated = float(named[1]) * (1e9 if named[2] == "b" else 1e6)
    assert abs(m.parameters - stated) <= max(0.06 * stated, min(0.65e9, 0.35 * stated))


def test_llama_by_hand() -> None:
    # embeddings and head 2 x 128,256 x 4,096; a layer 4,096 x (4,096 + 1,024 + 1,024 + 4,096)
    # + 3 x 4,096 x 14,336 + two norms of 4,096; one last norm
    m = model_specs.load("llama-3.1-8b")
    assert m.parameters == 2 * 525_336_576 + 32 * (41_943_040 + 176_160_768 + 8_192) + 4_096
    assert m.parameters == 8_030_261_248
    assert 2 * m.kv_numbers_per_token_layer * m.layers == 131_072


@pytest.mark.parametrize(
    ("name", "layers", "window"),
    [
        ("gemma-2-2b", 13, 4096), ("gemma-3-27b", 52, 1024), ("gpt-oss-120b", 18, 128),
        ("mistral-7b-v0.1", 32, 4096), ("llama-4-scout-17b-16e", 36, 8192), ("qwen2.5-7b", 0, None),
    ],
)  # fmt: skip
def test_sliding_layers(name: str, layers: int, window: int | None) -> None:
    m = model_specs.load(name)
    assert (m.sliding_layers, m.window_tokens) == (layers, window)


def test_deepseek_v3() -> None:
    m = model_specs.load("deepseek-v3")
    assert m.kv_numbers_per_token_layer == 512 + 64
    assert m.experts is not None
    assert (m.experts.layers, m.dense_layers, m.experts.shared_ffn) == (58, 3, 2048)
    assert m.group == 128


def test_maverick_has_experts_in_every_other_layer() -> None:
    m = model_specs.load("llama-4-maverick-17b-128e")
    assert m.experts is not None
    assert (m.experts.layers, m.ffn) == (24, 16384)


@pytest.mark.parametrize(
    "name",
    [
        "tinyllama-1.1b", "llama-2-7b", "llama-2-7b-32k", "llama-3.1-8b", "llama-3.1-70b",
        "llama-3.1-405b", "llama-3.2-1b", "mistral-7b-v0.3", "mixtral-8x7b", "gemma-3-27b",
        "deepseek-v3", "qwen2.5-7b", "qwen2.5-32b", "qwen3-32b", "qwen3-235b-a22b", "gpt-oss-120b",
        "meta-llama/Llama-3.1-8B", "LLAMA-3.1-8B", "llama-3.3-70b", "deepseek-ai/DeepSeek-V3",
    ],
)  # fmt: skip
def test_names(name: str) -> None:
    assert model_specs.load(name).layers > 0


@pytest.mark.parametrize("name", ["llama", "llama-3.1-8", "gpt-5", ""])
def test_names_are_never_guessed(name: str) -> None:
    with pytest.raises((UnknownName, SpecError)):
        model_specs.load(name)


def test_near_matches_are_offered() -> None:
    with pytest.raises(UnknownName, match=r"llama-3\.1-8b"):
        model_specs.load("llama3.1-9b")


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for path in (tmp_path, tmp_path / "config.json"):
        m = model_specs.load(str(path))
        assert m.parameters == 8_030_261_248
        assert m.name == tmp_path.name


def change(**values: Any) -> dict[str, Any]:
    return {k: v for k, v in (LLAMA | values).items() if v != "drop"}


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (change(hidden_size="drop"), "hidden_size is missing"),
        (change(num_hidden_layers=-1), "num_hidden_layers is -1"),
        (change(num_hidden_layers=0), "num_hidden_layers is 0"),
        (change(num_hidden_layers="many"), "num_hidden_layers is 'many'"),
        (change(num_hidden_layers=True), "num_hidden_layers is True"),
        (change(num_hidden_layers=1e30), "num_hidden_layers"),
        (change(num_hidden_layers=math.nan), "num_hidden_layers is nan"),
        (change(num_key_value_heads=5), "does not divide"),
        (change(num_attention_heads=33, num_key_value_heads=33), "does not divide hidden_size"),
        (change(model_type="drop"), "model_type is missing"),
        (change(model_type="rwkv"), "'rwkv' is not modelled"),
        (change(model_type="phi3small"), "'phi3small' is not modelled"),
        (change(index_topk=2048), "sparse-attention indexer"),
        (change(is_encoder_decoder=True), "only decoders"),
        (change(tie_word_embeddings="yes"), "tie_word_embeddings"),
        (change(quantization_config={"quant_method": "magic"}), "'magic' is not modelled"),
        (change(text_config=[1]), "text_config"),
        (change(model_type="qwen3", layer_types=["x"], use_sliding_window=True), "layer_types"),
        (change(model_type="mixtral", num_local_experts=8, num_experts_per_tok=9), "exceeds"),
        (change(model_type="mixtral"), "num_local_experts is missing"),
        (change(model_type="deepseek_v3"), "kv_lora_rank is missing"),
    ],
)
def test_what_cannot_be_modelled_is_refused_by_name(config: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong) as problem:
        from_config(config, "config.json")
    assert str(problem.value).startswith("config.json: ")
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("", "is empty"), ("{", "is not JSON"), ("[1]", "no JSON object"), ("\xff\xfe", "not JSON"),
     ("[" * 100_000, "is not JSON")],
)  # fmt: skip
def test_files_that_are_no_config(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=wrong):
        model_specs.load(str(tmp_path))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        model_specs.load(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="no text file"):
        model_specs.load(str(tmp_path))


def presets() -> list[dict[str, Any]]:
    folder = Path(model_specs.__file__).parent / "presets"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


junk = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers())
)


@given(data=st.data())
def test_no_change_to_a_config_makes_a_traceback(data: st.DataObject) -> None:
    config = copy.deepcopy(data.draw(st.sampled_from(presets())))
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            config.pop(key, None)
        else:
            config[key] = data.draw(junk)
    with contextlib.suppress(MagicplanError):
        assert from_config(config, "config.json").parameters > 0
