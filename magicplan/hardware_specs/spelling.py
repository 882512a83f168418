"""Formats and stacks as engines, checkpoints and people spell them, each in one spelling."""

from __future__ import annotations

import re

WEIGHTS = {
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half", "f16"),
    "fp32": ("float32", "float", "f32"),
    "fp8": ("fp8e4m3", "fp8e4m3fn", "fp8e5m2", "e4m3", "e5m2", "float8", "float8e4m3fn",
            "float8e5m2", "mxfp8", "fp8dynamic", "w8a8fp8"),
    "int8": ("w8a8", "w8a8int8", "smoothquant"),
    "fp4": ("nvfp4", "mxfp4", "e2m1", "float4", "nvfp4a16"),
    "int4": ("awq", "gptq", "w4a16", "awqint4", "int4awq", "gptqint4", "awqmarlin", "gptqmarlin"),
}  # fmt: skip
"""Our names of weight formats, and others for them without punctuation. `mxfp4` and `nvfp4` are
fp4 with scales for 32 and 16 numbers."""
KV = {
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half", "f16"),
    "fp32": ("float32", "float", "f32"),
    "fp8": ("fp8e4m3", "fp8e4m3fn", "fp8e5m2", "e4m3", "e5m2", "float8", "fp8inc"),
    "int8": (),
    "int4": (),
}
STACKS = {
    "vllm": (),
    "sglang": ("sgl",),
    "trtllm": ("tensorrtllm", "tensorrt", "trt"),
    "magicdec": (),
    "ideal": (),
}


def _by_spelling(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: name for name, others in table.items() for word in (name, *others)}


_WEIGHTS, _KV, _STACKS = map(_by_spelling, (WEIGHTS, KV, STACKS))


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().removeprefix("torch."))


def weight_format(text: str) -> str:
    """A weight format in our spelling: "FP8", "bfloat16", "mxfp4"; what is none stays as it is."""
    return _WEIGHTS.get(_letters(text), text)


def kv_format(text: str) -> str:
    """A KV cache's format in our spelling; what is none stays as it is."""
    return _KV.get(_letters(text), text)


def stack(text: str) -> str:
    """A stack in our spelling, its version kept: "TensorRT-LLM@v1.0" is "trtllm@1.0".

    A path to a calibration, and what is no stack, stay as they are.
    """
    if "/" in text or text.endswith(".toml"):
        return text
    name, at, version = text.strip().replace("==", "@").partition("@")
    found = _STACKS.get(_letters(name))
    if found is None:
        return text
    return found + at + re.sub(r"^[vV](?=\d)", "", version.strip())
