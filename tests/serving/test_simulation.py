"""The fast simulation against its plain twin, and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magicplan.serving.fleet import Fleet
from magicplan.serving.outcome import gaps_of
from magicplan.serving.policies import POLICIES, Server
from magicplan.serving.requests import Request, rounds_needed
from magicplan.serving.simulation import Engine
from magicplan.serving.step_table import StepTable
from tests.serving.plain_server import PlainServer, walk


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
) -> list[Request]:  # fmt: skip
    rng = np.random.default_rng(seed)
    prompts = np.maximum(np.rint(prompt * np.exp(sigma * rng.standard_normal(count))), 2.0)
    outputs = np.maximum(np.rint(output * np.exp(sigma * rng.standard_normal(count))), 1.0)
    arrived = np.cumsum(rng.exponential(1 / rate, count)) if math.isfinite(rate) else [0.0] * count
    needed = rounds_needed(outputs.tolist(), None if law is None else np.asarray(law), rng)
    return [
        Request(
            number=i, arrived=float(a), prompt=float(p), output=float(o), rounds=n,
            session=i % users if users else -1,
        )
        for i, (a, p, o, n) in enumerate(zip(arrived, prompts, outputs, needed, strict=True))
    ]  # fmt: skip


def both(server: Server, times: StepTable, requests: list[Request]) -> None:
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


@settings(max_examples=100, deadline=None)
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
def test_the_fast_simulation_equals_its_plain_twin(
    seed: int, policy: str, rate: float, law: list[float] | None, budget: int, slots: int,
    room: float, shared: float, users: int,
) -> None:  # fmt: skip
    requests = some_requests(seed, 60, rate, law=law, users=users)
    longest = max(r.prompt + r.output for r in requests) + 64
    gamma = len(law) - 1 if law else 0
    server = Server(
        policy=POLICIES[policy], budget_tokens=budget, max_sequences=slots, gamma=gamma,
        capacity_tokens=math.inf if room == math.inf else math.floor(room * longest),
        shared_tokens=shared,
    )  # fmt: skip
    for r in requests:
        r.prompt += shared
    both(server, a_table(gamma + 1.0, shared, bend=3.0), requests)
