"""What the decoder can run: Llama-shaped models, from a preset or a local Hugging Face folder.

`ModelShape` has the counts; the numbers that decide values rather than sizes (RoPE, norms) are
read here. What the decoder does not compute is refused by name, never approximated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError, UsageError
from magicplan.model_specs.load import load
from magicplan.model_specs.shape import ModelShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary embedding (arXiv 2104.09864) of base `theta`.

    `scaling` is "none", "linear" (all frequencies divided by `factor`) or "llama3": frequencies
    whose wavelength exceeds `original_ctx_tokens / low` are divided by `factor`, those below
    `original_ctx_tokens / high` are kept, and those between are blended.
    """

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_ctx_tokens: int = 8192

    def frequencies(self, head_dim: int) -> list[float]:
        """Radians a token of every rotated pair, [head_dim / 2]."""
        plain = [self.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        if self.scaling == "none":
            return plain
        if self.scaling == "linear":
            return [f / self.factor for f in plain]
        return [self._llama3(f) for f in plain]

    def _llama3(self, frequency: float) -> float:
        turns = self.original_ctx_tokens * frequency / (2 * math.pi)
        keep = min(1.0, max(0.0, (turns - self.low) / (self.high - self.low)))
        return frequency * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """A model the decoder runs. `qk_norm`: queries and keys are normalised a head (Qwen3)."""

    shape: ModelShape
    rope: Rope = Rope()
    norm_eps: float = 1e-5
    qk_norm: bool = False
    end_tokens: tuple[int, ...] = ()


MODEL_A = ModelShape(
    name="model-a", layers=8, hidden=512, q_heads=8, kv_heads=4, head_dim=64, ffn=1536, vocab=4096,
    max_ctx_tokens=1 << 17, tied_embeddings=True, norm_parameters=17 * 512,
)  # fmt: skip
"""A small model with grouped queries: 54.5 MB of bf16 weights, 8 KiB of KV a token."""
MODEL_B = ModelShape(
    name="model-b", layers=4, hidden=512, q_heads=8, kv_heads=8, head_dim=64, ffn=1024, vocab=1024,
    max_ctx_tokens=1 << 17, tied_embeddings=True, norm_parameters=9 * 512,
)  # fmt: skip
"""The default on a CPU: 22 MB of bf16 weights, 8 KiB of KV a token, no grouped queries."""
SMALL = {shape.name: shape for shape in (MODEL_A, MODEL_B)}


def load_config(model: str) -> LlamaConfig:
    """`model-a`, `model-b`, a preset, a config.json or the folder that holds one.

    Presets carry no RoPE constants: they run with random weights, for which theta is 10,000.
    Raises UnknownName, SpecError for a bad file, UsageError for a model that is not Llama-shaped.
    """
    if model.lower() in SMALL:
        return LlamaConfig(shape=SMALL[model.lower()])
    shape = load(model)
    path = Path(model).expanduser()
    file = path / "config.json" if path.is_dir() else path
    document = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config_of(shape, document)


def config_of(shape: ModelShape, document: Mapping[str, Any] | None = None) -> LlamaConfig:
    """The shape with what its config.json (`document`) says of values; {} takes defaults."""
    document = document or {}
    _refuse(shape, document)
    end = document.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    return LlamaConfig(
        shape=shape,
        rope=_rope(document, shape),
        norm_eps=float(document.get("rms_norm_eps", 1e-5)),
        qk_norm=shape.family == "qwen3",
        end_tokens=tuple(int(token) for token in ends),
    )


def _refuse(shape: ModelShape, document: Mapping[str, Any]) -> None:
    """Say the first thing that the decoder would compute wrongly."""
    activation = document.get("hidden_act", "silu")
    problem = (
        "mixture-of-experts layers" if shape.experts
        else "latent attention (MLA)" if shape.latent
        else "sliding-window layers" if shape.sliding_layers
        else f"the {shape.family} architecture" if shape.family not in FAMILIES
        else f"the activation {activation!r}" if activation != "silu"
        else "quantised weights" if document.get("quantization_config")
        else "partially rotated heads" if document.get("partial_rotary_factor", 1) != 1
        else "an odd head size" if shape.head_dim % 2
        else ""
    )  # fmt: skip
    if problem:
        raise UsageError(
            f"{shape.name}: the decoder does not run {problem}; it runs dense Llama-shaped models "
            f"({', '.join(FAMILIES)}) with SwiGLU and full attention"
        )


def _rope(document: Mapping[str, Any], shape: ModelShape) -> Rope:
    """Old configs have rope_theta and rope_scaling, newer ones rope_parameters for both."""
    given = document.get("rope_parameters") or document.get("rope_scaling") or {}
    theta = float(given.get("rope_theta") or document.get("rope_theta") or 10000.0)
    kind = given.get("rope_type") or given.get("type") or "default"
    try:
        if kind == "default":
            return Rope(theta=theta)
        if kind == "linear":
            return Rope(theta=theta, scaling="linear", factor=float(given["factor"]))
        if kind == "llama3":
            return Rope(
                theta=theta,
                scaling="llama3",
                factor=float(given["factor"]),
                low=float(given["low_freq_factor"]),
                high=float(given["high_freq_factor"]),
                original_ctx_tokens=int(given["original_max_position_embeddings"]),
            )
    except (KeyError, TypeError, ValueError) as problem:
        raise SpecError(shape.name, f"rope scaling {kind} lacks or misstates {problem}") from None
    raise UsageError(
        f"{shape.name}: the decoder does not run rope scaling {kind!r}; it runs default, linear "
        "and llama3"
    )
