"""From the words of the command line to settings: every default decided, every word checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from magicplan.errors import NoGpu, UsageError
from magicplan.kernels import available
from magicplan.validate.decoder.checkpoint import has_weights
from magicplan.validate.measure.ceilings import matrix_rate
from magicplan.validate.measure.environment import memory_bytes
from magicplan.validate.run_file import RunSettings

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SOURCES = ("checkpoint", "dialled", "simulated")
PROBE = 512
"""Edge of the product that tells whether a CPU has 16-bit instructions."""
LARGE_GPU = 40e9
"""Free bytes above which a GPU runs the 8B shape by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of a validation as a user gave them; None takes what suits the device."""

    device: str | None = None
    model: str | None = None
    grid: str = "quick"
    acceptance: str | None = None
    draft: str = "self"
    draft_kv: str = "streaming:512"
    gamma: str | None = None
    tree: str | None = None
    text: str | None = None
    dtype: str | None = None
    backend: str | None = None
    threads: int = 1
    seed: int = 0


def resolve_settings(ask: Asked) -> RunSettings:
    """The settings of a run, every default decided. Raises NoGpu, UsageError."""
    device = ask.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise NoGpu("--device cuda: torch finds no CUDA device here; --device cpu runs anywhere")
    torch.set_num_threads(ask.threads)
    model = ask.model or _model(device)
    stored = is_checkpoint(model)
    acceptance = ask.acceptance or ("checkpoint" if stored else "simulated:0.8")
    source, _, rate = acceptance.partition(":")
    if source not in SOURCES or (source == "checkpoint") == bool(rate):
        raise UsageError(
            f"--acceptance {acceptance}: expected checkpoint, dialled:0.8 or simulated:0.8"
        )
    if source == "checkpoint" and not stored:
        raise UsageError(
            f"--acceptance checkpoint: {model} is no folder with safetensors, so its weights would "
            "be random; --acceptance simulated:0.8 or dialled:0.8 runs without a checkpoint"
        )
    if ask.text and source != "checkpoint":
        raise UsageError(f"--text {ask.text}: only --acceptance checkpoint reads a text")
    if source == "dialled" and stored:
        raise UsageError("--acceptance dialled: scales random weights; a checkpoint has its own")
    dtype = ask.dtype or _dtype(device)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: the decoder runs {', '.join(DTYPES)}")
    return RunSettings(
        device=device,
        model=model,
        grid=ask.grid,
        acceptance=acceptance,
        draft=ask.draft,
        draft_kv=ask.draft_kv,
        dtype=dtype,
        backend=ask.backend or ("triton" if device == "cuda" else _cpu_backend()),
        threads=ask.threads,
        seed=ask.seed,
        gamma=ask.gamma,
        tree=ask.tree,
        text=ask.text,
        weights="checkpoint" if stored else "random",
        draft_weights=_draft_weights(ask.draft, source),
    )


def _draft_weights(draft: str, source: str) -> str:
    """The weights of a smaller model, checkpoint or random; '' where there is none. Raises
    UsageError."""
    if draft in ("self", "ngram"):
        return ""
    if is_checkpoint(draft):
        return "checkpoint"
    if source == "checkpoint":
        raise UsageError(
            f"--acceptance checkpoint: the draft {draft} is no folder with safetensors, so its "
            "weights would be random"
        )
    return "random"


def _model(device: str) -> str:
    """What is run where nobody chose: a model whose KV cache, not its weights, fills memory."""
    if device == "cpu":
        return "model-b"
    return "llama-3.1-8b" if memory_bytes("cuda") > LARGE_GPU else "llama-3.2-1b"


def _dtype(device: str) -> str:
    """16 bits where they are faster; a CPU without such instructions runs 32."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    narrow, wide = (matrix_rate("cpu", dtype, (PROBE,)) for dtype in ("bf16", "fp32"))
    return "bf16" if narrow > wide else "fp32"


def _cpu_backend() -> str:
    """The C kernel where it can be compiled; the report names what was run."""
    return "native" if "native" in available() else "torch"


def is_checkpoint(model: str) -> bool:
    """Is this a folder with weights, or the shape of a model alone?

    Raises SpecError for a folder with pickles alone.
    """
    folder = Path(model).expanduser()
    return folder.is_dir() and has_weights(folder)
