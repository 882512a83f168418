"""The C kernel itself: that it runs where it says, with which instructions, how it refuses."""

from __future__ import annotations

import ctypes
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from magicplan import kernels
from magicplan.errors import UsageError
from magicplan.kernels import native_backend, reference
from magicplan.kernels.backend import Window
from magicplan.kernels.native_backend import NativeBackend
from magicplan.kernels.torch_backend import TorchBackend
from tests.kernels.cases import Shape, filled_cache, int32, noise, randn

SHAPE = Shape(heads=6, kv_heads=2, lengths=(37, 90))
TOKENS = 3
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def error_of(backend: NativeBackend, dtype: torch.dtype) -> float:
    cache = filled_cache(SHAPE, TOKENS, dtype, shuffled=True)
    query = randn(1, SHAPE.batch, TOKENS, SHAPE.heads, SHAPE.dim, dtype=dtype)
    lengths, view = int32(*SHAPE.lengths), Window(sinks=4, window=50)
    expected = reference.attention(query, cache, lengths, view=view)
    return float((backend.attention(query, cache, lengths, view=view) - expected).abs().max())


@needs_compiler
def test_the_kernel_runs_where_it_says_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("plain torch was called")

    monkeypatch.setattr(TorchBackend, "attention", refuse)
    backend = native_backend.create()
    assert error_of(backend, torch.float32) < 1e-5
    with pytest.raises(AssertionError, match="plain torch"):
        error_of(backend, torch.float16)


@needs_compiler
def test_without_the_processors_pairs_of_bfloat16_it_is_right_too() -> None:
    """What another processor compiles: float arithmetic, so nearer the twin than with pairs."""
    if platform.machine() != "x86_64":
        pytest.skip("the flag is for x86-64")
    plain = NativeBackend(ctypes.CDLL(str(native_backend.library("-mno-avx512bf16"))))
    assert error_of(plain, torch.bfloat16) < 1e-2
    assert error_of(plain, torch.float32) < 1e-5


@needs_compiler
def test_races_are_plain_torchs() -> None:
    """Over blocks of tokens and a rest, with weights of zero, on many draws."""
    native, plain = native_backend.create(), TorchBackend()
    weights = randn(3, 64, 1300).clamp(min=0)
    node = torch.arange(64)[:, None]
    drawn = native.race(weights, noise(64), 1, node)
    assert drawn.tolist() == plain.race(weights, noise(64), 1, node).tolist()
    assert drawn.unique().numel() > 50


@needs_compiler
def test_threads_share_the_heads(two_threads: None) -> None:
    assert error_of(native_backend.create(), torch.float32) < 1e-5


@pytest.mark.parametrize(
    ("compiler", "message"), [("no-such-compiler", "needs a C compiler"), ("false", "not compiled")]
)
def test_a_compiler_that_does_not_work_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        native_backend.create()
    assert list(tmp_path.rglob("*.so")) == []


@needs_compiler
def test_arithmetic_elsewhere_keeps_its_subnormal_numbers() -> None:
    kernels.load("native")
    assert 2.0**-1070 * 0.5 > 0
    assert float(torch.tensor(2.0**-140, dtype=torch.float32) * 0.5) > 0
