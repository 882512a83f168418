"""The fast simulation against its plain twin, and against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from magicplan.serving.load_test import ROUTINGS, Fleet, Routing, placed
from magicplan.serving.outcome import gaps_of
from magicplan.serving.policies import POLICIES, ServerRules
from magicplan.serving.requests import SimulatedRequest, law_of_mean, round_law, rounds_needed
from magicplan.serving.simulation import Engine
from magicplan.serving.step_table import StepTable
from tests.serving.plain_server import Guest, PlainServer, walk


def a_table(width: float = 1.0, shared: float = 0.0, bend: float = 1.0) -> StepTable:
    """A step of 10 ms and 0.1 ms a request, reading 1 us a token of context, more beyond 2000."""
    sizes, contexts = [1.0, 8.0, 64.0, 1024.0], [1.0, 500.0, 2000.0, 40000.0]
    read = np.interp(contexts, [1, 2000, 40000], [0, 2000e-6, 2000e-6 + 38000e-6 * bend])
    return StepTable(
        width=width, shared_tokens=shared, sizes=sizes, contexts=contexts,
        seconds=[[0.01 + 1e-4 * n + n * float(c) for c in read] for n in sizes],
        rows=[1.0, 256.0, 20000.0], row_slope=[1e-6, 2e-5], row_start=[2e-3, 2e-3 - 256 * 19e-6],
        overhead=3e-3, pair_seconds=2e-9, window_pair_seconds=0.0, window_tokens=0.0,
        prompt_token_seconds=0.0, sequence_seconds=1e-5,
    )  # fmt: skip


def some_requests(
    seed: int, count: int, rate: float, *, law: list[float] | None = None, users: int = 0,
    prompt: float = 800.0, output: float = 60.0, sigma: float = 1.0,
) -> list[SimulatedRequest]:  # fmt: skip
    rng = np.random.default_rng(seed)
    prompts = np.maximum(np.rint(prompt * np.exp(sigma * rng.standard_normal(count))), 2.0)
    outputs = np.maximum(np.rint(output * np.exp(sigma * rng.standard_normal(count))), 1.0)
    arrived = np.cumsum(rng.exponential(1 / rate, count)) if math.isfinite(rate) else [0.0] * count
    needed = rounds_needed(outputs.tolist(), None if law is None else np.asarray(law), rng)
    return [
        SimulatedRequest(
            number=i, arrived=float(a), prompt=float(p), output=float(o), rounds=n,
            session=i % users if users else -1,
        )
        for i, (a, p, o, n) in enumerate(zip(arrived, prompts, outputs, needed, strict=True))
    ]  # fmt: skip


def both(server: ServerRules, times: StepTable, requests: list[SimulatedRequest]) -> None:
    """Run the fast one and the twin, and compare every figure of every request."""
    twin = PlainServer(server=server, times=times)
    told = walk([twin], [(r.arrived, r) for r in requests])
    engine = Engine(server=server, times=times)
    answered = Fleet(engines=[engine]).run(requests)
    assert len(answered) == len(requests) == len(told)
    for guest in told:
        r = guest.ask
        assert r.first == pytest.approx(guest.first, abs=1e-9), r.number
        assert r.ended == pytest.approx(guest.ended, abs=1e-9), r.number
    assert engine.preemptions == twin.preemptions
    assert sum(run[2] for run in engine.runs) == twin.steps
    fast = np.sort(gaps_of(engine.gaps))
    slow = np.sort([gap for guest in told for gap in guest.gaps])
    assert fast.size == slow.size
    assert np.allclose(fast, slow, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    policy=st.sampled_from(sorted(POLICIES)),
    rate=st.sampled_from([0.5, 3.0, 8.0, 30.0, math.inf]),
    law=st.sampled_from([None, [0.2, 0.3, 0.5], [0.5, 0.0, 0.0, 0.5]]),
    budget=st.sampled_from([64, 512, 8192]),
    slots=st.sampled_from([2, 16, 256]),
    room=st.sampled_from([1.0, 1.5, 8.0, math.inf]),
    shared=st.sampled_from([0.0, 300.0]),
    users=st.sampled_from([0, 5]),
)
@example(  # a request that runs beside one that has ended is the last that runs: not preempted
    seed=48, policy="sglang", rate=0.5, law=[0.2, 0.3, 0.5], budget=64, slots=2, room=1.0,
    shared=0.0, users=0,
)  # fmt: skip
def test_the_fast_simulation_equals_its_plain_twin(
    seed: int, policy: str, rate: float, law: list[float] | None, budget: int, slots: int,
    room: float, shared: float, users: int,
) -> None:  # fmt: skip
    requests = some_requests(seed, 60, rate, law=law, users=users)
    longest = max(r.prompt + r.output for r in requests) + 64
    gamma = len(law) - 1 if law else 0
    server = ServerRules(
        policy=POLICIES[policy], budget_tokens=budget, max_sequences=slots, gamma=gamma,
        capacity_tokens=math.inf if room == math.inf else math.floor(room * longest),
        shared_tokens=shared,
    )  # fmt: skip
    for r in requests:
        r.prompt += shared
    both(server, a_table(gamma + 1.0, shared, bend=3.0), requests)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    routing=st.sampled_from(["random", "round-robin", "sticky"]),
    rate=st.sampled_from([2.0, 10.0, 40.0]),
    engines=st.integers(2, 4),
    room=st.sampled_from([1.5, 6.0, math.inf]),
)
def test_a_routed_fleet_equals_its_plain_twin(
    seed: int, routing: Routing, rate: float, engines: int, room: float
) -> None:
    """Conversations on several engines, each of which keeps what it has seen."""
    requests = some_requests(seed, 80, rate, users=12)
    longest = max(r.prompt + r.output for r in requests) + 64
    capacity = math.inf if room == math.inf else math.floor(room * longest)
    server = ServerRules(capacity_tokens=capacity)
    fleet = Fleet(engines=[Engine(server=server, times=a_table()) for _ in range(engines)],
                  routing=routing)  # fmt: skip
    turn = itertools.count(1)

    def route(ask: SimulatedRequest, servers: Sequence[PlainServer]) -> int:
        if routing == "round-robin":
            return next(turn) % len(servers)
        return placed(ask.session if routing == "sticky" else ask.number, len(servers))

    twins = [PlainServer(server=server, times=a_table()) for _ in range(engines)]
    told = walk(twins, [(r.arrived, r) for r in requests], route)
    fleet.run(requests)
    for guest in told:
        assert guest.ask.first == pytest.approx(guest.first, abs=1e-9)
        assert guest.ask.ended == pytest.approx(guest.ended, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    users=st.integers(1, 12),
    law=st.sampled_from([None, [0.2, 0.3, 0.5]]),
)
def test_users_in_turns_equal_their_plain_twin(
    seed: int, users: int, law: list[float] | None
) -> None:
    requests = some_requests(seed, 60, math.inf, law=law)
    gamma = len(law) - 1 if law else 0
    server, times = ServerRules(gamma=gamma, budget_tokens=512), a_table(gamma + 1.0)
    following = iter(requests[users:])

    def again(guest: Guest, ended: float) -> list[tuple[float, SimulatedRequest]]:
        request = next(following, None)
        return [] if request is None else [(ended + 0.5, request)]

    twin = PlainServer(server=server, times=times)
    told = walk([twin], [(0.0, r) for r in requests[:users]], answered=again)
    fleet = Fleet(engines=[Engine(server=server, times=times)])
    after = iter(requests[users:])

    def ask_next(answered: SimulatedRequest) -> tuple[float, SimulatedRequest] | None:
        request = next(after, None)
        return None if request is None else (answered.ended + 0.5, request)

    fleet.ask_next = ask_next
    fleet.run(requests[:users])
    for guest in told:
        assert guest.ask.arrived == pytest.approx(guest.queued, abs=1e-9)
        assert guest.ask.ended == pytest.approx(guest.ended, abs=1e-9)


def alone(prompt: float, output: float, **server: Any) -> SimulatedRequest:
    request = SimulatedRequest(number=0, prompt=prompt, output=output, rounds=int(output) - 1)
    Fleet(engines=[Engine(server=ServerRules(**server), times=a_table())]).run([request])
    return request


def test_a_request_alone_costs_its_chunks_and_its_steps() -> None:
    """1000 tokens in chunks of 512 and 488, then nine steps over 1001 to 1009 tokens, by hand."""
    times = a_table()
    request = alone(1000, 10, budget_tokens=512)
    first = times.step(0, 0.0, [(512, 0)]) + times.step(0, 0.0, [(488, 512)])
    assert request.first == pytest.approx(first)
    steps = sum(0.01 + 1e-4 + (ctx - 1) / 1999 * 2e-3 for ctx in range(1001, 1010))
    assert request.ended - request.first == pytest.approx(steps)


def test_mean_gap_is_mean_time_per_token_times_tokens_a_chunk() -> None:
    law = np.asarray([0.3, 0.2, 0.5])
    requests = some_requests(3, 200, 5.0, law=law.tolist())
    engine = Engine(server=ServerRules(gamma=2), times=a_table(3.0))
    Fleet(engines=[engine]).run(requests)
    some = [r for r in requests if r.rounds]
    per_token = sum(r.ended - r.first for r in some) / sum(r.output - 1 for r in some)
    chunk = sum(r.output - 1 for r in some) / sum(r.rounds for r in some)
    assert gaps_of(engine.gaps).mean() == pytest.approx(per_token * chunk)
    assert chunk == pytest.approx(float(law @ [1, 2, 3]), rel=0.03)


def test_prompts_first_makes_decoding_wait_and_mixed_chunks_do_not() -> None:
    """A long prompt arrives while another request decodes: SGLang's gap holds all its chunks."""
    worst = {}
    for policy in ("vllm", "sglang"):
        early = SimulatedRequest(number=0, prompt=10, output=200, rounds=199)
        late = SimulatedRequest(number=1, arrived=0.5, prompt=8000, output=2, rounds=1)
        server = ServerRules(policy=POLICIES[policy], budget_tokens=1024)
        engine = Engine(server=server, times=a_table())
        Fleet(engines=[engine]).run([early, late])
        worst[policy] = gaps_of(engine.gaps).max()
    assert worst["sglang"] > 6 * worst["vllm"]


def test_random_routing_loses_what_sticky_routing_finds() -> None:
    """Conversations of growing history over ten engines: where a turn lands elsewhere, its history
    is computed anew."""
    hits = {}
    for routing in ROUTINGS:
        turns = conversations(users=30, turns=6, grows=500.0)
        engines = [
            Engine(server=ServerRules(capacity_tokens=200_000), times=a_table()) for _ in range(10)
        ]
        Fleet(engines=engines, routing=routing).run(turns)
        hits[routing] = sum(r.found for r in turns) / sum(r.prompt for r in turns)
    assert hits["sticky"] > 0.65
    assert hits["random"] < 0.6 * hits["sticky"]


def conversations(users: int, turns: int, grows: float) -> list[SimulatedRequest]:
    numbers = itertools.count()
    return [
        SimulatedRequest(
            number=next(numbers), arrived=20.0 * turn + user / 10, prompt=grows * (turn + 1),
            output=20, rounds=19, session=user,
        )
        for turn in range(turns)
        for user in range(users)
    ]  # fmt: skip


def test_no_eviction_never_preempts_and_maximum_utilisation_does() -> None:
    counts = {}
    for policy in ("trtllm", "trtllm-max-utilisation"):
        requests = some_requests(1, 60, math.inf, prompt=200.0, output=200.0)
        longest = max(r.prompt + r.output for r in requests)
        server = ServerRules(policy=POLICIES[policy], capacity_tokens=3 * longest)
        engine = Engine(server=server, times=a_table())
        Fleet(engines=[engine]).run(requests)
        assert all(not math.isnan(r.ended) for r in requests)
        counts[policy] = engine.preemptions
    assert counts["trtllm"] == 0
    assert counts["trtllm-max-utilisation"] > 0


def test_rounds_are_those_of_the_law() -> None:
    law = round_law(np.asarray([0.8, 0.5]))
    assert law == pytest.approx([0.2, 0.4, 0.4])
    outputs = [401.0] * 500
    rounds = rounds_needed(outputs, law, np.random.default_rng(0))
    mean = float(law @ [1, 2, 3])
    assert np.mean(rounds) == pytest.approx(400 / mean + 0.3, rel=0.01)  # the last overshoots
    assert rounds_needed(outputs, None, np.random.default_rng(0)) == [400] * 500
    tree = law_of_mean(2.6, 5)
    assert float(tree @ np.arange(1, 7)) == pytest.approx(2.6)
