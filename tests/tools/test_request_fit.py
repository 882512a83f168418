"""What first tokens wait for is found again in runs made by the same rule."""

from __future__ import annotations

import numpy as np
import pytest

from magicplan.errors import UsageError
from magicplan.replay.published import Case
from tools.stack_constants.request_fit import Told, expert_evidence, fit_request, residuals


def runs(request: float, rounds: float, noise: float = 0.0, *, dense: bool = True) -> list[Told]:
    """Six sets of eight runs whose first tokens wait `request` seconds and `rounds` rounds."""
    rng = np.random.default_rng(5)
    found = []
    for name in "abcdef":
        for _ in range(8):
            steps, tpot = rng.uniform(0.02, 2.0), rng.uniform(0.004, 0.06)
            seen = (steps + request + rounds * tpot) * np.exp(noise * rng.standard_normal())
            ask = {"gpu": "h100", "model": name, "dtype": "fp8"}
            case = Case(
                id=name, source="serving: vllm", engine="vllm", grade="B", ask=ask, dense=dense
            )
            measured = {"tpot": tpot, "ttft": float(seen)}
            found.append(Told(case, measured, {"tpot": tpot, "ttft": steps}))
    return found


@pytest.mark.parametrize(("request_seconds", "rounds"), [(0.04, 0.0), (0.0, 15.0), (0.03, 6.0)])
def test_both_waits_are_told_apart(request_seconds: float, rounds: float) -> None:
    fit = fit_request("vllm", runs(request_seconds, rounds))
    assert fit.request_seconds == pytest.approx(request_seconds, abs=1e-4)
    assert fit.streamed_rounds == pytest.approx(rounds, abs=0.02)
    assert fit.held_out == pytest.approx(1.0, abs=1e-3)


def test_held_out_errors_are_those_of_the_noise() -> None:
    fit = fit_request("vllm", runs(0.03, 6.0, noise=0.1))
    assert np.median(np.abs(fit.held_out - 1)) == pytest.approx(0.07, abs=0.03)


def test_one_set_of_runs_holds_nothing_out() -> None:
    rows = [r for r in runs(0.03, 6.0) if r.case.ask["model"] == "a"]
    fit = fit_request("vllm", rows * 2)
    assert fit.held_out.size == 0
    assert fit.in_sample == pytest.approx(1.0, abs=1e-3)


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="sglang: 0 times to first token, needs"):
        fit_request("sglang", runs(0.03, 6.0))


def test_residuals_hold_four_fifths_of_the_rows_that_they_name() -> None:
    rows = runs(0.0, 0.0, noise=0.5)
    found = residuals("vllm", rows)
    assert list(found) == ["first_token_residual"]  # no experts among them
    ends = found["first_token_residual"]
    ratios = np.asarray([r.measured["ttft"] / r.predicted["ttft"] for r in rows])
    assert np.mean((ratios >= ends.low) & (ratios <= ends.high)) == pytest.approx(0.8, abs=0.05)
    assert "48 published load tests of dense models by vllm" in ends.basis


def test_experts_say_that_no_constant_was_fitted_on_them() -> None:
    rows = runs(0.0, 0.0, dense=False)
    assert residuals("vllm", rows)["experts_residual"].basis.endswith("no constant fitted on them")
    told = expert_evidence("vllm", rows)
    assert (told["rows"], told["constants"], told["median_percent"]) == (48, [], 0.0)
