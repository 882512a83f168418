"""Hugging Face ids and their usual endings: the preset of the same shape, or a refusal."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan import model_specs
from magicplan.errors import MagicplanError, SpecError, UnknownName
from magicplan.model_specs.ids import family, parse
from magicplan.model_specs.load import presets, variants

IDS = {name: model_specs.preset_info(name).id for name in presets()}
TUNED = ("", "-Instruct", "-Chat", "-it", "-hf", "-Base")
FORMATS = {
    "": "", "-FP8": "fp8", "-FP8-dynamic": "fp8", "-FP8-KV": "fp8", "-AWQ": "int4",
    "-AWQ-INT4": "int4", "-GPTQ-Int4": "int4", "-GPTQ-Int8": "int8", "-NVFP4": "nvfp4",
    "-NVFP4A16": "nvfp4", "-FP4": "nvfp4", "-MXFP4": "mxfp4", "-quantized.w4a16": "int4",
    "-quantized.w8a8": "int8", "-bnb-4bit": "int4", "-BF16": "bf16", "-W8A8": "int8",
}  # fmt: skip
MAKERS = ("", "unsloth/", "RedHatAI/", "nvidia/", "neuralmagic/")


def test_no_two_presets_are_called_alike() -> None:
    for kind in ("words", "untuned", "bare"):
        told = [getattr(parse(name), kind) for name in presets()]
        assert len(set(told)) == len(told), kind
    assert all(all(parse(name).words) for name in presets())


def test_no_two_variants_are_called_alike_and_their_presets_exist() -> None:
    told = [parse(name).words for v in variants() for name in v.names]
    assert len(set(told)) == len(told)
    assert {v.preset for v in variants()} <= set(presets())


@pytest.mark.parametrize("preset", presets())
def test_every_preset_answers_to_its_id_with_every_usual_ending(preset: str) -> None:
    if parse(IDS[preset]).format:
        pytest.skip("its own id names a format")
    own = model_specs.load(preset)
    last = IDS[preset].rpartition("/")[2]
    assert model_specs.resolve(IDS[preset]).note == ""
    for maker, tuned, (ending, meant) in itertools.product(MAKERS, TUNED, FORMATS.items()):
        text = f"{maker}{last}{tuned}{ending}"
        found = model_specs.resolve(text)
        assert found.preset == preset, text
        assert found.shape.parameters == own.parameters, text
        assert found.format == meant, text
        if tuned or ending:
            assert preset in found.note or last.lower().endswith(tuned.lower()), text
        if ending:
            assert preset in found.note, text
        assert found.id == (text if maker else IDS[preset])


@given(preset=st.sampled_from(presets()), seed=st.integers(0, 2**32))
def test_case_spaces_and_underscores_never_matter(preset: str, seed: int) -> None:
    chance = random.Random(seed)
    typed = "".join(
        chance.choice(" -_") if c in "-_" else chance.choice((c.lower(), c.upper())) for c in preset
    )
    assert model_specs.resolve(typed).preset == preset


@given(preset=st.sampled_from(presets()), extra=st.text("abcdefghijklmnopqrstuvwxyz", min_size=8))
def test_another_word_is_another_model(preset: str, extra: str) -> None:
    with pytest.raises(UnknownName):
        model_specs.load(f"{preset}-{extra}")


@pytest.mark.parametrize(
    ("text", "preset", "ctx", "said"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", 163840, "later checkpoint"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "deepseek-r1", 163840, "later checkpoint"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b", 131072, "distilled"),
        ("RedHatAI/DeepSeek-R1-Distill-Qwen-7B-FP8-dynamic", "qwen2.5-7b", 131072, "distilled"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b", 131072, "131072 tokens"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", 262144, "262144 tokens"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507-FP8", "qwen3-30b-a3b", 262144, "262144 tokens"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b", 262144, "262144 tokens"),
        ("Qwen/Qwen2.5-7B-Instruct-1.5", "", 0, ""),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", 32768, "32768 tokens"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", 131072, "by its name"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama-3-8b", 8192, "by its name"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-v0.1", 32768, "by its name"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-base-2407", 131072, "by its name"),
        ("meta-llama/Llama-2-70b-chat-hf", "llama-2-70b", 4096, "by its name"),
        ("meta/Llama-3.1-8B", "llama-3.1-8b", 131072, "by its name"),
        ("llama3.1-8b", "llama-3.1-8b", 131072, ""), ("Llama 3.1 8B", "llama-3.1-8b", 131072, ""),
        ("gpt-oss:20b", "gpt-oss-20b", 131072, ""), ("qwen-3-32b", "qwen3-32b", 40960, ""),
    ],
)  # fmt: skip
def test_names_of_the_field(text: str, preset: str, ctx: int, said: str) -> None:
    if not preset:
        with pytest.raises(UnknownName):
            model_specs.load(text)
        return
    found = model_specs.resolve(text)
    assert (found.preset, found.shape.max_ctx_tokens) == (preset, ctx)
    assert said in found.note
    assert bool(said) == bool(found.note)


def test_a_distilled_model_with_a_head_of_its_own_counts_it() -> None:
    # 151,936 x 1,536 weights of a head beside the 1.54 B of the tied model
    tied = model_specs.load("qwen2.5-1.5b")
    own = model_specs.load("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert own.parameters - tied.parameters == 151_936 * 1_536
    assert own.published_parameters is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Llama-3.1-8B", "Llama-3-8B"), ("Qwen3-30B-A3B-Instruct-2507", "Qwen3-32B"),
        ("Qwen3-8B", "Qwen2.5-7B"), ("Llama-3.3-70B-Instruct", "Llama-3.1-70B-Instruct"),
        ("gemma-2-27b-it", "gemma-3-27b-it"), ("Mistral-7B-v0.1", "Mistral-7B-Instruct-v0.3"),
        ("DeepSeek-V2-Lite-Chat", "DeepSeek-V2-Chat"), ("GLM-4.5", "GLM-4.5-Air"),
    ],
)  # fmt: skip
def test_sizes_and_generations_never_collapse(one: str, other: str) -> None:
    assert model_specs.resolve(one).preset != model_specs.resolve(other).preset


@pytest.mark.parametrize(
    "text",
    [
        "llama-27b", "qwen-34b", "llama", "llama-3.1-8", "gpt-5", "mistral-7b", "FP8", "-", "", "/",
        "Instruct", "2507", "Qwen/Qwen3-Next-90B-A3B-Instruct", "moonshotai/Kimi-K2.9",
        "deepseek-ai/DeepSeek-V3.2-Exp", "Qwen2.5-VL-7B-Instruct", "01-ai/Yi-34B", "gemma-27b",
        "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "microsoft/Phi-3-medium-128k-instruct",
    ],
)  # fmt: skip
def test_no_other_model_is_guessed(text: str) -> None:
    with pytest.raises((UnknownName, SpecError)):
        model_specs.load(text)


@pytest.mark.parametrize("text", ["llama-3.1-9b", "Qwen/Qwen3-33B", "gemma-3-28b-it", "gpt-5"])
def test_what_is_offered_is_of_the_same_family(text: str) -> None:
    with pytest.raises(UnknownName, match="did you mean") as problem:
        model_specs.load(text)
    offered = str(problem.value).partition("did you mean ")[2].partition("?")[0].split(", ")
    assert {family(name) for name in offered} == {family(text)}


@pytest.mark.parametrize(
    "text", ["yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "RedHatAI/Qwen3-8B-speculator.eagle3",
             "z-lab/Qwen3-8B-DFlash-b16", "nvidia/gpt-oss-120b-Eagle3"],
)  # fmt: skip
def test_a_draft_head_is_no_model(text: str) -> None:
    with pytest.raises(UnknownName, match="--draft"):
        model_specs.load(text)


def test_a_folder_of_ones_own_wins_over_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "Llama-3.1-8B-Instruct"
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 1000,
        "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 512,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = model_specs.resolve("models/Llama-3.1-8B-Instruct")
    assert (found.shape.layers, found.preset, found.note) == (3, "", "")
    assert model_specs.resolve("meta-llama/Llama-3.1-8B-Instruct").preset == "llama-3.1-8b"


@pytest.mark.parametrize("text", ["x" * 5000, "a/" * 3000 + "b", "\0", "llama\n3"])
def test_no_name_makes_a_traceback(text: str) -> None:
    with pytest.raises(MagicplanError):
        model_specs.load(text)
