"""A question about decoding, as it is asked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from magicplan.errors import UsageError
from magicplan.hardware_specs import spelling

MOST_GAMMA = 16
"""The longest draft looked at where none is stated."""
Counts = Any
"""One positive number, or a sequence of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """What a user asks. `batch` [sequences] and `ctx` [tokens] are numbers or sequences of them."""

    gpu: str
    model: str = "llama-3.1-8b"
    batch: Counts = 1
    ctx: Counts = 4096
    output: float = 0
    gpus: int | str = "auto"
    tp: int | str = "auto"
    pp: int | None = None
    ep: int = 1
    attention_dp: int = 1
    dtype: str | None = None
    kv_dtype: str | None = None
    stack: str = "vllm"
    memory_fraction: float = 0.92
    draft: str = "auto"
    """`auto` is the best draft that the stack runs and that exists for the model."""
    draft_kv: str | None = None
    draft_dtype: str | None = None
    acceptance: str = "auto"
    task: str | None = None
    gamma: int | str = "auto"
    max_gamma: int = MOST_GAMMA
    verify_kv_passes: float | str = "auto"
    """How often verification reads the KV cache; `auto` is what the calibration knows."""
    want_speedup: float | None = None
    batching: str = "continuous"
    """`continuous` refills the place of a finished sequence, `static` waits for the slowest."""
    tree_ranks: str = "pooled"
    """How trees take measured ranks: `pooled`, `raw` or as a `power-law`."""
    eager: bool = False
    """Whether the host launches collectives one by one, outside CUDA graphs."""

    def __post_init__(self) -> None:
        """Spellings of the field become ours, whoever asks: "BFloat16", "TensorRT-LLM@1.0"; a
        cache view or a format of a draft that is not named is the self-draft's."""
        for name, read in SPELLED.items():
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, read(value))
        if self.draft == "auto" and (self.draft_kv is not None or self.draft_dtype is not None):
            object.__setattr__(self, "draft", "self")


SPELLED = {
    "dtype": spelling.weight_format,
    "draft_dtype": spelling.weight_format,
    "kv_dtype": spelling.kv_format,
    "stack": spelling.stack,
}


def request(gpu: str, options: dict[str, Any]) -> Request:
    """A question from Python's keyword arguments. Raises UsageError for a name that is no field."""
    known = {entry.name for entry in fields(Request)}
    if unknown := set(options) - known:
        raise UsageError(f"predict takes no {', '.join(sorted(unknown))}; it takes {sorted(known)}")
    return Request(gpu=gpu, **options)
