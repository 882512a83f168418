"""Formats and stacks in the spellings of engines, checkpoints and people."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from magicplan.hardware_specs import spelling
from magicplan.planning.request import request_from
from magicplan.prediction.request import request
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, BYTES_PER_WEIGHT


def test_every_spelling_is_one_formats() -> None:
    for table, known in (
        (spelling.WEIGHTS, BYTES_PER_WEIGHT), (spelling.KV, BYTES_PER_KV_NUMBER),
    ):  # fmt: skip
        assert set(table) == set(known)
        words = [*table, *itertools.chain(*table.values())]
        assert len(words) == len(set(words))
        assert all(word.isalnum() and word == word.lower() for word in words)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("FP8", "fp8"), ("bfloat16", "bf16"), ("torch.bfloat16", "bf16"), ("float16", "fp16"),
        ("half", "fp16"), ("fp8_e4m3", "fp8"), ("mxfp4", "fp4"), ("NVFP4", "fp4"), ("AWQ", "int4"),
        ("W4A16", "int4"), ("w8a8", "int8"), ("fp9", "fp9"), ("", ""), ("auto", "auto"),
    ],
)  # fmt: skip
def test_weight_formats(text: str, meant: str) -> None:
    assert spelling.weight_format(text) == meant
    assert request("h100", {"dtype": text}).dtype == meant
    assert request("h100", {"draft_dtype": text}).draft_dtype == meant


@pytest.mark.parametrize(
    ("text", "meant"), [("fp8_e5m2", "fp8"), ("FP8", "fp8"), ("bfloat16", "bf16"), ("int3", "int3")]
)
def test_kv_formats(text: str, meant: str) -> None:
    assert request("h100", {"kv_dtype": text}).kv_dtype == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("vLLM", "vllm"), ("SGLang", "sglang"), ("trt-llm", "trtllm"), ("TensorRT-LLM", "trtllm"),
        ("tensorrt_llm@1.0", "trtllm@1.0"), ("TensorRT LLM@v1.0", "trtllm@1.0"),
        ("vllm==0.19.0", "vllm@0.19.0"), ("vLLM@pr48944", "vllm@pr48944"), ("MagicDec", "magicdec"),
        ("mine/VLLM.toml", "mine/VLLM.toml"), ("vLLM.toml", "vLLM.toml"), ("vlm", "vlm"),
    ],
)  # fmt: skip
def test_stacks(text: str, meant: str) -> None:
    assert spelling.stack(text) == meant
    assert request("h100", {"stack": text}).stack == meant


def test_plans_read_the_same_spellings_once_each() -> None:
    ask = request_from(
        {
            "requests_per_s": 1, "gpus": "h100", "dtypes": ("FP8", "fp8_e4m3", "bfloat16"),
            "kv_dtypes": "fp8_e4m3", "stack": "TensorRT-LLM",
        }
    )  # fmt: skip
    told = (ask.choices.dtypes, ask.choices.kv_dtypes, ask.engine.stack)
    assert told == (("fp8", "bf16"), ("fp8",), "trtllm")


def test_what_is_no_text_is_left_to_the_checks_behind() -> None:
    assert request("h100", {"dtype": None}).dtype is None
    left: Any = request("h100", {"dtype": 8}).dtype
    assert left == 8
