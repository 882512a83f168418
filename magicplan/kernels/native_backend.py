"""The `native` backend: attention and races on a CPU by small C kernels, near memory's speed.

Plain torch reaches a quarter to a half of a core's memory rate in attention and pays some 20 µs a
head, so that a short window costs it ten times what its bytes do. The kernel is compiled at first
use by the machine's C compiler (CC, else cc) into the user's cache folder, for this processor; with
AVX-512's bfloat16 products it is near memory speed up to some five rows, without them up to two.

It serves float32 and bfloat16, head dimensions that are multiples of 64, and up to 64 query rows
(group x tokens) of a KV head; prefill, other types and other dimensions are the torch backend's.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from magicplan.errors import UsageError
from magicplan.kernels.backend import LayerCache, Noise, Window
from magicplan.kernels.torch_backend import TorchBackend

SOURCES = tuple(
    Path(__file__).parent / "native" / name
    for name in ("attention.c", "race.c", "head.h", "pairs.h")
)
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-freciprocal-math", "-shared", "-fPIC",
)  # fmt: skip
"""What -ffast-math allows, without what it does at link time: a library linked with it makes the
whole process flush subnormal numbers to zero."""
X86_FLAGS = ("-mprefer-vector-width=512",)
MOST_ROWS, DIM_STEP, MOST_DIM = 64, 64, 256
"""What the kernel has room for; the C source has the same numbers."""

INTS = (
    *("batch", "tokens", "kv_heads", "group", "dim"),
    *("page_size", "first", "sinks", "window", "words"),
)
STRIDES = ("kv_page", "kv_slot", "kv_head", "table_batch")


class NativeShape(ctypes.Structure):
    """The C structure `Shape` that the native kernels take."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in INTS),
        *((name, ctypes.c_int64) for name in STRIDES),
        ("scale", ctypes.c_float),
    )


class NativeBackend(TorchBackend):
    """C for attention and for drawing tokens, plain torch for the rest."""

    name = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {
            torch.float32: library.attention_float,
            torch.bfloat16: library.attention_bf16,
        }
        self._race = library.race

    def race(self, weights: Tensor, noise: Noise, stream: int, node: Tensor) -> Tensor:
        """Draws one token a row, as `torch_accept.race` defines it."""
        if weights.dtype != torch.float32 or weights.device.type != "cpu":
            return super().race(weights, noise, stream, node)
        batch, vocab = weights.shape
        weights, token = weights.contiguous(), torch.zeros(batch, dtype=torch.int64)
        last = (node[:, 0].long() | stream << 16).contiguous()
        operands = (noise.request, noise.step, last, token)
        self._race(
            ctypes.c_void_p(weights.data_ptr()), batch, vocab, ctypes.c_uint64(noise.seed),
            *(ctypes.c_void_p(x.data_ptr()) for x in operands),
        )  # fmt: skip
        return token

    def attention(
        self,
        query: Tensor,
        cache: LayerCache,
        lengths: Tensor,
        *,
        view: Window | None = None,
        tree: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Computes attention of new queries over the cache, as `Backend.attention` defines it."""
        batch, tokens, heads, dim = query.shape
        kv_heads = cache.key.shape[2]
        rows = tokens * heads // kv_heads
        fits = rows <= MOST_ROWS and dim % DIM_STEP == 0 and dim <= MOST_DIM
        if not fits or query.dtype not in self._functions or query.device.type != "cpu":
            return super().attention(query, cache, lengths, view=view, tree=tree, first=first)
        # kept in variables, so that what the kernel points to lives as long as it runs
        query, out = query.contiguous(), torch.empty(query.shape, dtype=query.dtype)
        table = cache.page_table
        words = None if tree is None else tree.contiguous()
        shape = NativeShape(
            batch=batch, tokens=tokens, kv_heads=kv_heads, group=heads // kv_heads, dim=dim,
            page_size=cache.page_size, first=first,
            sinks=view.sinks if view else 0, window=view.window if view else 0,
            words=0 if words is None else words.numel() // tokens,
            scale=math.log2(math.e) / math.sqrt(dim),
            **dict(zip(STRIDES, (*cache.strides, table.stride(0)), strict=True)),
        )  # fmt: skip
        operands = (query, cache.key, cache.value, table, lengths, words, out)
        pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in operands]
        function = self._functions[query.dtype]

        def run(begin: int, end: int) -> None:
            function(ctypes.byref(shape), *pointers, begin, end)

        _in_threads(run, batch * kv_heads)
        return out


def _in_threads(run: Callable[[int, int], None], pairs: int) -> None:
    """Pairs of sequence and head dealt to as many threads as torch uses; ctypes lets them run."""
    threads = min(torch.get_num_threads(), pairs)
    if threads == 1:
        run(0, pairs)
        return
    edges = [pairs * t // threads for t in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, edges[:-1], edges[1:]))


def _processor() -> str:
    """The processor's features, which -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def library(*more_flags: str) -> Path:
    """The compiled kernel, made if it is not there. Raises UsageError where it cannot be."""
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(words[0]) is None:
        raise UsageError(
            f"the native backend needs a C compiler, and {words[0]} is none here; set CC, or use "
            "the torch backend"
        )
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    command = [*words, *FLAGS, *(X86_FLAGS if x86 else ()), *more_flags]
    content = [path.read_bytes() for path in SOURCES]
    content += [" ".join(command).encode(), _processor().encode(), platform.machine().encode()]
    name = f"attention-{hashlib.sha256(b''.join(content)).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magicplan"
    if (cache / name).exists():
        return cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / name
            done = subprocess.run(
                [*command, *map(str, SOURCES[:2]), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                first = (done.stderr.strip().splitlines() or ["no message"])[0]
                raise UsageError(f"the native backend was not compiled by {words[0]}: {first}")
            made.replace(cache / name)  # at once, so that no other process reads half of it
    except OSError as error:
        raise UsageError(f"the native backend was not compiled: {error}") from error
    return cache / name


def create() -> NativeBackend:
    """Compiles the kernel where it is not in the cache yet (about two seconds).

    Raises UsageError where there is no compiler, or none that takes the source.
    """
    return NativeBackend(ctypes.CDLL(str(library())))
