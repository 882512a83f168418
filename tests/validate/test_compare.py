"""Verdicts, errors and regret on runs whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from magicplan.errors import UsageError
from magicplan.validate.compare import compare, summary
from magicplan.validate.run_file import RecordedRun
from tests.validate import runs

Told = dict[str, Any]


def scaled(**factors: float) -> Any:
    """Measured times as predicted, but some quantities by a factor."""
    return lambda told, name: told["predicted"][name] * factors.get(name.split("_")[0], 1.0)


def test_a_run_as_predicted_passes() -> None:
    found = compare(runs.run(), 0.1)
    assert found.passed
    assert {p.verdict for p in found.points} == {"pass"}
    s = summary(found)
    assert s["verdict"] == "pass"
    assert (s["points"], s["passed"], s["skipped"]) == (5, 5, 0)
    assert s["gamma_regret"] == pytest.approx(0, abs=1e-9)
    for quantity in ("decode", "draft", "verify", "round", "speedup"):
        assert s[f"{quantity}_mape"] == pytest.approx(0, abs=1e-6)
    assert found.ideal_errors["decode"].bias < -40


def test_errors_are_predicted_over_measured_in_percent() -> None:
    s = summary(compare(runs.run(measured=scaled(verify=1.25, decode=0.8)), 0.1))
    assert s["verify_mape"] == pytest.approx(20)
    assert s["verify_bias"] == pytest.approx(-20)
    assert s["decode_bias"] == pytest.approx(25)
    assert s["draft_mape"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("factors", "tolerance", "passes"),
    [
        ({"verify": 1.2}, 0.1, False),
        ({"verify": 1.2}, 0.2, True),
        ({"round": 0.8}, 0.2, False),
        # 1 % of the interval's half-width counts for the claim, not against it
        ({"decode": 1.115}, 0.1, True),
        ({"draft": 1.15}, 0.1, True),  # a draft may miss by half as much again
        ({"draft": 1.3}, 0.1, False),
    ],
)
def test_a_point_fails_only_outside_the_tolerance(
    factors: dict[str, float], tolerance: float, passes: bool
) -> None:
    found = compare(runs.run(measured=scaled(**factors)), tolerance)
    assert found.passed == passes
    if not passes:
        (name,) = factors
        assert all(name in p.reason for p in found.points)


def test_faster_than_the_roofline_is_impossible() -> None:
    def measured(told: Told, name: str) -> float:
        return 0.8 * float(told["ideal"][name]) if name == "verify_seconds" else 1.0

    found = compare(runs.run(measured=measured), 1e9)
    large = [p for p in found.points if p.batch > 1]
    assert {p.verdict for p in large} == {"impossible"}
    assert "than the" in large[0].reason
    assert not found.passed


def test_a_ceiling_measured_beside_a_neighbour_is_raised() -> None:
    """The same times are possible once memory was seen to be read at twice the believed peak."""

    def measured(told: Told, name: str) -> float:
        return 0.8 * float(told["ideal"][name])

    run = runs.run(measured=measured)
    assert compare(run, 1e9).count("impossible") == 4
    run.points[2]["read_bytes_per_s"] = 80e9
    assert compare(run, 1e9).count("impossible") == 0


def test_a_set_that_fits_the_cache_has_no_floor() -> None:
    """34 MB of KV and 23 MB of weights may come from 32 MB of cache; 540 MB may not."""
    found = runs.run()
    assert found.prediction is not None
    floors = {p["id"]: p["floor"] for p in found.prediction["content"]["points"]}
    assert "decode_seconds" not in floors["b1-s4096-g4"]
    assert "decode_seconds" in floors["b4-s16384-g4"]
    assert "draft_seconds" not in floors["b4-s16384-g4"]


def test_a_disturbed_miss_is_not_judged_but_a_disturbed_hit_is() -> None:
    """Wall time 1.5 times the thread's own: the own time is judged, and a miss says nothing."""
    hit = compare(runs.run(measured=lambda t, n: 1.5 * t["predicted"][n], own=1 / 1.5), 0.1)
    assert hit.passed
    assert all("disturbed" in p.flags[0] for p in hit.points)
    miss = compare(runs.run(measured=lambda t, n: 3.0 * t["predicted"][n], own=1 / 1.5), 0.1)
    assert {p.verdict for p in miss.points} == {"skipped"}
    assert not miss.passed
    assert miss.undecided == 5


def test_skipped_and_missing_points_count_as_skipped() -> None:
    run = runs.run()
    run.points[0] = {k: v for k, v in run.points[0].items() if k != "samples"} | {
        "skipped": "needs 9 GB"
    }
    del run.points[-1]
    found = compare(run, 0.1)
    assert [p.verdict for p in found.points] == ["skipped", "pass", "pass", "pass", "skipped"]
    assert found.points[0].reason == "needs 9 GB"
    assert found.passed
    run.points.clear()
    assert not compare(run, 0.1).passed


def test_regret_of_a_wrong_draft_length() -> None:
    """Rounds of 8 drafts are measured at half their time: the predicted best is not the best."""

    def measured(told: Told, name: str) -> float:
        half = told.get("gamma") == 8 and name == "round_seconds"
        return float(told["predicted"][name]) * (0.5 if half else 1.0)

    found = compare(runs.run(measured=measured), 0.1)
    predicted = {p.what["gamma"]: p.predicted for p in found.points if p.ctx_tokens == 16384}
    assert max(predicted, key=lambda g: predicted[g]["tokens_per_s"]) == 4
    lost = 1 - predicted[4]["tokens_per_s"] / (2 * predicted[8]["tokens_per_s"])
    assert found.regret_percent == pytest.approx(100 * lost)
    assert list(found.regrets) == ["batch 4, 16384 tokens"]


def test_drawn_tokens_decide_the_measured_speedup() -> None:
    found = compare(runs.run(emitted=lambda told: 2.0), 0.1)
    for p in found.points:
        m = p.measured
        assert m["tokens_per_round"] == 2
        assert m["speedup"] == pytest.approx(2 * m["decode_seconds"] / m["round_seconds"])
        assert m["speedup_low"] <= m["speedup"] <= m["speedup_high"]


def test_a_wrong_decoder_passes_nothing() -> None:
    run = runs.run()
    run.exactness = {"kind": "exactness", "greedy_equal": False}
    assert not compare(run, 0.1).passed


def test_a_run_without_prediction_is_refused() -> None:
    with pytest.raises(UsageError, match="before its prediction"):
        compare(RecordedRun(header={}), 0.1)
