"""The steady state: laws it must keep, limits it must reach, and its simulated twin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simpy

from benchmarks.random_serving import Case, Comparison, compare, random_case
from magicplan import hardware_specs, model_specs
from magicplan.fields import made
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.drafts import DRAFTS, DraftRequest
from magicplan.roofline.timing import Machine, step_cost
from magicplan.roofline.traffic import Pass, forward
from magicplan.serving.chunked_prefill import meeting
from magicplan.serving.latency import Entry, sample
from magicplan.serving.load import Traffic, load_of
from magicplan.serving.replica import (
    PLAIN,
    EngineLimits,
    Replica,
    Speculation,
    pool,
    prompts_of,
    replica,
    rounds_of,
    states,
)
from magicplan.serving.simulated_clients import Job
from magicplan.serving.simulation import Engine
from magicplan.serving.steady_state import SAFE_MARGIN, Steady, last_feasible, where_reached
from magicplan.serving.step_time import RowTable, prefill_cost, row_table


def a_replica(
    model: str = "llama-3.1-8b", gpu: str = "h100-sxm", tp: tuple[float, ...] = (1.0,),
    batched_tokens: float = 8192, longest: int = 0, pp: tuple[float, ...] = (), **traffic: Any,
) -> Replica:  # fmt: skip
    accelerator = hardware_specs.load(gpu)
    machine = Machine(accelerator=accelerator, calibration=calibration_for(accelerator, "vllm")[0])
    load = load_of(made(Traffic, {"requests_per_s": 1.0, "prompt": 1000, "output": 200} | traffic))
    limits = EngineLimits(batched_tokens=batched_tokens, max_sequences=256, memory_fraction=0.9)
    layout = Deployment(tp=np.asarray(tp), pp=np.asarray(pp or [1.0] * len(tp)))
    return replica(model_specs.load(model), machine, layout, load, limits, longest)


def eagle(r: Replica, alpha: float, gamma: int | None = None) -> Speculation:
    draft = DRAFTS["eagle3"].make(DraftRequest(target=r.model))
    return Speculation(draft=draft, acceptance=Iid(alpha=alpha, origin="test"), gamma=gamma)


def test_a_decode_only_step_is_that_of_the_roofline() -> None:
    r = a_replica(tp=(1.0, 2.0))
    ctx = float(r.contexts.mean())
    for index, tp in enumerate((1.0, 2.0)):
        work = Pass(batch=32.0, ctx=ctx)
        host = r.machine.calibration.host.pass_seconds(32.0, 32.0)
        whole = step_cost(forward(r.model, Deployment(tp=tp), work), r.machine, host).seconds
        column = int(np.flatnonzero(r.batch == 32)[0])
        assert r.verify[index, column, 0] == pytest.approx(float(whole), rel=1e-9)


def test_row_tables_interpolate_their_passes() -> None:
    r = a_replica()
    table = row_table(r.model, r.layout, r.machine, 20_000.0)
    for rows in (3.0, 77.0, 1500.0, 9000.0):
        exact = forward(r.model, Deployment(), Pass(batch=rows, ctx=1.0))
        kept = [o for o in exact if o.kind != "attention" and o.name not in ("lm_head", "sampling")]
        seconds = float(step_cost(kept, r.machine).seconds)
        assert table.at(np.asarray([[rows]]))[0, 0] == pytest.approx(seconds, rel=0.01)
    assert isinstance(table, RowTable)


def test_prompt_attention_is_quadratic_and_windows_make_it_linear() -> None:
    full = prefill_cost(model_specs.load("llama-3.1-8b"), a_replica().layout, a_replica().machine)
    none = np.zeros(1)
    short, long = (full.of(np.asarray([n]), none)[0, 0] for n in (4000.0, 8000.0))
    assert long / short == pytest.approx(4, rel=0.01)
    sliding = prefill_cost(model_specs.load("gemma-3-27b"), a_replica().layout, a_replica().machine)
    assert sliding.window_tokens == 1024
    alone = replace(sliding, full_pair_seconds=none)
    short, long = (alone.of(np.asarray([n]), none)[0, 0] for n in (4000.0, 8000.0))
    assert 1.9 < long / short < 2.3
    split = full.of(np.asarray([3000.0]), none) + full.of(np.asarray([5000.0]), none + 3000)
    assert split[0, 0] == pytest.approx(full.of(np.asarray([8000.0]), none)[0, 0])


def test_little_holds_at_every_batch() -> None:
    found = states(a_replica(), PLAIN)
    flow = found.rate * found.rounds_per_request * found.step_seconds
    assert flow == pytest.approx(found.in_flight, rel=1e-9)


def test_prompts_stretch_rounds_by_their_share_of_time() -> None:
    """At a fixed concurrency of long outputs, T = round + B S / n within a few percent."""
    r = a_replica(requests_per_s=None, users=64, prompt=2000, output=2000)
    found = states(r, PLAIN)
    at = int(np.flatnonzero(r.batch == 64)[0])
    stretched = found.step_seconds[0, at] - found.round_seconds[0, at]
    share = 64 * found.prefill_seconds[0, at] / found.rounds_per_request[0, at]
    assert stretched == pytest.approx(share, rel=0.05)


def test_rate_rises_with_batch_until_the_cache_is_full() -> None:
    found = states(a_replica(prompt=4000, output=1000), PLAIN)
    last = last_feasible(found)
    assert (np.diff(found.rate[0, : last[0] + 1]) > 0).all()
    assert found.kv_margin[0, last[0]] >= SAFE_MARGIN
    assert found.kv_margin[0, last[0] + 1] < SAFE_MARGIN


def test_a_drafter_costs_batch_at_equal_memory() -> None:
    r = a_replica(longest=3, prompt=6000, output=500)
    plain, drafted = states(r, PLAIN), states(r, eagle(r, 0.8))
    assert last_feasible(drafted)[0] <= last_feasible(plain)[0]
    held = plain.kv_margin[:, 5:] > 1
    assert (drafted.kv_margin < plain.kv_margin)[:, 5:][held].all()
    assert (drafted.request_share > plain.request_share).all()


def test_speculation_is_chosen_by_batch() -> None:
    r = a_replica(longest=6)
    rounds = rounds_of(r, eagle(r, 0.7))
    assert rounds.gamma[0, 0] > 0
    speed = rounds.tokens_per_round / rounds.round_seconds
    assert (speed >= 1 / r.verify[..., 0] - 1e-9).all()
    nothing = rounds_of(r, eagle(r, 0.0))
    assert (nothing.gamma == 0).all()


def at_rate(r: Replica, spec: Speculation, share: float) -> tuple[Steady, Any]:
    found = states(r, spec)
    last = last_feasible(found)
    wanted = share * found.rate[0, last]
    at = where_reached(found.rate, wanted, last)
    state = found.pick(np.zeros(1, dtype=np.int64), at)
    entry = Entry(saturation=found.rate[0, last], slots=found.batch[0, last], queued=np.zeros(1))
    return state, sample(r.load, state, entry)


def test_gaps_between_tokens_under_speculation_in_closed_form() -> None:
    """With nothing but equal rounds, CV^2 = G - 1, and (G - 1) / G of the gaps are 0."""
    r = a_replica(longest=4, prompt=16, output=400)
    state, found = at_rate(r, eagle(r, 0.8, gamma=4), 0.02)
    emitted = float(state.tokens_per_round[0, 0])
    assert emitted == pytest.approx((1 - 0.8**5) / 0.2)
    assert found.itl_cv[0] ** 2 == pytest.approx(emitted - 1, rel=0.03)
    assert found.itl[0, 0] == 0
    assert found.itl[0, 1] == pytest.approx(float(state.round_seconds[0, 0]), rel=0.2)
    assert found.itl_mean[0] == pytest.approx(float(state.round_seconds[0, 0]) / emitted, rel=0.05)


def test_pipeline_stages_bring_no_prompt_below_the_compute_of_one_stage_after_the_other() -> None:
    """Stages work on different requests at once; one request passes them in turn."""
    stages = (1.0, 2.0, 4.0, 8.0)
    r = a_replica(
        "llama-3.1-70b", "h200-sxm", tp=(1.0,) * 4, pp=stages, batched_tokens=4096,
        requests_per_s=0.001, prompt=8000, output=16,
    )  # fmt: skip
    own = states(r, PLAIN).own_seconds[:, 0, 0]
    floor = 2 * (r.model.parameters - r.model.vocab * r.model.hidden) * 8000 / 989e12
    assert (own >= floor).all()
    assert own == pytest.approx(own[0], rel=0.15)


def test_waits_vanish_on_an_idle_replica_and_grow_with_load() -> None:
    r = a_replica(prompt="lognormal:1000,6000", output="lognormal:200,800")
    means, tails = [], []
    for share in (0.01, 0.4, 0.8):
        state, found = at_rate(r, PLAIN, share)
        means.append(float(found.ttft.mean()))
        tails.append(float(found.statistic("ttft", "p99")[0]))
        if share == 0.01:
            own = (state.own_seconds[0, 0] * r.load.groups.share).sum()
            assert found.ttft.mean() == pytest.approx(own, rel=0.05)
    assert means == sorted(means)
    assert tails == sorted(tails)


def test_burstier_arrivals_wait_longer() -> None:
    r = a_replica(prompt=6000, output=100)
    calm = at_rate(r, PLAIN, 0.7)[1].ttft.mean()
    rough = replace(r, load=replace(r.load, arrival_cv2=4.0))
    assert at_rate(rough, PLAIN, 0.7)[1].ttft.mean() > 1.2 * calm


def test_a_shared_prefix_is_read_and_held_once() -> None:
    alone = states(a_replica(prompt=4000, output=500), PLAIN)
    shared = states(a_replica(prompt=4000, output=500, shared_prefix_tokens=3000), PLAIN)
    assert (shared.round_seconds <= alone.round_seconds + 1e-12).all()
    assert shared.round_seconds[0, -1] < 0.8 * alone.round_seconds[0, -1]
    assert shared.kv_share[0, 20] < 0.5 * alone.kv_share[0, 20]


@pytest.fixture(scope="module")
def rows() -> list[Comparison]:
    """Two dozen random workloads; the benchmark does the same with ten times as many, longer."""
    return [compare(random_case(seed), requests=320, seed=seed) for seed in range(24)]


@pytest.mark.parametrize("feature", ["any", "speculation", "pipeline", "disaggregated"])
def test_the_steady_state_agrees_with_its_simulation(rows: list[Comparison], feature: str) -> None:
    chosen = [row for row in rows if feature == "any" or feature in row.features]
    assert len(chosen) >= 4
    for name, goal in (("throughput", 8.0), ("tpot", 8.0), ("e2e_p95", 15.0)):
        errors = [abs(row.error(name)) for row in chosen]
        assert 100 * np.mean(errors) <= goal, name


def test_gaps_between_tokens_vary_as_in_the_simulation(rows: list[Comparison]) -> None:
    """Their coefficient of variation in closed form, and the median gap in mean gaps."""
    drafted = [row for row in rows if "speculation" in row.features]
    assert np.median([abs(row.error("itl_cv")) for row in drafted]) < 0.08
    assert np.median([abs(row.error("itl_p50")) for row in drafted]) < 0.05
    assert np.median([abs(row.error("itl_p95")) for row in drafted]) < 0.25


def test_micro_batches_follow_each_other_through_the_stages() -> None:
    """Two requests of two tokens on two stages of a second each, worked out by hand."""
    env = simpy.Environment()
    ended: list[tuple[float, float]] = []
    engine = Engine(
        env=env, clock=lambda *_: 2.0, accept=np.ones, capacity=100.0, budget=8, most=4, width=1,
        shared=0, stages=2, hand_over=None, finished=lambda job: ended.append((job.first, env.now)),
    )  # fmt: skip
    for _ in range(2):
        engine.submit(Job(prompt=1, output=2, todo=1, asked=2, counted=True))
    env.run()
    assert ended == [(2.0, 4.0), (3.0, 5.0)]


def test_a_long_chunk_stops_the_micro_batch_behind_it() -> None:
    """Ten seconds of prompt on two stages: who decodes in the other micro-batch waits for both."""

    def clock(count: int, all_decoding: int, ctx: float, chunks: object) -> float:
        return 10.0 if chunks else 2.0

    env = simpy.Environment()
    engine = Engine(
        env=env, clock=clock,
        accept=np.ones, capacity=100.0, budget=8, most=4, width=1, shared=0, stages=2,
        hand_over=None, finished=lambda _: None,
    )  # fmt: skip
    engine.micro_batches[0].jobs.append(
        Job(prompt=1, output=9, todo=0, asked=9, counted=True, emitted=1, ready=True, last=0.0)
    )
    engine.submit(Job(prompt=1, output=1, todo=1, asked=1, counted=True))
    env.run()
    assert [gap for _, gap, _ in engine.gaps[:3]] == [2.0, 10.0, 2.0]


def last_passage(stages: int, work: Array) -> float:
    """Time of a round of micro-batches in mean works: each follows the one before it in every
    stage and itself from one round to the next."""
    free, left = [0.0] * stages, [0.0] * work.size
    for item, seconds in enumerate(work):
        at = left[item - stages] if item >= stages else 0.0
        for stage in range(stages):
            at = free[stage] = max(at, free[stage]) + seconds / stages
        left[item] = at
    return float((left[-1] - left[work.size // 5]) / (work.size * 0.8) * stages / work.mean())


@pytest.mark.parametrize("varies", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_slowest_micro_batch_of_a_round_counts(stages: int, varies: float) -> None:
    """The closed form against the last-passage time of random works."""
    work = np.random.default_rng(0).gamma(1 / varies, varies, 20_000)
    # rare chunks of one token on an endless budget vary by 1 / arrivals
    one = np.ones((1, 1))
    shared = meeting(one * stages, one / varies, 1.0, one, one * 1e9)[0, 0]
    assert stages / shared == pytest.approx(last_passage(stages, work), rel=0.06)


def test_nobody_meets_a_lone_users_prompts() -> None:
    found = states(a_replica(requests_per_s=None, users=1, think_seconds=0), PLAIN)
    alone = int(np.flatnonzero(found.batch[0] == 1)[0])
    assert found.mixed_share[0, alone] < 1e-3
    assert found.mixed_share[0, alone + 3] > 1e-3


def test_a_replica_that_only_prefills_reads_its_weights() -> None:
    r = a_replica(prompt=16, output=16)
    own = pool(r, prompts_of(r, PLAIN)).own_seconds
    floor = 2 * (r.model.parameters - r.model.vocab * r.model.hidden) / 3.35e12
    assert (own >= floor).all()


def prompts_rule(case: Case) -> bool:
    """Prompts of thirty times their outputs, and a cache that holds the concurrency."""
    lengths = case.replica.load.lengths
    return "kv" not in case.label and bool(lengths.prompt.mean() > 30 * lengths.output.mean())


def test_the_simulation_notices_a_wrong_steady_state() -> None:
    """Positive control: without the prompts of neighbours the error is far outside the goal."""
    cases = (random_case(seed) for seed in range(200))
    heavy = next(c for c in cases if c.kind == "closed" and c.concurrency > 8 and prompts_rule(c))
    row = compare(heavy, requests=300, seed=1)
    found = states(heavy.replica, heavy.spec)
    emitted = found.tokens_per_round[0]
    alone = float(
        np.interp(heavy.concurrency, heavy.replica.batch, found.round_seconds[0] / emitted)
    )
    assert alone < 0.5 * row.simulated["tpot"]
    assert abs(row.error("tpot")) < 0.2
