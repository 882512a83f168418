"""Latency limits with units, and bare numbers that can hardly be seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.commands.limits import REASONABLE_SECONDS, parse_limit
from magicplan.errors import BadQuantity, UsageError
from magicplan.planning.request import request_from


@pytest.mark.parametrize(
    ("text", "name", "seconds"),
    [
        ("ttft_p95=500ms", "ttft_p95_seconds", 0.5), ("ttft_p95=0.5", "ttft_p95_seconds", 0.5),
        ("tpot_p95 = 30 ms", "tpot_p95_seconds", 0.03), ("e2e_p99=2min", "e2e_p99_seconds", 120),
        ("ttft_p95_seconds=1s", "ttft_p95_seconds", 1), ("TTFT_P95=1", "ttft_p95_seconds", 1),
        ("itl_mean=.02s", "itl_mean_seconds", 0.02), ("tpot_p95=30s", "tpot_p95_seconds", 30),
        ("itl_p50=900us", "itl_p50_seconds", 9e-4),
    ],
)  # fmt: skip
def test_limits_take_units(text: str, name: str, seconds: float) -> None:
    found, limit = parse_limit(text, option="--slo")
    assert found == name
    assert limit == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("tpot_p95=30", "30ms for milliseconds, or 30s"),
        ("ttft_p95=500", "500ms"),
        ("itl_p99=50", "50ms"),
        ("e2e_p95=20000", "20000ms"),
    ],
)
def test_a_bare_number_of_another_magnitude_is_questioned(text: str, right: str) -> None:
    with pytest.raises(BadQuantity, match=right):
        parse_limit(text, option="--slo")


@pytest.mark.parametrize("metric", REASONABLE_SECONDS)
@given(share=st.floats(1e-6, 1))
def test_what_is_reasonable_is_never_questioned(metric: str, share: float) -> None:
    text = f"{metric}_p95={REASONABLE_SECONDS[metric] * share:.9f}"
    assert parse_limit(text, option="--slo")[1] <= REASONABLE_SECONDS[metric]


@pytest.mark.parametrize(
    "text", ["fast", "=1", "ttft_p95=", "ttft_p95=-1", "ttft_p95=0", "ttft_p95=nan",
             "ttft_p95=inf", "ttft_p95=1h", "ttft_p95=1e999", "ttft_p95=ms"],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--slo"):
        parse_limit(text, option="--slo")


def test_limits_of_python_take_units_too() -> None:
    ask = request_from({"gpus": "l40s", "requests_per_s": 1, "slo": {"ttft_p95_seconds": "500ms"}})
    assert ask.slo == {"ttft_p95_seconds": 0.5}
    limits = {"ttft_p95_seconds": 500}
    assert request_from({"requests_per_s": 1, "slo": limits}).slo == limits
    with pytest.raises(BadQuantity, match=r"slo\.ttft_p95_seconds"):
        request_from({"requests_per_s": 1, "slo": {"ttft_p95_seconds": "soon"}})
