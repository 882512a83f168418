"""One server under a load: step tables beside the full model, benchmarks beside laws and cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan import hardware_specs, model_specs
from magicplan.errors import DoesNotFit, UsageError
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.drafts import DRAFTS, DraftRequest
from magicplan.roofline.timing import Machine
from magicplan.serving.load import Traffic, load_of
from magicplan.serving.load_test import drawn, saturation, setup_of, simulate, stable
from magicplan.serving.replica import (
    PLAIN,
    EngineLimits,
    Replica,
    Speculation,
    replica,
    rounds_of,
)
from magicplan.serving.screen import screen
from magicplan.serving.step_table import step_table
from magicplan.serving.step_time import decode_seconds

CHAT: dict[str, Any] = {"prompt": "lognormal:600,2400", "output": "lognormal:200,600"}


def a_replica(
    model: str = "llama-3.1-8b", gpu: str = "h100-sxm", *, tp: float = 1.0, pp: float = 1.0,
    longest: int = 0, **traffic: Any,
) -> Replica:  # fmt: skip
    accelerator = hardware_specs.load(gpu)
    machine = Machine(accelerator=accelerator, calibration=calibration_for(accelerator, "vllm")[0])
    load = load_of(Traffic(**({"requests_per_s": 1.0, "prompt": 1000, "output": 200} | traffic)))
    limits = EngineLimits(batched_tokens=8192, max_sequences=512, memory_fraction=0.9)
    layout = Deployment(tp=np.asarray([tp]), pp=np.asarray([pp]))
    return replica(model_specs.load(model), machine, layout, load, limits, longest)


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "gamma", "longest"),
    [
        ("llama-3.1-8b", "h100-sxm", 1.0, 0, 8000),
        ("llama-3.1-70b", "b200-sxm", 2.0, 0, 60000),
        ("gemma-3-27b", "h200-sxm", 1.0, 0, 40000),
        ("qwen3-30b-a3b", "h100-sxm", 2.0, 0, 16000),
        ("llama-3.1-8b", "h100-sxm", 1.0, 3, 8000),
    ],
)
def test_step_tables_stay_within_half_a_percent_of_the_model(
    model: str, gpu: str, tp: float, gamma: int, longest: int
) -> None:
    r = a_replica(model, gpu, tp=tp, longest=gamma, prompt=longest, output=100)
    spec = PLAIN
    if gamma:
        draft = DRAFTS["eagle3"].make(DraftRequest(target=r.model))
        spec = Speculation(draft=draft, acceptance=Iid(alpha=0.7, origin="test"), gamma=gamma)
    table = step_table(r, 0, spec, gamma, gamma)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        batch = int(np.exp(rng.uniform(0, np.log(512))))
        ctx = float(np.exp(rng.uniform(np.log(32), np.log(longest))))
        full = decode_seconds(
            r.model, r.layout, r.machine, np.asarray([float(batch)]), np.asarray([[ctx]]),
            np.asarray([gamma + 1.0]),
        )[0, 0, 0]  # fmt: skip
        drafting = 0.0
        if gamma:
            drafting = float(np.interp(batch, r.batch, rounds_of(r, spec).draft_seconds[0]))
        errors.append(abs(table.decode(batch, batch * ctx) / (full + drafting) - 1))
    assert np.max(errors) < 0.005


def test_bounds_are_above_what_is_simulated() -> None:
    """No replica keeps up with more than arithmetic allows, nor far less."""
    for draft in (False, True):
        r = a_replica(longest=4 if draft else 0, **CHAT)
        spec = PLAIN
        if draft:
            made = DRAFTS["eagle3"].make(DraftRequest(target=r.model))
            spec = Speculation(draft=made, acceptance=Iid(alpha=0.7, origin="test"))
        rounds = rounds_of(r, spec)
        bounds = screen(r, spec, rounds, {})
        at = int(np.abs(r.batch - bounds.batch[0]).argmin())
        gamma = int(rounds.gamma[0, at])
        found = saturation(setup_of(r, 0, spec, gamma, gamma))
        assert 0.6 * bounds.saturation[0] < found < 1.05 * bounds.saturation[0]


def test_a_slower_table_is_a_slower_world() -> None:
    """All steps twice as long at half the rate: every latency twice as long, but for the host."""
    setup = setup_of(a_replica(**CHAT), 0, PLAIN, 0, 0)
    setup = type(setup)(
        server=setup.server, times=setup.times, load=setup.load, law=None, entry_seconds=0.0
    )
    draws = drawn(setup.load, 300, 1)
    one = simulate(setup, draws, requests_per_s=8.0)
    two = simulate(setup.slower(2.0), draws, requests_per_s=4.0)
    np.testing.assert_allclose(two.e2e, 2 * one.e2e)
    np.testing.assert_allclose(two.ttft, 2 * one.ttft)


def test_a_queue_that_grows_is_told_from_one_that_does_not() -> None:
    setup = setup_of(a_replica(**CHAT), 0, PLAIN, 0, 0)
    bears = saturation(setup)
    draws = drawn(setup.load, 1500, 2)
    assert stable(simulate(setup, draws, requests_per_s=0.6 * bears))
    assert not stable(simulate(setup, draws, requests_per_s=2.5 * bears))


def test_pools_hand_over_and_decoding_meets_no_prompts() -> None:
    setup = setup_of(a_replica(prompt=8000, output=100), 0, PLAIN, 0, 0)
    draws = drawn(setup.load, 400, 1)
    mixed = simulate(setup, draws, requests_per_s=1.0, replicas=2)
    split = simulate(setup, draws, requests_per_s=1.0, replicas=1, prefill_replicas=1)
    assert split.itl.max() < 0.2 * mixed.itl.max()
    moving = 8000 * setup.moving_seconds_per_token
    least = setup.times.step(0, 0.0, [(8000.0, 0.0)]) + moving + setup.entry_seconds
    assert split.ttft.min() == pytest.approx(least)


def test_pipeline_stages_carry_more_than_one_micro_batch() -> None:
    one = setup_of(a_replica(tp=1.0, prompt=512, output=128), 0, PLAIN, 0, 0)
    two = setup_of(a_replica(tp=1.0, pp=2.0, prompt=512, output=128), 0, PLAIN, 0, 0)
    assert 1.3 < saturation(two) / saturation(one) < 2.2


def test_a_finite_burst_has_a_ramp_and_a_drain() -> None:
    """1,000 requests at once, as ShareGPT is run: everybody counts, and the rate is below what the
    server bears for ever."""
    asked: dict[str, Any] = {"gpu": "h100", "prompt": "lognormal:200,1000",
                             "output": "lognormal:150,600"}  # fmt: skip
    burst = mp.bench(**asked, num_prompts=1000)
    steady = mp.bench(**asked, concurrency=400)
    assert burst.figures["completed"] == 1000
    assert burst.figures["duration"] == pytest.approx(
        1000 / burst.figures["request_throughput"], rel=1e-6
    )
    assert burst.figures["request_throughput"] < 0.9 * steady.figures["request_throughput"]


def test_few_users_with_long_prompts_wait_for_each_other_only() -> None:
    """Four users, prompts of 48k to 65k in steps of 2048: a first token waits for its own prompt
    and at most for three others', whatever a formula for many would say."""
    found = mp.bench(
        gpu="h100", concurrency=4, prompt="uniform:48000,65000", output=256, batched_tokens=2048,
        num_prompts=120,
    )  # fmt: skip
    own = mp.bench(
        gpu="h100", concurrency=1, prompt=65000, output=256, batched_tokens=2048, num_prompts=3
    ).figures["median_ttft_ms"]
    assert own * 0.8 < found.figures["p95_ttft_ms"] < 2 * own


def test_the_largest_load_keeps_every_limit_and_a_larger_one_does_not() -> None:
    limits = {"ttft_p95_seconds": 0.5, "tpot_p95_seconds": 0.02}
    found = mp.bench(gpu="h100", slo=limits, **CHAT)
    assert found.goodput is not None
    rate = found.goodput.request_rate
    assert found.figures["p95_tpot_ms"] <= 20 * (1 + 1e-9)
    assert found.figures["p95_ttft_ms"] <= 500
    more = mp.bench(gpu="h100", request_rate=1.1 * rate, **CHAT)
    assert more.figures["p95_tpot_ms"] > 20 or more.figures["p95_ttft_ms"] > 500
    assert found.goodput.stopped_by == "tpot_p95_seconds"
    assert found.goodput.lifts["steps 20 % faster"] > 1.1
    document = found.to_dict()
    assert document["schema"] == "magicplan.bench/1"
    assert document["intervals"]["p95_tpot_ms"]["low"] < document["p95_tpot_ms"]
    nothing = mp.bench(gpu="h100", slo={"ttft_p95_seconds": 0.001})
    assert nothing.goodput is not None
    assert math.isnan(nothing.goodput.request_rate)
    assert nothing.goodput.stopped_by == "ttft_p95_seconds"


def test_sglang_s_gaps_are_those_of_tokens() -> None:
    asked: dict[str, Any] = {"gpu": "h100", "concurrency": 8, "draft": "eagle3", "gamma": 3,
                             "acceptance": "0.7"}  # fmt: skip
    chunks, tokens = (mp.bench(**asked, itl=itl).figures for itl in ("vllm", "sglang"))
    assert chunks["tokens_per_chunk"] > 2
    assert tokens["mean_itl_ms"] * chunks["tokens_per_chunk"] == pytest.approx(
        chunks["mean_itl_ms"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no load"),
        ({"concurrency": 0}, "concurrency 0: expected a number above 0"),
        ({"num_prompts": 2.5}, "num_prompts 2.5: expected a whole number above 0"),
        ({"concurrency": 1, "routing": "wise"}, "routing 'wise': expected one of random"),
        ({"concurrency": 1, "itl": "tokens"}, "itl 'tokens': expected vllm or sglang"),
        ({"concurrency": 1, "gpus": 3, "tp": 2}, "3 GPUs are no whole number of replicas of 2"),
        ({"concurrency": 1, "colour": 2}, "bench takes no 'colour'"),
        ({"concurrency": 1, "prompt": 200_000}, "exceed the 131072"),
        ({"slo": {"ttft_p90_seconds": 1}}, "slo ttft_p90_seconds: expected names such as"),
        ({"request_rate": 500.0}, "more than the server bears"),
    ],
)
def test_bad_loads_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mp.bench(gpu="h100", **options)


def test_a_server_that_cannot_start_is_refused() -> None:
    with pytest.raises(DoesNotFit):
        mp.bench(gpu="l40s", model="llama-3.1-70b", tp=1, concurrency=1)
