"""What a validation claims in words: decided gains, the verdict's rule, its weights."""

from __future__ import annotations

from typing import Any

import pytest

from magicplan.validate import account as report
from magicplan.validate.compare import RunComparison, compare
from magicplan.validate.measure.grid import Point
from tests.validate import runs


def at_speedup(wanted: float) -> RunComparison:
    """One point whose measured speedup is `wanted`; its interval is some 1.5 % wide each way."""

    def measured(told: dict[str, Any], name: str) -> float:
        factor = told["predicted"]["speedup"] / wanted if name == "round_seconds" else 1.0
        return float(told["predicted"][name]) * factor

    return compare(runs.run((Point(batch=1, ctx=4096),), measured), 0.1)


@pytest.mark.parametrize(
    ("speedup", "kind"),
    [
        (0.8, "speculation loses"),
        (0.995, "not decided, the interval holds 1"),
        (1.005, "not decided, the interval holds 1"),
        (1.2, "speculation wins"),
    ],
)
def test_a_gain_is_claimed_only_where_its_interval_leaves_1(speedup: float, kind: str) -> None:
    found = at_speedup(speedup)
    assert found.points[0].measured["speedup"] == pytest.approx(speedup, rel=1e-3)
    assert f": {kind}; predicted" in report.shown(found)[0]
    assert any("whose interval" in line for line in report.shown(found)) == ("not" not in kind)


def test_the_verdict_states_its_rule_and_the_error_of_the_speedup() -> None:
    run = runs.run(measured=lambda told, name: told["predicted"][name] / 1.04)
    found = compare(run, 0.1)
    told = report.verdict(found)
    assert told.startswith("Verdict: pass. 5 of 5 judged points pass; ")
    assert "decode, verify, round within 10 % and draft within 15 %" in told
    assert "is not judged: MAPE 0.0 %, bias" in told
    slow = compare(runs.run(measured=_slow_decode), 0.1)
    assert report.verdict(slow).startswith("Verdict: fail. 0 of 5 judged points pass; ")
    assert "MAPE 16.7 %, bias -16.7 %" in report.verdict(slow)


def _slow_decode(told: dict[str, Any], name: str) -> float:
    return float(told["predicted"][name]) * (1.2 if name == "decode_seconds" else 1.0)


@pytest.mark.parametrize(
    ("settings", "origin", "line", "named"),
    [
        ({"weights": "random"}, "simulated:0.8", "random weights, seed 0", True),
        ({"weights": "checkpoint", "model": "/a"}, "simulated:0.8", "the checkpoint /a", False),
        ({}, "dialled:0.8", "random weights, seed 0", True),
        ({}, "simulated:0.8", "this run file does not say", False),
        (
            {"weights": "checkpoint", "model": "/a", "draft_weights": "random", "draft": "b"},
            "simulated:0.8",
            "the checkpoint /a; of the draft: random weights, seed 0",
            False,
        ),
    ],
)
def test_where_the_weights_came_from(
    settings: dict[str, str], origin: str, line: str, named: bool
) -> None:
    run = runs.run(origin=origin)
    run.header["settings"] = settings
    found = compare(run, 0.1)
    assert any(told.startswith(f"weights: {line}") for told in report.basis(found))
    assert ("(random weights)" in report.headline(found)) == named
