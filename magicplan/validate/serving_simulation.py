"""The steady state's slow plain twin: the same scheduler, request by request, in SimPy.

Step times come from the same tables as the closed form; what is checked is everything that the
closed form averages away: who decodes with whom, which prompts meet, who waits for what.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magicplan.errors import MissingExtra
from magicplan.planning.engine import decode_seconds
from magicplan.planning.replica import Replica, Speculation, prompts_of, room_of, rounds_of
from magicplan.roofline.acceptance import conditional_from_marginal
from magicplan.roofline.deployment import Array
from magicplan.roofline.memory import kv_sequence_bytes
from magicplan.roofline.traffic import FULL

TURNAROUND = 1e-4
"""Seconds from the end of an answer to its client's next request: the next step has begun."""


@dataclass(slots=True)
class _Job:
    """One request on its way."""

    arrived: float
    prompt: int
    output: int
    cached: int
    todo: int
    """Prompt tokens still to compute."""
    emitted: int = 0
    first: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """What a simulated server did between warm-up and end."""

    tokens_per_s: float
    ttft: Array
    tpot: Array
    e2e: Array
    preemptions: int
    steps: int


@dataclass(slots=True, kw_only=True)
class _Server:
    """State of the engine; `step_seconds(decoding, mean ctx, chunks)` is its clock."""

    env: Any
    step_seconds: Callable[[int, float, list[tuple[int, int]]], float]
    accept: Callable[[int], np.ndarray[Any, Any]]
    capacity: float
    """KV tokens."""
    entry_seconds: float
    """Of a request at the host, before it can be scheduled."""
    budget: int
    most: int
    width: int
    """Tokens fed for each decoding request."""
    waiting: deque[_Job] = field(default_factory=deque)
    running: list[_Job] = field(default_factory=list)
    done: list[tuple[_Job, float]] = field(default_factory=list)
    finished: Callable[[_Job], None] = lambda _: None
    wake: Any = None
    preemptions: int = 0
    steps: int = 0
    emitted: list[tuple[float, int]] = field(default_factory=list)

    def used(self) -> float:
        """KV tokens held by running requests."""
        return float(sum(j.prompt - j.todo + j.emitted for j in self.running))

    def submit(self, job: _Job) -> None:
        """A request arrives."""
        self.waiting.append(job)
        if self.wake is not None and not self.wake.triggered:
            self.wake.succeed()

    def run(self) -> Generator[Any, Any, None]:
        """Step after step; asleep while there is nothing to do."""
        while True:
            chunks = self._schedule()
            if not self.running:
                self.wake = self.env.event()
                yield self.wake
                continue
            decoding = [j for j in self.running if not j.todo]
            ctx = sum(j.prompt + j.emitted for j in decoding) / max(len(decoding), 1)
            work = [(take, j.prompt - j.todo) for j, take in chunks]
            yield self.env.timeout(self.step_seconds(len(decoding), ctx, work))
            self.steps += 1
            self._advance(decoding, chunks)

    def _schedule(self) -> list[tuple[_Job, int]]:
        """Decode tokens first, then prompts under way, then new ones while there is room."""
        self._preempt()
        left = self.budget - self.width * sum(not j.todo for j in self.running)
        chunks = []
        for job in self.running:
            if job.todo and left > 0:
                take = min(job.todo, left)
                chunks.append((job, take))
                left -= take
        free = self.capacity - self.used() - sum(take for _, take in chunks)
        while self.waiting and left > 0 and len(self.running) < self.most:
            job = self.waiting[0]
            if free < job.prompt:
                break
            self.running.append(self.waiting.popleft())
            take = min(job.todo, left)
            chunks.append((job, take))
            left, free = left - take, free - job.prompt
        return chunks

    def _preempt(self) -> None:
        """The latest give up their cache and start over, as in vLLM's recomputation."""
        needed = self.width * len(self.running)
        while len(self.running) > 1 and self.used() + needed > self.capacity:
            job = self.running.pop()
            job.todo, job.cached = job.prompt + job.emitted, 0
            job.prompt, job.output = job.prompt + job.emitted, job.output - job.emitted
            job.emitted = 0
            self.waiting.appendleft(job)
            self.preemptions += 1

    def _advance(self, decoding: list[_Job], chunks: list[tuple[_Job, int]]) -> None:
        now, count = self.env.now, 0
        for job, take in chunks:
            job.todo -= take
            if not job.todo:
                job.first = now if math.isnan(job.first) else job.first
                job.emitted += 1
                count += 1
        for job, accepted in zip(decoding, self.accept(len(decoding)), strict=True):
            got = min(int(accepted), job.output - job.emitted)
            job.emitted += got
            count += got
        self.emitted.append((now, count))
        ended = [j for j in self.running if not j.todo and j.emitted >= j.output]
        if ended:
            self.running = [j for j in self.running if j.todo or j.emitted < j.output]
        for job in ended:
            self.done.append((job, now))
            self.finished(job)


def simulate(
    r: Replica, spec: Speculation, *, requests: int, seed: int, concurrency: int | None = None
) -> Simulated:
    """One replica with one layout and a fixed draft length under the load of `r`.

    `concurrency` users take turns of a request and the load's time to think, if any; otherwise
    requests arrive at random at the load's rate. A fifth of the requests warms up and is not
    counted. Raises MissingExtra.
    """
    try:
        import simpy
    except ImportError:
        raise MissingExtra("the serving simulation (simpy)", "dev") from None
    rng = np.random.default_rng(seed)
    env = simpy.Environment()
    server = _Server(
        env=env,
        step_seconds=step_clock(r, spec),
        accept=acceptor(r, spec, rng),
        capacity=kv_tokens(r, spec),
        entry_seconds=r.prefill.request_seconds,
        budget=int(r.limits.batched_tokens),
        most=int(r.limits.max_sequences),
        width=(spec.gamma or 0) + 1,
    )
    jobs = _jobs(r, requests + (concurrency or 0), rng)
    budgets = {id(job): (job.output, job.arrived) for job in jobs}
    env.process(server.run())
    if concurrency is None:
        env.process(_arrivals(env, server, jobs, budgets, r.load.requests_per_s, rng))
    else:
        _closed(env, server, jobs, budgets, concurrency, _pauses(r.load.think_seconds, rng))
    while len(server.done) < requests and env.peek() < math.inf:
        env.step()
    return _result(server, budgets, requests // 5)


def _jobs(r: Replica, requests: int, rng: np.random.Generator) -> list[_Job]:
    picks = rng.integers(0, r.load.lengths.prompt.size, requests)
    prompt, output, cached = (
        values[picks].astype(int)
        for values in (r.load.lengths.prompt, r.load.lengths.output, r.load.cached)
    )
    return [
        _Job(arrived=0.0, prompt=int(p), output=int(o), cached=int(c), todo=int(p - c))
        for p, o, c in zip(prompt, output, cached, strict=True)
    ]


def _arrivals(
    env: Any, server: _Server, jobs: list[_Job], budgets: dict[int, Any], rate: float, rng: Any
) -> Generator[Any, Any, None]:
    for job in jobs:
        yield env.timeout(rng.exponential(1 / rate))
        env.process(_enter(env, server, job, budgets))


def _enter(
    env: Any, server: _Server, job: _Job, budgets: dict[int, Any]
) -> Generator[Any, Any, None]:
    job.arrived = env.now
    budgets[id(job)] = (job.output, env.now)
    yield env.timeout(server.entry_seconds)
    server.submit(job)


def _pauses(think_seconds: float, rng: np.random.Generator) -> Callable[[], float]:
    """Seconds from the end of an answer to the same user's next request."""
    if not think_seconds:
        return lambda: TURNAROUND
    return lambda: float(rng.exponential(think_seconds))


def _closed(
    env: Any, server: _Server, jobs: list[_Job], budgets: dict[int, Any], concurrency: int,
    pause: Callable[[], float],
) -> None:  # fmt: skip
    """Each finished request is replaced as soon as its user has paused."""
    left = deque(jobs)

    def turn() -> Generator[Any, Any, None]:
        yield env.timeout(pause())
        yield from _enter(env, server, left.popleft(), budgets)

    def refill(_: _Job) -> None:
        if left:
            env.process(turn())

    server.finished = refill
    for _ in range(min(concurrency, len(jobs))):
        refill(jobs[0])


def _result(server: _Server, budgets: dict[int, Any], warm: int) -> Simulated:
    kept = server.done[warm:]
    start, end = server.done[warm - 1][1] if warm else 0.0, kept[-1][1]
    outputs = np.asarray([budgets[id(job)][0] for job, _ in kept], dtype=np.float64)
    arrived = np.asarray([budgets[id(job)][1] for job, _ in kept])
    first = np.asarray([job.first for job, _ in kept])
    ended = np.asarray([at for _, at in kept])
    decoded = np.maximum(outputs - 1, 1)
    tokens = sum(count for at, count in server.emitted if start < at <= end)
    return Simulated(
        tokens_per_s=tokens / (end - start),
        ttft=first - arrived,
        tpot=((ended - first) / decoded)[outputs > 1],
        e2e=ended - arrived,
        preemptions=server.preemptions,
        steps=server.steps,
    )


def kv_tokens(r: Replica, spec: Speculation) -> float:
    """Tokens that the cache holds beside weights, draft and workspace."""
    room = room_of(r, spec)
    token = float(np.max(kv_sequence_bytes(r.model, r.layout, 1.0, FULL)))
    mean = float(r.contexts.mean())
    each = float(room.request_bytes[0]) / mean
    return float(room.free_bytes[0]) / max(each, token * 1e-9)


def step_clock(
    r: Replica, spec: Speculation
) -> Callable[[int, float, list[tuple[int, int]]], float]:
    """Seconds of a step that decodes `count` requests of mean context `ctx` and computes chunks
    of (new, cached) prompt tokens."""
    gamma = spec.gamma or 0
    batch = r.batch[r.batch >= 1]
    longest = float((r.load.lengths.prompt + r.load.lengths.output).max())
    ladder = np.linspace(1.0, longest, 24)
    flat = decode_seconds(
        r.model, r.layout, r.machine, np.repeat(batch, 24),
        np.tile(ladder, batch.size)[:, None],
        np.asarray([gamma + 1.0]), r.limits.kv_passes,
    )[0, :, 0].reshape(batch.size, 24)  # fmt: skip
    rounds = rounds_of(r, spec)
    drafting = rounds.draft_seconds[0, r.batch >= 1]
    prompts, table = prompts_of(r, spec), r.table
    host = r.machine.calibration.host
    at_rows = np.arange(1.0, table.rows[-1])
    by_rows = np.interp(at_rows, table.rows, table.seconds[0])
    alone = float(flat[0, 0]) - float(by_rows[gamma])  # sampling, host and launches of one request

    def clock(count: int, ctx: float, chunks: list[tuple[int, int]]) -> float:
        if count:
            row = float(np.interp(count, batch, np.arange(batch.size)))
            low = min(int(row), batch.size - 2)
            column = (min(ctx, longest) - 1.0) / (longest - 1.0) * 23
            left = min(int(column), 22)
            up, along = row - low, column - left
            corner = flat[low : low + 2, left : left + 2]
            lines = corner[:, 0] + along * (corner[:, 1] - corner[:, 0])
            seconds = float(lines[0] + up * (lines[1] - lines[0]))
            seconds += float(drafting[low] + up * (drafting[low + 1] - drafting[low]))
        else:
            seconds = alone
        if not chunks:
            return seconds
        rows, tokens = count * (gamma + 1), sum(new for new, _ in chunks)
        before = float(by_rows[rows - 1]) if rows else 0.0
        seconds += float(by_rows[rows + tokens - 1]) - before
        news = np.asarray([new for new, _ in chunks], dtype=np.float64)
        cached = np.asarray([c for _, c in chunks], dtype=np.float64)
        seconds += float(prompts.of(news, cached).sum())
        return seconds + len(chunks) * host.sequence_seconds

    return clock


def acceptor(
    r: Replica, spec: Speculation, rng: np.random.Generator
) -> Callable[[int], np.ndarray[Any, Any]]:
    """Tokens that each of `count` requests emits in a round, drawn from the acceptance model."""
    if spec.draft is None or spec.acceptance is None or not spec.gamma:
        return lambda count: np.ones(count, dtype=np.int64)
    ctx = np.asarray(r.contexts.mean())
    survival = spec.acceptance.survival(spec.gamma, ctx, spec.draft.budget_tokens)
    rates = conditional_from_marginal(np.asarray(survival, dtype=np.float64).reshape(-1))

    def accept(count: int) -> np.ndarray[Any, Any]:
        kept = rng.random((count, rates.size)) < rates
        return np.asarray(1 + np.cumprod(kept, axis=1).sum(axis=1))

    return accept
