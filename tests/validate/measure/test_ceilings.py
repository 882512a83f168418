"""The matrix rate: larger products as long as they end soon, on a clock that is made up."""

from __future__ import annotations

from types import FunctionType

import pytest

torch = pytest.importorskip("torch")

from magicplan.validate.measure import ceilings


@pytest.mark.parametrize(
    ("rate", "edges"),
    [
        (1e12, [256, 1024, 2048]),
        (9e9, [256, 1024]),  # four products of 2048 on a side would take 7.6 s, of 1024 0.95 s
        (1e9, [256]),
    ],
)
def test_a_slow_dtype_stops_at_small_products(
    monkeypatch: pytest.MonkeyPatch, rate: float, edges: list[int]
) -> None:
    tried: list[int] = []

    def told(clock: object, step: FunctionType) -> float:
        edge = int((step.__defaults__ or ())[0].shape[0])
        tried.append(edge)
        return float(2 * edge**3 / rate)

    monkeypatch.setattr(ceilings, "best", told)
    assert ceilings.matrix_rate("cpu", "fp16") == pytest.approx(rate)
    assert tried == edges
