"""Intervals of a plan: every figure has one, and follows from its causes; limits name theirs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan import hardware_specs
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.observed.beside_plan import with_observed
from magicplan.planning.intervals import _combined, figures_of
from magicplan.planning.mixed_fleet import mixed_fleet
from magicplan.planning.question import read_plan
from magicplan.planning.request import SLO_KEYS
from magicplan.planning.result import Interval, Plan
from magicplan.planning.words import limit_words
from tests.planning.test_plan import CHAT, OBSERVED, chat

NEEDED = {
    "gpus", "cost_usd_per_hour", "usd_per_million_tokens", "tokens_per_s_per_gpu",
    "energy_joules_per_token",
}  # fmt: skip
HELD = {
    *SLO_KEYS, "batch_per_replica", "capacity_requests_per_s", "headroom", "utilisation",
    "step_seconds",
}  # fmt: skip
SMALL: dict[str, Any] = {
    "gpus": "l40s", "requests_per_s": 6.0, "prompt": 1000, "output": 200, "drafts": "none", "tp": 1,
}  # fmt: skip


def of(p: Plan) -> Mapping[str, Interval]:
    return {entry.figure: entry for entry in p.intervals}


def own(folder: Path, low: float, high: float, **more: str) -> str:
    """A calibration file whose steps are that uncertain."""
    lines = ['name = "own"', 'origin = "made up"', *(f'{k} = "{v}"' for k, v in more.items())]
    ends = f'low = {low}\nhigh = {high}\nbasis = "made up"'
    lines += [f"[{name}_residual]\n{ends}" for name in ("step", "speedup")]
    lines += ["[host]", "step_seconds = 0.002", "sequence_seconds = 0.00002"]
    path = folder / "own.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@cache
def drafting() -> Plan:
    return mp.plan(**(CHAT | {"acceptance": "auto", "drafts": "eagle3", "task": "chat"}))


def test_every_number_of_a_plan_has_an_interval_that_holds_it() -> None:
    p = drafting()
    found = of(p)
    assert len(found) == len(p.intervals)
    assert set(found) == HELD | NEEDED | {"decode_step_seconds", "tokens_per_round", "speedup"}
    for entry in p.intervals:
        assert entry.low <= entry.value <= entry.high, entry.figure
        assert entry.basis
        assert entry.causes
    values = figures_of(p.best)
    for key in SLO_KEYS:
        assert found[key].value == values[key]
    for key in NEEDED | {"headroom", "utilisation", "speedup", "tokens_per_round"}:
        assert found[key].value == pytest.approx(getattr(p.best, key))
    assert found["headroom"].low == pytest.approx(
        found["capacity_requests_per_s"].low / p.traffic.peak_requests_per_s - 1
    )


@pytest.mark.parametrize(
    "traffic",
    [{}, {"requests_per_s": None, "users": 200, "think_seconds": 10.0}, {"disaggregation": "only"}],
    ids=["open", "users", "split"],
)
def test_what_is_certain_has_no_width(traffic: dict[str, Any], tmp_path: Path) -> None:
    """Replicas held, at the predicted speed, do what the plan says, and chance alone moves
    latencies; counted anew, as many do."""
    ask = CHAT | {"drafts": "none", "stack": own(tmp_path, 1.0, 1.0)} | traffic
    p = mp.plan(**ask)
    for entry in p.intervals:
        if entry.figure in SLO_KEYS:
            assert any(cause.startswith("chance") for cause in entry.causes)
            assert entry.high < 2 * entry.value
            continue
        assert entry.low == pytest.approx(entry.value, rel=1e-6), entry.figure
        assert entry.high == pytest.approx(entry.value, rel=1e-6), entry.figure
    for c in p.candidates:
        values = figures_of(c)
        for key, ends in c.ends.items():
            assert ends == pytest.approx((values[key], values[key]), rel=1e-6)


def test_doubt_widens_every_interval(tmp_path: Path) -> None:
    narrow = of(mp.plan(**SMALL, stack=own(tmp_path, 0.95, 1.05)))
    wide = of(mp.plan(**SMALL, stack=own(tmp_path, 0.8, 1.3)))
    for key, entry in narrow.items():
        assert wide[key].low <= entry.low
        assert wide[key].high >= entry.high
    tpot = wide["tpot_p95_seconds"]
    assert tpot.high > 1.3 * tpot.value, "under the same traffic slower steps also hold more"
    assert tpot.low < 0.8 * tpot.value
    step = wide["decode_step_seconds"]
    assert (step.low, step.high) == pytest.approx((0.8 * step.value, 1.3 * step.value))


def test_steps_that_all_take_longer_need_what_scaled_traffic_and_limits_need() -> None:
    """A fleet at x 1.2 is the fleet for 1.2 times the traffic at limits 1.2 times as tight."""
    p = chat()
    slower = {s.factor: s for s in p.sensitivity if s.what == "step_time"}[1.2]
    slo = {key: limit / 1.2 for key, limit in CHAT["slo"].items()}
    one = {"gpus": p.best.gpu, "tp": p.best.tp, "dtypes": p.best.dtype, "drafts": p.best.draft}
    same = mp.plan(**(CHAT | one | {"slo": slo, "requests_per_s": 1.2 * 12.0}))
    assert same.best.gpus == slower.gpus


def test_two_causes_add_in_quadrature_of_logarithms() -> None:
    p = drafting()
    both = of(p)["tpot_p95_seconds"]
    low, high = p.best.ends["tpot_p95_seconds"]
    assert both.low < low
    assert both.high > high
    assert len(both.causes) == 3
    speedup, tokens = of(p)["speedup"], of(p)["tokens_per_round"]
    alone = tokens.high / tokens.value
    assert speedup.high / speedup.value > alone
    assert math.log(speedup.high / speedup.value) < math.log(alone) + math.log(1.3)


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (2.0, [1.0], [4.0], (1.0, 4.0)),
        (2.0, [4.0], [1.0], (1.0, 4.0)),  # a capacity falls where steps are longer
        (2.0, [1.0, 1.0], [4.0, 4.0], (2 / 2 ** math.sqrt(2), 2 * 2 ** math.sqrt(2))),
        (2.0, [2.0], [3.0], (2.0, 3.0)),
        (2.0, [3.0], [4.0], (2.0, 4.0)),  # never past the value
        (2.0, [0.0], [math.inf], (0.0, math.inf)),
        (0.0, [0.0, 0.0], [3.0, 4.0], (0.0, 5.0)),
        (math.inf, [3.0], [math.inf], (3.0, math.inf)),
    ],
)
def test_ends_of_causes_as_one_interval(
    value: float, low: list[float], high: list[float], wanted: tuple[float, float]
) -> None:
    assert _combined(value, low, high) == pytest.approx(wanted)


def test_a_tree_keeps_its_shape_at_the_ends_of_its_acceptance() -> None:
    ask = SMALL | {"gpus": "h100", "drafts": "eagle3", "task": "chat", "stack": "sglang"}
    p = mp.plan(**ask | {"requests_per_s": 2.0})
    assert p.best.tree is not None
    tokens, speedup = of(p)["tokens_per_round"], of(p)["speedup"]
    assert 1 < tokens.low < tokens.value < tokens.high <= p.best.tree.depth
    assert speedup.low < speedup.value * tokens.low / tokens.value
    assert of(p)["tpot_p95_seconds"].low < p.best.ends["tpot_p95_seconds"][0]


def test_a_fleet_that_its_interval_overloads_has_no_end(tmp_path: Path) -> None:
    ask = SMALL | {"max_utilisation": 0.95, "requests_per_s": 200.0}
    p = mp.plan(**ask, stack=own(tmp_path, 0.9, 1.5), slo={"e2e_p99_seconds": 900.0})
    found = of(p)
    assert p.best.utilisation * 1.5 > 1
    assert found["ttft_p95_seconds"].high == math.inf
    assert math.isfinite(found["tpot_p95_seconds"].high), "the batch is full, and no fuller"
    assert found["gpus"].high >= p.best.gpus * 1.4
    assert any("has no end" in line for line in p.advice)
    document = json.loads(json.dumps(p.to_dict(), allow_nan=False))
    entry = next(e for e in document["intervals"] if e["figure"] == "ttft_p95_seconds")
    assert entry["high"] is None


def test_sensitivities_and_candidates_carry_the_ends_of_their_steps() -> None:
    p = chat()
    base = next(s for s in p.sensitivity if s.what == "traffic" and s.factor == 1)
    assert base.gpus == p.best.gpus
    assert base.gpus_low <= base.gpus
    assert not base.gpus_high < base.gpus
    assert all(math.isnan(s.gpus_low) for s in p.sensitivity if s is not base)
    for c in p.candidates[:3]:
        values = figures_of(c)
        assert set(c.ends) >= {"tpot_p95_seconds", "capacity_requests_per_s", *p.slo}
        for key, (low, high) in c.ends.items():
            assert low <= values[key] <= high


def test_a_mix_costs_between_its_ends() -> None:
    """Found anew where replicas bear less or more; without end where the stock is too small."""
    busy = mp.plan(**CHAT | {"requests_per_s": 300.0, "drafts": "none", "gpus": "h100"})
    found = mixed_fleet([busy])
    assert found.cost_low_usd_per_hour < found.cost_usd_per_hour < found.cost_high_usd_per_hour
    scarce = mixed_fleet([busy], found.gpus)
    assert scarce.cost_usd_per_hour == pytest.approx(found.cost_usd_per_hour)
    assert scarce.cost_high_usd_per_hour == math.inf
    assert json.loads(json.dumps(scarce.to_dict()))["cost_high_usd_per_hour"] is None


@pytest.mark.parametrize("key", SLO_KEYS)
def test_every_limit_is_judged_with_its_interval_and_advised_by_its_key(
    key: str, tmp_path: Path
) -> None:
    """Kept with room, kept by a hair, and broken; from a plan file."""

    def planned(limit: float) -> Plan:
        path = tmp_path / "plan.toml"
        path.write_text(
            'model = "llama-3.1-8b"\n[traffic]\nrequests_per_s = 6.0\nprompt = 1000\noutput = 200\n'
            f'[slo]\n{key} = {limit}\n[choices]\ngpus = ["l40s"]\ntp = [1]\ndrafts = ["none"]\n',
            encoding="utf-8",
        )
        return mp.plan(read_plan(path))

    far = planned(600.0)
    assert far.feasible
    assert f"{limit_words(key)} " in far.verdict
    value = figures_of(far.best)[key]
    tries = (planned(value * (1 + room)) for room in (0.02, 0.05, 0.1, 0.2, 0.4))
    close = next(p for p in tries if p.feasible and of(p)[key].high > p.slo[key])
    assert any(line.startswith(f"slo.{key} ") and "80 % interval" in line for line in close.advice)
    broken = planned(2e-6)
    assert not broken.feasible
    assert key in broken.best.violations
    assert any(line.startswith(f"slo.{key} ") and "is broken" in line for line in broken.advice)
    assert set(of(broken)) >= HELD
    assert not NEEDED & set(of(broken)), "no number of replicas keeps that limit"


def test_a_budget_is_advised_by_its_key() -> None:
    p = mp.plan(**SMALL | {"requests_per_s": 90.0, "max_gpus": 1})
    assert any(line.startswith("max_gpus 1 is passed") for line in p.advice)
    assert of(p)["gpus"].high >= of(p)["gpus"].value


def test_a_fitted_calibration_names_its_gpu_and_warns_on_another(tmp_path: Path) -> None:
    pinned = mp.plan(**SMALL | {"gpus": "h100"})
    seen = with_observed(pinned, OBSERVED / "vllm_serve.json").observed
    assert seen is not None
    path = tmp_path / "fitted.toml"
    path.write_text(seen.calibration_toml, encoding="utf-8")
    assert 'accelerator = "h100-sxm"' in seen.calibration_toml
    mine, said = calibration_for(hardware_specs.load("h100"), str(path))
    assert "warning" not in said
    near, said = calibration_for(hardware_specs.load("h200"), str(path))
    assert said.startswith("warning: calibration ")
    assert "fitted on h100-sxm, not on h200-sxm" in said
    far, _ = calibration_for(hardware_specs.load("l40s"), str(path))
    spans = [np.log(c.step_residual.high / c.step_residual.low) for c in (mine, near, far)]
    assert spans == sorted(spans)
    assert spans[0] < spans[1] < spans[2]
    again = mp.plan(**SMALL | {"gpus": ("h100", "l40s"), "stack": str(path)})
    assert any("l40s compare with it by transfer" in line for line in again.assumptions)
    alone = mp.plan(**SMALL | {"gpus": "h100", "stack": str(path)})
    assert not any("warning" in line and "limit" not in line for line in alone.assumptions)


def test_only_what_is_known_of_the_accelerator_is_held_against_a_file(tmp_path: Path) -> None:
    """Files that name no part go on as they are; one of an unknown part is a stranger's."""
    plain, said = calibration_for(hardware_specs.load("a100"), own(tmp_path, 0.9, 1.1))
    assert "warning" not in said
    other = own(tmp_path, 0.9, 1.1, accelerator="measured-somewhere")
    found, said = calibration_for(hardware_specs.load("a100"), other)
    assert "measured-somewhere, not on a100" in said
    assert found.step_residual.high > plain.step_residual.high
    assert found.host.step_seconds == plain.host.step_seconds
