"""How a model is laid out: number formats and degrees of parallelism of one replica."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from magicplan.model_specs.formats import Format, Formats, format_of

Num = Any
"""A float, a NumPy array or a sympy expression; counts are floats, so that nothing overflows."""
Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Namespace = ModuleType | SimpleNamespace
"""A module that has `maximum`, `minimum` and `where`: numpy, or sympy's counterparts."""

BYTES_PER_WEIGHT: Final = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5 + 1 / 16,  # NVFP4: an fp8 scale for every 16 numbers
    "int4": 0.5 + 2 / 128,  # AWQ, GPTQ: an fp16 scale for every 128 numbers
}
BYTES_PER_KV_NUMBER: Final = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,  # one scale a tensor
    "int8": 1.0 + 2 / 128,  # an fp16 scale for every 128 numbers
    "int4": 0.5 + 4 / 128,  # KIVI (arXiv 2402.02750): fp16 scale and zero for every 128 numbers
}
ACTIVATION_BYTES: Final = 2.0
"""Activations, embeddings, the LM head and routers stay in 16 bits in every stack; see
`Deployment.wide_bytes` for a model that runs in 32."""


WIDE_PARTS: Final = ("head", "embeddings", "router")
"""Parts that stay in 16 bits where one format is asked for all."""


@cache
def uniform(dtype: str, math: str) -> Format:
    """The format of linear layers where one is asked for all of them (`BYTES_PER_WEIGHT`)."""
    return Format(name=dtype, bits=8 * BYTES_PER_WEIGHT[dtype], math=math)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deployment:
    """One replica: `tp * attention_dp * pp` GPUs, and `replicas` of them that share the batch.

    Attention runs in `attention_dp` groups of `tp` GPUs, each with its share of the sequences;
    feed-forward layers are split over all `tp * attention_dp` GPUs, experts among `ep` of them.
    `tp` and `replicas` may be arrays over the grid.
    """

    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    math_dtype: str = "bf16"
    """What the matrix units run: `dtype`, or the part's 16-bit format under weight-only formats."""
    tp: Num = 1.0
    pp: Num = 1.0
    ep: Num = 1.0
    attention_dp: Num = 1.0
    replicas: Num = 1.0
    formats: Formats | None = None
    """A format for every part, as a checkpoint is published, of which `dtype` is the common name.
    None gives every linear layer `dtype` and all else 16 bits."""

    @property
    def gpus_per_replica(self) -> Num:
        """GPUs that hold one copy of the model."""
        return self.tp * self.attention_dp * self.pp

    @property
    def gpus(self) -> Num:
        """All GPUs."""
        return self.gpus_per_replica * self.replicas

    @property
    def ffn_ranks(self) -> Num:
        """GPUs that share one feed-forward layer."""
        return self.tp * self.attention_dp

    @property
    def wide_dtype(self) -> str:
        """The format of what is never quantised: 16 bits, or 32 where the weights have them."""
        return "fp32" if self.dtype == "fp32" else "bf16"

    @property
    def wide_bytes(self) -> float:
        """Bytes of one number in that format."""
        return 4.0 if self.dtype == "fp32" else ACTIVATION_BYTES

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight of a linear layer, scales included."""
        return BYTES_PER_WEIGHT[self.dtype]

    def part(self, name: str) -> Format:
        """The format of one part of the model (see `Formats`), whose math this machine runs."""
        if self.formats is not None:
            return self.formats.parts[name]
        if name in WIDE_PARTS:
            return format_of(self.wide_dtype)
        return uniform(self.dtype, self.math_dtype)

    @property
    def uniform_formats(self) -> Formats:
        """What every part has where one format is asked for all."""
        parts = {
            name: self.part(name) for name in (*WIDE_PARTS, "attention", "mlp", "shared", "experts")
        }
        return Formats(**parts, method="")

    @property
    def kv_number_bytes(self) -> float:
        """Bytes of one number of the KV cache, scales included."""
        return BYTES_PER_KV_NUMBER[self.kv_dtype]
