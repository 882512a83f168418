"""Tiny models for the decoder's tests: fp32, a second for thousands of tokens."""

from __future__ import annotations

import torch

from magicplan.kernels import load
from magicplan.kernels.backend import Backend
from magicplan.model_specs.shape import ModelShape
from magicplan.validate.decoder.llama_config import LlamaConfig
from magicplan.validate.decoder.transformer import Transformer

VOCAB = 61


def config(**changes: object) -> LlamaConfig:
    """Three layers of grouped queries, without biases."""
    fields: dict[str, object] = {
        "name": "tiny", "layers": 3, "hidden": 48, "q_heads": 4, "kv_heads": 2, "head_dim": 12,
        "ffn": 64, "vocab": VOCAB, "max_ctx_tokens": 4096,
    }  # fmt: skip
    return LlamaConfig(shape=ModelShape(**(fields | changes)))  # type: ignore[arg-type]


def model(seed: int = 1, attention_scale: float = 2.0, **changes: object) -> Transformer:
    """Random weights; attention strong enough that a draft's window matters."""
    return Transformer.random(config(**changes), seed=seed, attention_scale=attention_scale)


def backend() -> Backend:
    """The torch backend: on a CPU the one that runs."""
    return load("torch")


def prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random prompts of those lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in lengths]
