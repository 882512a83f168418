"""Backends by name."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from magicplan import kernels
from magicplan.errors import MissingExtra, UnknownName, UsageError
from magicplan.kernels.backend import Window


def test_every_available_backend_has_its_name() -> None:
    names = kernels.available()
    assert names[0] == "torch"
    assert [kernels.load(name).name for name in names] == list(names)


def test_the_preferred_backend_runs_here() -> None:
    assert kernels.preferred("cpu") in ("native", "torch")
    assert kernels.preferred("cpu") in kernels.available()
    assert kernels.preferred("cuda") == "triton"


def test_an_unknown_backend_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownName, match="did you mean triton"):
        kernels.load("tritn")


def test_triton_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(UsageError, match="CUDA GPU"):
        kernels.load("triton")
    assert "triton" not in kernels.available()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "flashinfer" else found(name)
    )
    with pytest.raises(MissingExtra, match="flashinfer"):
        kernels.load("flashinfer")


@pytest.mark.parametrize(("sinks", "window"), [(-1, 4), (0, 0)])
def test_a_window_of_nothing_is_refused(sinks: int, window: int) -> None:
    with pytest.raises(UsageError, match="window of"):
        Window(sinks=sinks, window=window)
