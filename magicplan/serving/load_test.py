"""One server, or a fleet of them, put to a load: what it does, and how much of it it bears."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from operator import attrgetter
from typing import Literal

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.roofline.memory import kv_sequence_bytes
from magicplan.roofline.traffic import FULL
from magicplan.serving.load import Load
from magicplan.serving.outcome import SimulationOutcome, outcome_of
from magicplan.serving.policies import POLICIES, Policy, ServerRules
from magicplan.serving.replica import Replica, Speculation, one_of, room_of, shapes_of
from magicplan.serving.requests import SimulatedRequest, law_of_mean, law_of_survival, rounds_needed
from magicplan.serving.simulation import Engine
from magicplan.serving.step_table import StepTable, step_table

Routing = Literal["random", "round-robin", "least-outstanding", "sticky"]
ROUTINGS: tuple[Routing, ...] = ("random", "round-robin", "least-outstanding", "sticky")
TURNAROUND_SECONDS = 1e-4
"""Seconds from the end of an answer to its client's next request: the next step has begun."""

Handover = Callable[[SimulatedRequest], float]
"""Seconds until the cache of a prompt has reached the engine that decodes."""


@dataclass(slots=True, eq=False, kw_only=True)
class Fleet:
    """Engines that decode (and prefill, unless others do), and the clock that moves them all.

    `entry_seconds` pass at the host before a request can be scheduled. `ask_next` says who asks
    again, and when, once an answer has ended. Where `prefill` engines are given, a request is
    computed there and its cache moves for `handover` seconds.
    """

    engines: Sequence[Engine]
    routing: Routing = "random"
    prefill: Sequence[Engine] = ()
    handover: Handover = lambda _: 0.0
    entry_seconds: float = 0.0
    ask_next: Callable[[SimulatedRequest], tuple[float, SimulatedRequest] | None] | None = None
    due: list[tuple[float, int, SimulatedRequest, bool]] = field(default_factory=list)
    """When, whichever came first, who, and whether its prompt is computed."""
    answered: list[SimulatedRequest] = field(default_factory=list)
    order: count[int] = field(default_factory=count)
    turn: int = 0

    def ask(self, request: SimulatedRequest, now: float) -> None:
        """A request is sent at `now`."""
        request.arrived = now
        heapq.heappush(self.due, (now + self.entry_seconds, next(self.order), request, False))

    def run(
        self, requests: Iterable[SimulatedRequest], most: float = math.inf
    ) -> list[SimulatedRequest]:
        """Answer everybody, or as many as `most`; the answers in the order of their ends."""
        for request in requests:
            self.ask(request, request.arrived)
        engines = [*self.engines, *self.prefill]
        alone, due = engines[0] if len(engines) == 1 else None, self.due
        while len(self.answered) < most:
            engine = alone or min(engines, key=_ends)
            if due and due[0][0] <= engine.ends:
                self._receive()
            elif engine.ends < math.inf:
                if ended := engine.advance():
                    self._answer(engine, ended)
            else:
                break
        return self.answered

    def _receive(self) -> None:
        """Everybody who comes at this instant; idle engines then begin."""
        now = self.due[0][0]
        idle = []
        while self.due and self.due[0][0] == now:
            _, _, request, computed = heapq.heappop(self.due)
            direct = computed or not self.prefill
            engine = self._routed(request, self.engines if direct else self.prefill)
            if engine.ends == math.inf and engine not in idle:
                idle.append(engine)
            engine.submit(request, now)
        for engine in idle:
            engine.start(now)

    def _routed(self, request: SimulatedRequest, engines: Sequence[Engine]) -> Engine:
        if len(engines) == 1:
            return engines[0]
        if self.routing == "least-outstanding":
            return min(engines, key=lambda e: e.outstanding)
        if self.routing == "round-robin":
            self.turn += 1
            return engines[self.turn % len(engines)]
        alone = self.routing == "random" or request.session < 0
        return engines[placed(request.number if alone else request.session, len(engines))]

    def _answer(self, engine: Engine, ended: list[SimulatedRequest]) -> None:
        for request in ended:
            if engine.only_prompts and self.prefill:
                self._hand_over(request)
                continue
            self.answered.append(request)
            self._follow(request)

    def _follow(self, request: SimulatedRequest) -> None:
        following = self.ask_next(request) if self.ask_next else None
        if following is not None:
            self.ask(following[1], following[0])

    def _hand_over(self, request: SimulatedRequest) -> None:
        """Its first token is seen when its cache has arrived."""
        now = request.ended + self.handover(request)
        request.first = request.last = now
        request.cached, request.emitted = request.prompt, 1.0
        if not request.rounds:
            request.ended = now
            self.answered.append(request)
            self._follow(request)
            return
        request.ended = math.nan
        heapq.heappush(self.due, (now, next(self.order), request, True))


_ends = attrgetter("ends")


def placed(number: int, engines: int) -> int:
    """An engine drawn by number: the same of as many engines whenever it is asked, and as random
    as a hash (SplitMix64)."""
    z = (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return ((z ^ (z >> 31)) * engines) >> 64


Role = Literal["both", "prefill", "decode"]
Limits = Mapping[str, float]
LARGEST_WAVE = 500
"""Requests at once beyond which more bring little more throughput."""
BLOCK = 100
"""Requests that hold lengths of every kind in their share."""
MORE, NOISE = 1.4, 6.0
"""Times, and standard deviations, by which more requests are under way at the end than in the
middle where the queue grows."""
BACKLOG = 2.0
"""Times the time to first token of the first half of the requests that the second half waits
where a queue grows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """Everything that a simulation of one replica depends on besides the load's intensity."""

    server: ServerRules
    times: StepTable
    load: Load
    law: Array | None
    """Probabilities of 1, 2, ... tokens a round; None without speculation."""
    stages: int = 1
    """Pipeline stages: as many micro-batches with requests and cache of their own."""
    entry_seconds: float = 0.0
    moving_seconds_per_token: float = 0.0
    """Seconds a prompt token until the prompt's cache has left an engine that only prefills."""

    def slower(self, factor: float) -> Setup:
        """This setup with all steps longer by a factor."""
        return replace(self, times=self.times.slower(factor))

    def engines(self, replicas: int = 1, *, only_prompts: bool = False) -> list[Engine]:
        """Idle engines of so many replicas."""
        return [
            Engine(server=self.server, times=self.times, only_prompts=only_prompts)
            for _ in range(replicas * self.stages)
        ]


def setup_of(
    r: Replica, layout: int, spec: Speculation, gamma: int, depth: int, policy: Policy | None = None
) -> Setup:
    """One layout of a replica, drafting `gamma` tokens in `depth` levels."""
    one = one_of(r.layout, layout)
    stages = int(np.asarray(one.pp).reshape(-1)[0])
    load = r.load
    server = ServerRules(
        policy=policy or POLICIES["vllm"],
        budget_tokens=int(r.limits.batched_tokens),
        max_sequences=max(int(r.limits.max_sequences) // stages, 1),
        capacity_tokens=math.floor(kv_tokens(r, layout, spec, gamma) / stages),
        gamma=gamma,
        shared_tokens=load.shared_prefix_tokens,
    )
    return Setup(
        server=server,
        times=step_table(r, layout, spec, gamma, depth),
        load=load,
        law=_law(r, spec, gamma, depth),
        stages=stages,
        entry_seconds=r.machine.calibration.host.request_seconds,
        moving_seconds_per_token=_moving(r, layout),
    )


def _law(r: Replica, spec: Speculation, gamma: int, depth: int) -> Array | None:
    """Tokens a round, from the acceptance model: a chain's own law, a tree's mean."""
    if not gamma or spec.draft is None or spec.acceptance is None:
        return None
    if gamma == depth:
        ctx = np.asarray(r.contexts.mean())
        return law_of_survival(spec.acceptance.survival(gamma, ctx, spec.draft.budget_tokens))
    shapes = shapes_of(r, spec)
    at = np.flatnonzero((shapes.gamma == gamma) & (shapes.depth == depth))[0]
    return law_of_mean(float(shapes.tokens_per_round[at]), depth)


def kv_tokens(r: Replica, layout: int, spec: Speculation, gamma: int) -> float:
    """Tokens that the cache of a replica holds beside weights, draft, workspace and what all
    requests share."""
    room = room_of(r, spec, float(gamma))
    mean = float(np.maximum(r.contexts - r.load.shared_prefix_tokens, 1.0).mean())
    one = one_of(r.layout, layout)
    token = float(np.max(kv_sequence_bytes(r.model, one, 1.0, FULL)))
    each = float(room.request_bytes[layout]) / mean
    return float(room.free_bytes[layout]) / max(each, token * 1e-9)


def _moving(r: Replica, layout: int) -> float:
    """Over each GPU's PCIe or network port."""
    a, one = r.machine.accelerator, one_of(r.layout, layout)
    port = a.pcie_bytes_per_s or a.link_bytes_per_s or math.inf
    gpus = float(np.asarray(one.gpus_per_replica).reshape(-1)[0])
    return float(np.max(kv_sequence_bytes(r.model, one, 1.0, FULL))) / (port * gpus)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """What chance decides of a load, by seed: the same for every server and every intensity."""

    gaps: Array
    """Gaps between arrivals, of mean 1."""
    prompt: Array
    output: Array
    cached: Array
    pauses: Array
    seed: int
    rounds: dict[int, list[int]] = field(default_factory=dict)
    """Decoding rounds of each request, by the hash of a law of tokens a round."""

    def rounds_of(self, law: Array | None) -> list[int]:
        """Decoding rounds of each request under a law of tokens a round."""
        key = hash(law.tobytes()) if law is not None else 0
        if key not in self.rounds:
            rng = np.random.default_rng([self.seed, 3])
            self.rounds[key] = rounds_needed(self.output.tolist(), law, rng)
        return self.rounds[key]


def drawn(load: Load, count: int, seed: int) -> Draws:
    """Requests of the load's sample, again and again, and when they come. The first of more
    requests are those of fewer, their gaps apart."""
    order_rng, gap_rng, pause_rng = (np.random.default_rng([seed, part]) for part in range(3))
    size = load.lengths.prompt.size
    rounds = math.ceil(count / size)
    order = np.concatenate([_order(load, order_rng) for _ in range(rounds)])[:count]
    return Draws(
        gaps=_gaps(load.arrival_cv2, count, gap_rng), prompt=load.lengths.prompt[order],
        output=load.lengths.output[order], cached=load.cached[order],
        pauses=pause_rng.exponential(1.0, count) * load.think_seconds, seed=seed,
    )  # fmt: skip


def _order(load: Load, rng: np.random.Generator) -> Array:
    """The sample in random order, by blocks of about `BLOCK` that each hold prompts and outputs of
    every length in their share, so that a short run meets what a long one does."""
    prompt, output = load.lengths.prompt, load.lengths.output
    tenth = np.argsort(np.argsort(prompt, kind="stable")) * 10 // prompt.size
    ranked = np.lexsort((output, tenth))
    blocks = max(prompt.size // BLOCK, 1)
    return np.concatenate([rng.permutation(ranked[k::blocks]) for k in rng.permutation(blocks)])


def _gaps(cv2: float, count: int, rng: np.random.Generator) -> Array:
    """Gaps of mean 1 and squared variation `cv2`: those of a Poisson process for 1, from equal
    strata, so that a short run has the rate it should; gamma ones below, as a load generator with
    burstiness draws; above, bursts of geometric size that come at once."""
    if cv2 < 1:
        gaps = rng.gamma(1 / cv2, cv2, count) if cv2 > 0 else np.ones(count)
        return np.asarray(gaps / gaps.mean())
    burst = (1 + cv2) / 2
    strata = [(rng.permutation(count) + rng.random(count)) / count for _ in range(2)]
    return np.where(strata[0] < 1 / burst, -np.log1p(-strata[1]) * burst, 0.0)


def asked(draws: Draws, law: Array | None, requests_per_s: float) -> list[SimulatedRequest]:
    """The requests, arriving at a rate; all at once where it is infinite."""
    times = np.cumsum(draws.gaps) / requests_per_s if math.isfinite(requests_per_s) else (
        np.zeros(draws.gaps.size)
    )  # fmt: skip
    columns = (times, draws.prompt, draws.output, draws.cached, draws.pauses)
    lists = [column.tolist() for column in columns]
    return [
        SimulatedRequest(
            number=n, arrived=at, prompt=prompt, output=output, rounds=rounds, cached=cached,
            pause=pause,
        )
        for n, (rounds, at, prompt, output, cached, pause) in enumerate(
            zip(draws.rounds_of(law), *lists, strict=True)
        )
    ]  # fmt: skip


def simulate(
    setup: Setup, draws: Draws, *, requests_per_s: float = math.inf, users: int | None = None,
    replicas: int = 1, prefill_replicas: int = 0, routing: Routing = "least-outstanding",
    whole: bool = False, role: Role = "both",
) -> SimulationOutcome:  # fmt: skip
    """Put replicas to a load: requests at a rate, or no more than `users` of them in flight, who
    take turns of a request and a pause, or both. `prefill_replicas` compute their prompts, if there
    are any. A replica whose `role` is `prefill` answers with the first token; one that decodes is
    handed computed prompts."""
    engines = setup.engines(replicas, only_prompts=role == "prefill")
    pool = setup.engines(prefill_replicas, only_prompts=True)
    requests = asked(draws, setup.law, requests_per_s)
    fleet = Fleet(
        engines=engines, prefill=pool, routing=routing, entry_seconds=setup.entry_seconds,
        handover=lambda r: r.prompt * setup.moving_seconds_per_token,
    )  # fmt: skip
    if role == "decode":
        requests = [r for r in requests if r.rounds]
        for r in requests:
            r.cached, r.emitted, r.first, r.last = r.prompt, 1.0, r.arrived, r.arrived
        fleet.entry_seconds = 0.0
    if users is None:
        fleet.run(requests)
        return outcome_of(requests, engines, whole=whole)
    following = iter(requests[users:])

    def again(answered: SimulatedRequest) -> tuple[float, SimulatedRequest] | None:
        request = next(following, None)
        if request is None:
            return None
        turn = answered.ended + max(answered.pause, TURNAROUND_SECONDS)
        return max(turn, request.arrived), request

    fleet.ask_next = again
    for request in requests[:users]:
        request.arrived += request.pause
    fleet.run(requests[:users])
    return outcome_of(sorted(requests, key=lambda r: r.arrived), engines, whole=whole)


def stable(outcome: SimulationOutcome) -> bool:
    """Whether the queue does not grow: late requests wait no longer than early ones."""
    middle, last = outcome.backlog
    if last > MORE * middle + NOISE * math.sqrt(middle) + 10:
        return False
    half = outcome.ttft.size // 2
    if half < 50:
        return True
    early, late = outcome.ttft[:half].mean(), outcome.ttft[half:].mean()
    waits = late - early > outcome.step_seconds * 10
    return not (waits and late > BACKLOG * early)


def saturation(setup: Setup, most: float = LARGEST_WAVE) -> float:
    """Requests a second of one replica whose queue never empties: three times as many as run at
    once (`most`, no more than `LARGEST_WAVE` are looked at) come together, and the middle third of
    their ends is timed, in which as many start as end."""
    server, stages = setup.server, setup.stages
    wave = max(int(min(most, server.slots * stages, LARGEST_WAVE)), stages)
    slots = max(wave // stages, 1)
    held = replace(setup, server=replace(server, max_sequences=slots))
    engines = held.engines()
    requests = asked(drawn(setup.load, 3 * wave, seed=0), setup.law, math.inf)
    Fleet(engines=engines, routing="least-outstanding").run(requests)
    ends = sorted(r.ended for r in requests)
    return wave / (ends[2 * wave - 1] - ends[wave - 1])
