"""Tensors in, tensors out: attention on a paged KV cache, RoPE and append, acceptance.

Nothing here knows a model, a machine or a prediction. `load` gives a backend by its name; the same
backend serves both sides of a comparison.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

from magicplan.errors import MissingExtra, UnknownName, UsageError

if TYPE_CHECKING:
    from magicplan.kernels.backend import Backend

BACKENDS = {
    "torch": "torch_backend",
    "native": "native_backend",
    "triton": "triton_backend",
    "varlen": "varlen_backend",
    "flashinfer": "flashinfer_backend",
}
"""Module of every backend; each has one `create()`."""
NEEDS = {"triton": ("triton", "validate"), "flashinfer": ("flashinfer", "flashinfer")}
"""Packages beyond torch, and the extras that bring them."""


def load(name: str) -> Backend:
    """The backend of that name.

    Raises UnknownName, MissingExtra where a package is not installed, and UsageError where this
    machine or this version of torch cannot run it.
    """
    if name not in BACKENDS:
        raise UnknownName("backend", name, BACKENDS, f"known are {', '.join(BACKENDS)}")
    needed, extra = NEEDS.get(name, ("torch", "validate"))
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec(needed) is None:
        raise MissingExtra(f"the {name} backend", extra)
    backend: Backend = importlib.import_module(f"magicplan.kernels.{BACKENDS[name]}").create()
    return backend


def preferred(device: str) -> str:
    """The fastest of our backends on a device: `triton` on `cuda`; on `cpu` `native`, else torch.

    Which it was belongs in the output of whoever asks.
    """
    if device != "cpu":
        return "triton"
    return "native" if "native" in available() else "torch"


def available() -> tuple[str, ...]:
    """Names that `load` would give on this machine."""
    found = []
    for name in BACKENDS:
        try:
            load(name)
        except (MissingExtra, UsageError):
            continue
        found.append(name)
    return tuple(found)


def interpreted() -> bool:
    """Is Triton's interpreter asked for, so that its kernels run on the CPU?"""
    return os.environ.get("TRITON_INTERPRET") == "1"
