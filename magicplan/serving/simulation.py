"""The steady state's slow plain twin: the same scheduler, request by request, in SimPy.

What is checked is everything that the closed form averages away: who decodes with whom, which
prompts meet, who waits for what. Each of as many micro-batches as there are pipeline stages keeps
its requests, from their first chunk on, and takes new ones up to its share of all (vLLM's virtual
engines, SGLang's limit for each micro-batch); steps follow each other through the stages and do not
overtake. Replicas that only prefill hand over what they computed.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magicplan.errors import MissingExtra
from magicplan.roofline.deployment import Array
from magicplan.serving.replica import Replica, Speculation
from magicplan.serving.simulated_clients import Clients, Job, jobs_of, pauses_of, waits_of
from magicplan.serving.simulated_steps import (
    Accept,
    Clock,
    acceptor,
    kv_tokens,
    moving_seconds,
    stages_of,
    step_clock,
)


@dataclass(slots=True, eq=False)
class MicroBatch:
    """Requests that pass the stages together, and the step that they are in."""

    jobs: list[Job] = field(default_factory=list)
    under_way: bool = False
    decoding: list[Job] = field(default_factory=list)
    chunks: list[tuple[Job, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """What a simulated server did between warm-up and end."""

    tokens_per_s: float
    ttft: Array
    tpot: Array
    e2e: Array
    gaps: Array
    """Between tokens of a request; 0 between those of one round."""
    preemptions: int
    steps: int


@dataclass(slots=True, kw_only=True, eq=False)
class Engine:
    """State of one replica."""

    env: Any
    clock: Clock
    accept: Accept
    capacity: float
    """KV tokens."""
    budget: int
    most: int
    width: int
    """Tokens fed for each decoding request."""
    shared: int
    """Prompt tokens that all requests hold together."""
    stages: int
    hand_over: Callable[[Job], None] | None
    """Where a request goes whose first token is due; None if it stays."""
    finished: Callable[[Job], None]
    waiting: deque[Job] = field(default_factory=deque)
    micro_batches: list[MicroBatch] = field(default_factory=list)
    free_at: list[float] = field(default_factory=list)
    """When each stage has done what it was given."""
    called: bool = False
    preemptions: int = 0
    steps: int = 0
    emitted: list[tuple[float, int]] = field(default_factory=list)
    gaps: list[tuple[float, float, int]] = field(default_factory=list)
    """When, seconds since the request's token before, tokens that came with it."""

    def __post_init__(self) -> None:
        self.micro_batches = [MicroBatch() for _ in range(self.stages)]
        self.free_at = [0.0] * self.stages

    @property
    def running(self) -> list[Job]:
        """Requests that hold cache."""
        return list(itertools.chain.from_iterable(b.jobs for b in self.micro_batches))

    def submit(self, job: Job) -> None:
        """A request arrives; it starts with all that arrive at the same instant."""
        self.waiting.append(job)
        if not self.called:
            self.called = True
            self.env.timeout(0).callbacks.append(self._called)

    def _called(self, _: Any) -> None:
        self.called = False
        self._turn()

    def _turn(self) -> None:
        """Send out every micro-batch that is here and has work."""
        for batch in self.micro_batches:
            if batch.under_way or not self._schedule(batch):
                continue
            batch.under_way = True
            self.steps += 1
            leaves = self._through_the_stages(batch)
            self.env.timeout(leaves - self.env.now, batch).callbacks.append(self._advance)

    def _through_the_stages(self, batch: MicroBatch) -> float:
        """When it leaves the last one: in each it follows the step before it."""
        count = len(batch.decoding)
        all_decoding = sum(job.ready for job in self.running) if self.stages > 1 else count
        ctx = sum(j.prompt + j.emitted for j in batch.decoding) / max(count, 1)
        work = [(take, job.prompt - job.todo) for job, take in batch.chunks]
        each = self.clock(count, all_decoding, ctx, work) / self.stages
        at = float(self.env.now)
        for stage, free in enumerate(self.free_at):
            at = max(at, free) + each
            self.free_at[stage] = at
        return at

    def _held(self, job: Job) -> int:
        return max(job.prompt - job.todo + job.emitted - self.shared, 1)

    def _schedule(self, batch: MicroBatch) -> bool:
        """Decode tokens first, then prompts under way, then new ones while there is room; whether
        there is anything to do."""
        running = self.running
        used = self._preempt(batch, running)
        share = math.ceil((len(running) + len(self.waiting)) / self.stages)
        decoding = [j for j in batch.jobs if j.ready]
        left, chunks = self.budget - self.width * len(decoding), []
        for job in batch.jobs:
            if job.todo and left > 0:
                chunks.append((job, min(job.todo, left)))
                left -= chunks[-1][1]
        free, count = self.capacity - used - sum(take for _, take in chunks), len(running)
        while self.waiting and left > 0 and count < self.most and len(batch.jobs) < share:
            job = self.waiting[0]
            needed = max(job.prompt + job.emitted - self.shared, 1)
            if free < needed:
                break
            batch.jobs.append(self.waiting.popleft())
            free, count = free - needed, count + 1
            if job.todo:
                chunks.append((job, min(job.todo, left)))
                left -= chunks[-1][1]
            else:  # computed elsewhere
                job.ready = True
                decoding.append(job)
                left -= self.width
        batch.decoding, batch.chunks = decoding, chunks
        return bool(decoding or chunks)

    def _preempt(self, batch: MicroBatch, running: list[Job]) -> float:
        """The latest give up their cache and start over, as in vLLM's recomputation, until the
        rest fits; the tokens that it holds."""
        used = float(sum(map(self._held, running)))
        while len(running) > 1 and batch.jobs:
            if used + self.width * len(running) <= self.capacity:
                break
            job = batch.jobs.pop()
            running.remove(job)
            used -= self._held(job)
            job.prompt, job.output = job.prompt + job.emitted, job.output - job.emitted
            job.todo, job.emitted, job.ready = job.prompt, 0, False
            self.waiting.appendleft(job)
            self.preemptions += 1
        return used

    def _advance(self, event: Any) -> None:
        """A micro-batch has left the last stage."""
        batch, now, count = event.value, self.env.now, 0
        batch.under_way = False
        for job, take in batch.chunks:
            job.todo -= take
            if job.todo:
                continue
            job.ready = True
            if self.hand_over is not None:
                batch.jobs.remove(job)
                self.hand_over(job)
                continue
            if math.isnan(job.first):
                job.first = now
            else:  # started over
                self.gaps.append((now, now - job.last, 1))
            job.last = now
            job.emitted += 1
            count += 1
        for job, accepted in zip(batch.decoding, self.accept(len(batch.decoding)), strict=True):
            got = min(int(accepted), job.output - job.emitted)
            job.emitted += got
            count += got
            self.gaps.append((now, now - job.last, got))
            job.last = now
        self.emitted.append((now, count))
        ended = [j for j in batch.jobs if j.ready and j.emitted >= j.output]
        for job in ended:
            batch.jobs.remove(job)
            self.finished(job)
        self._turn()


def simulate(
    r: Replica, spec: Speculation, *, requests: int, seed: int, concurrency: int | None = None,
    replicas: int = 1, prefill_replicas: int = 0,
) -> Simulated:  # fmt: skip
    """Replicas of one layout and a fixed draft length under the load of `r`.

    `concurrency` users take turns of a request and the load's time to think, if any; otherwise
    requests arrive at random at the load's rate. They are spread over `replicas` at random, by way
    of `prefill_replicas` if there are any. A quarter of the requests warms up and is not counted;
    more keep coming until all that count are answered. Raises MissingExtra.
    """
    try:
        import simpy
    except ImportError:
        raise MissingExtra("the serving simulation (simpy)", "dev") from None
    rng = np.random.default_rng(seed)
    env = simpy.Environment()
    clients = Clients(
        env=env, jobs=jobs_of(r, requests, rng), entry_seconds=r.prefill.request_seconds,
        unfinished=requests,
    )  # fmt: skip
    clock = step_clock(r, spec)

    def engines(count: int, hand_over: Callable[[Job], None] | None) -> list[Engine]:
        return [
            Engine(
                env=env, clock=clock, accept=acceptor(r, spec, rng), capacity=kv_tokens(r, spec),
                budget=int(r.limits.batched_tokens), most=int(r.limits.max_sequences),
                width=(spec.gamma or 0) + 1, shared=int(r.load.shared_prefix_tokens),
                stages=stages_of(r), hand_over=hand_over, finished=clients.finished,
            )
            for _ in range(count)
        ]  # fmt: skip

    decoding = engines(replicas, None)
    clients.submit = _spread(decoding, rng)
    if prefill_replicas:
        moving, take_over = moving_seconds(r), clients.submit

        def arrived(event: Any) -> None:
            job = event.value
            job.first = job.last = env.now
            job.emitted = 1
            decoding[0].emitted.append((env.now, 1))
            take_over(job) if job.output > 1 else clients.finished(job)

        def hand_over(job: Job) -> None:
            env.timeout(moving(job.prompt), job).callbacks.append(arrived)

        clients.submit = _spread(engines(prefill_replicas, hand_over), rng)
    if concurrency is None:
        env.process(clients.arrive(waits_of(r, requests, rng)))
    else:
        clients.pause = pauses_of(r.load.think_seconds, rng)
        for _ in range(concurrency):
            clients.ask(clients.pause())
    while clients.unfinished:
        env.step()
    return _result(clients.asked[requests // 4 : requests], decoding)


def _spread(engines: list[Engine], rng: np.random.Generator) -> Callable[[Job], None]:
    """Each request to any replica."""
    if len(engines) == 1:
        return engines[0].submit
    return lambda job: engines[rng.integers(len(engines))].submit(job)


def _result(jobs: list[Job], engines: list[Engine]) -> Simulated:
    """Latencies of these requests; rates and gaps between the first and the last that arrive."""
    start, end = jobs[0].arrived, jobs[-1].arrived
    outputs = np.asarray([job.asked for job in jobs], dtype=np.float64)
    arrived, first, ended = (
        np.asarray([getattr(job, name) for job in jobs]) for name in ("arrived", "first", "ended")
    )
    tokens = sum(count for e in engines for at, count in e.emitted if start < at <= end)
    gaps = np.asarray([g for e in engines for g in e.gaps if start < g[0] <= end])
    between = np.zeros(int(gaps[:, 2].sum()))
    between[: len(gaps)] = gaps[:, 1]
    return Simulated(
        tokens_per_s=tokens / (end - start),
        ttft=first - arrived,
        tpot=((ended - first) / np.maximum(outputs - 1, 1))[outputs > 1],
        e2e=ended - arrived,
        gaps=between,
        preemptions=sum(e.preemptions for e in engines),
        steps=sum(e.steps for e in engines),
    )
