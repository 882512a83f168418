"""One engine under one policy, simulated from event to event.

Between two events (an arrival that may start, the end of a prompt chunk, a completion, a block
that cannot be had, a knot of the step table) the batch does not change, and its steps differ only
in a context that grows by the same tokens each. k such steps last k a + b (k C + E k (k - 1) / 2),
for a step of a + b times the total context C that grows by E. So a run of them is one arithmetic
step, and cost grows with requests and chunks, not with tokens. Sums are kept (requests that decode,
their contexts, tokens held), never loops over requests.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from magicplan.serving.policies import ServerRules
from magicplan.serving.requests import SimulatedRequest
from magicplan.serving.step_table import StepTable

Run = tuple[float, float, int, float, float, int, float]
"""Begin, end, steps, tokens held at either end, requests decoding, prompt tokens computed."""
Gap = tuple[float, float, float, int, int]
"""When the last of some steps ended, seconds between chunks of an answer in the first and in the
last of them (evenly in between), how many steps, and how many answers."""


@dataclass(slots=True, eq=False)
class Engine:
    """State of one engine. Whoever drives it submits requests in order of time, lets it `start`
    when it is idle, and calls `advance` when `ends` has come."""

    server: ServerRules
    times: StepTable
    only_prompts: bool = False
    """Whether a request leaves with its first token, to decode elsewhere."""
    ends: float = math.inf
    """When the run under way ends; infinite while there is nothing to do."""
    outstanding: int = 0
    """Requests submitted and not answered."""
    waiting: deque[SimulatedRequest] = field(default_factory=deque)
    runs: list[Run] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    preemptions: int = 0
    now: float = 0.0
    step: int = 0
    round: int = 0
    """Steps with decoding so far: a request's completion is counted in them."""
    decoding: int = 0
    """Requests in decoding steps, those that have ended and not left included."""
    context: float = 0.0
    growth: float = 0.0
    held: float = 0.0
    reserved: float = 0.0
    prefilling: list[SimulatedRequest] = field(default_factory=list)
    admitted: list[SimulatedRequest] = field(default_factory=list)
    """In order of admission; ended ones are dropped when they surface."""
    finishing: list[tuple[int, int, SimulatedRequest]] = field(default_factory=list)
    ghosts: list[SimulatedRequest] = field(default_factory=list)
    """Ended, and still in the batch."""
    streams: list[list[float]] = field(default_factory=list)
    """[time of the last token, requests] of those that decode: one entry unless some wait."""
    cache: OrderedDict[int, float] = field(default_factory=OrderedDict)
    """Tokens left behind by ended turns, by session, oldest first."""
    cached: float = 0.0
    slack: float = 0.0
    slots: int = 1
    mixes: bool = True
    reserves: bool = False
    capacity: float = math.inf
    # the run under way
    steps: int = 0
    chunks: list[tuple[SimulatedRequest, float]] = field(default_factory=list)
    decodes: bool = False
    start_seconds: float = 0.0
    """Seconds of the run's first step at no context; `slope` adds seconds a token of context."""
    slope: float = 0.0

    def __post_init__(self) -> None:
        self.slack, self.slots = self.server.slack_tokens, self.server.slots
        self.mixes, self.reserves = self.server.policy.mixes, self.server.policy.reserves_output
        self.capacity = self.server.capacity_tokens

    def submit(self, request: SimulatedRequest, now: float) -> None:
        """A request arrives; a run under way is cut at the first step that may take it."""
        request.left = request.rounds
        request.growth = (request.output - 1) / request.rounds if request.rounds else 0.0
        self.outstanding += 1
        self.waiting.append(request)
        if self.ends == math.inf:
            request.eligible = self.step
            return
        behind = 1 if self.server.policy.asynchronous else 0
        done = 1 if self.steps == 1 else self._steps_until(now)
        request.eligible = self.step + done + behind
        full = self.decoding + len(self.prefilling) >= self.slots
        if len(self.waiting) == 1 and not full and done + behind < self.steps:
            self.steps = done + behind
            self.ends = self.now + self._seconds(self.steps)

    def start(self, now: float) -> None:
        """An idle engine begins at once with what has arrived."""
        self.now = now
        self._plan()

    def advance(self) -> list[SimulatedRequest]:
        """The run under way ends; returns the requests that end with it."""
        begin, end, held, chunks = self.now, self.ends, self.held, self.chunks
        leaving, ended, computed = self.ghosts, list[SimulatedRequest](), 0.0
        if self.decodes:
            self._decode(begin, end)
            if self.finishing and self.finishing[0][0] <= self.round:
                ended = self._completed(end)
        for request, take in chunks:
            request.todo -= take
            request.held += take
            computed += take
        self.held += computed
        self.runs.append((begin, end, self.steps, held, self.held, self.decoding, computed))
        if self.cached:
            self._evict()
        self.now = end
        self.step += self.steps
        for request, _ in chunks:
            if not request.todo and self._prefilled(request, end):
                ended.append(request)
        if self.ghosts:
            self._leave(leaving)
        if ended:
            self.outstanding -= len(ended)
        self._plan()
        return ended

    # ---------------------------------------------------------------- steps under way

    def _seconds(self, steps: int) -> float:
        """Seconds of the first `steps` steps of the run."""
        grown = steps * self.context + self.growth * steps * (steps - 1) / 2
        return steps * self.start_seconds + self.slope * grown

    def _steps_until(self, now: float) -> int:
        """The first boundary of the run at or after `now`, by solving the quadratic."""
        passed = now - self.now
        half = self.slope * self.growth / 2
        first = self.start_seconds + self.slope * self.context - half
        root = math.sqrt(max(first * first + 4 * half * passed, 0.0))
        guess = 2 * passed / (first + root) if first + root > 0 else 1.0
        steps = min(max(math.ceil(guess - 1e-9), 1), self.steps)
        while steps < self.steps and self._seconds(steps) < passed:
            steps += 1
        return steps

    def _decode(self, begin: float, end: float) -> None:
        """All tokens of the run: gaps, contexts, cache."""
        steps, streams, growth = self.steps, self.streams, self.growth
        live = self.decoding - len(self.ghosts)
        if live:
            first = self.start_seconds + self.slope * self.context
            last = first + self.slope * growth * (steps - 1)
            if len(streams) == 1 and streams[0][0] == begin:
                self.gaps.append((end, first, last, steps, live))
            else:
                at = begin + first
                for since, count in streams:
                    self.gaps.append((at, at - since, at - since, 1, int(count)))
                if steps > 1:
                    second = first + self.slope * growth
                    self.gaps.append((end, second, last, steps - 1, live))
        self.streams = [[end, live]]
        self.round += steps
        grown = steps * growth
        self.context += grown
        self.held += grown

    def _completed(self, end: float) -> list[SimulatedRequest]:
        """Requests whose last round this was; they leave the batch when the engine knows."""
        ended = []
        while self.finishing and self.finishing[0][0] <= self.round:
            at, _, request = heapq.heappop(self.finishing)
            if request.finish != at:
                continue  # preempted since
            grown = request.growth * (at - request.begun)
            whole = round(request.held + grown)  # of fractions that a preemption left
            self.held += whole - request.held - grown
            request.held = whole
            request.emitted += grown
            request.finish, request.left, request.ended = -1, 0, end
            self.growth -= request.growth
            self.streams[0][1] -= 1
            ended.append(request)
        self.ghosts = self.ghosts + ended
        return ended

    def _prefilled(self, request: SimulatedRequest, end: float) -> bool:
        """A prompt is computed and its next token is out; whether that was the last."""
        self.prefilling.remove(request)
        if math.isnan(request.first):
            request.first = end
        else:  # computed anew after a preemption: its next round
            self.gaps.append((end, end - request.last, end - request.last, 1, 1))
            request.left -= 1
        request.emitted = request.output - request.growth * request.left
        request.last = end
        if not request.left or self.only_prompts:
            request.ended = end
            self._free(request)
            return True
        self._join(request)
        return False

    def _join(self, request: SimulatedRequest) -> None:
        """Let a request decode from the next step on."""
        request.begun, request.finish = self.round, self.round + request.left
        heapq.heappush(self.finishing, (request.finish, request.number, request))
        self.decoding += 1
        self.context += request.prompt + request.emitted
        self.growth += request.growth
        for stream in self.streams:
            if stream[0] == request.last:
                stream[1] += 1
                return
        self.streams.append([request.last, 1])

    def _leave(self, ghosts: list[SimulatedRequest]) -> None:
        """Ended requests give up their place: one step late where scheduling is asynchronous, all
        together in static batches."""
        policy = self.server.policy
        if policy.in_batches:
            ghosts = self.ghosts if len(self.ghosts) == self.decoding else []
        elif not policy.asynchronous:
            ghosts = self.ghosts
        if not ghosts:
            return
        for request in ghosts:
            self.decoding -= 1
            self.context -= request.prompt + request.emitted
            self._free(request)
        self.ghosts = self.ghosts[len(ghosts) :]
        if not self.decoding:
            self.context = self.growth = 0.0  # what sums of fractions leave behind
            self.streams = []

    # ---------------------------------------------------------------- the cache

    def _free(self, request: SimulatedRequest) -> None:
        self.held -= request.held
        if self.reserves:
            self.reserved -= self._reservation(request)
        if self.server.keeps_prefixes and request.session >= 0:
            self.cached += request.held - self.cache.pop(request.session, 0.0)
            self.cache[request.session] = request.held
            self._evict()
        request.held = 0.0
        if not (self.decoding or self.prefilling):
            self.held = self.reserved = 0.0

    def _evict(self) -> None:
        """What ended turns left behind gives way to what is held, oldest first."""
        while self.cached > 0 and self.held + self.cached > self.server.capacity_tokens + 1e-6:
            session, tokens = next(iter(self.cache.items()))
            over = self.held + self.cached - self.server.capacity_tokens
            cut = min(tokens, math.ceil(over - 1e-6))
            self.cached -= cut
            if cut == tokens:
                del self.cache[session]
            else:
                self.cache[session] = tokens - cut
        if not self.cache:
            self.cached = 0.0

    def _reservation(self, request: SimulatedRequest) -> float:
        """Tokens of its whole answer."""
        return request.prompt + request.output - self.server.shared_tokens

    # ---------------------------------------------------------------- the scheduler

    def _plan(self) -> None:
        """What the next run does: its chunks, its steps, its end."""
        preempted = self._schedule()
        chunks, decoding, steps = self.chunks, self.decoding, 1
        self.decodes = decoding > 0 and (not chunks or self.mixes)
        if chunks:
            beside = decoding if self.decodes else 0
            work = [(take, r.prompt + r.emitted - r.todo) for r, take in chunks]
            seconds = self.times.step(beside, self.context, work)
            self.start_seconds, self.slope = seconds, 0.0
        elif decoding:
            begin, starts, slopes = self.times.line(decoding)
            following = bisect_right(begin, self.context)
            piece = following - 1 if following else 0
            start, slope = starts[piece], slopes[piece]
            self.start_seconds, self.slope = start, slope
            if not preempted:
                knot = begin[piece + 1] if piece + 1 < len(begin) else math.inf
                steps = self._alike(knot)
            grown = steps * self.context + self.growth * steps * (steps - 1) / 2
            seconds = steps * start + slope * grown
        else:
            self.ends = math.inf
            if self.waiting:  # nothing keeps an idle engine from what has come
                self.step = max(self.step, self.waiting[-1].eligible)
                self._plan()
            return
        self.steps = steps
        self.ends = self.now + seconds

    def _schedule(self) -> bool:
        """The chunks of the next step; whether anybody was preempted for it."""
        waiting = self.waiting
        if not self.prefilling and self._room() >= 0:
            full = self.decoding >= self.slots
            if not waiting or waiting[0].eligible > self.step or full:
                self.chunks = []
                return False
        preempted = self._make_room()
        self.chunks = self._running_chunks() if self.prefilling else []
        if waiting and not preempted:
            self._admit()
        return preempted

    def _alike(self, knot: float) -> int:
        """Steps until something else may happen, or the context passes a `knot`."""
        if self.ghosts and not self.server.policy.in_batches:
            return 1
        finishing, growth = self.finishing, self.growth
        while finishing and finishing[0][2].finish != finishing[0][0]:
            heapq.heappop(finishing)
        steps = finishing[0][0] - self.round if finishing else 1
        if growth > 0 and steps > 1:
            if self.context + steps * growth > knot:
                steps = min(steps, int((knot - self.context) / growth) + 1)
            if self.decoding + len(self.prefilling) > 1:
                room = self._room()
                if room < steps * growth:
                    steps = min(steps, int(room / growth) + 1)
        if self.waiting and self.waiting[0].eligible > self.step:
            steps = min(steps, self.waiting[0].eligible - self.step)
        return max(steps, 1)

    def _room(self) -> float:
        """Tokens that may be added while every running request keeps its slack."""
        if self.reserves:
            return self.capacity - self.reserved
        # a millionth of a token: sums of fractions never decide
        running = self.decoding + len(self.prefilling)
        return self.capacity - self.held - running * self.slack + 1e-6

    def _left(self) -> float:
        """Budget of a step beside its decode tokens."""
        rows = self.decoding * (self.server.gamma + 1) if self.mixes else 0
        return self.server.budget_tokens - rows

    def _running_chunks(self) -> list[tuple[SimulatedRequest, float]]:
        left, chunks = self._left(), []
        for request in self.prefilling:
            if left > 0:
                take = min(request.todo, left)
                chunks.append((request, take))
                left -= take
        return chunks

    def _make_room(self) -> bool:
        """The latest admitted give up their cache, to be computed anew, until the next step fits;
        whether any did."""
        if self.reserves or self._room() >= self.server.budget_tokens:
            return False
        any_did = False
        while self.decoding + len(self.prefilling) > 1:
            if self._room() >= sum(take for _, take in self._running_chunks()):
                break
            if not self._preempt():
                break
            any_did = True
        return any_did

    def _preempt(self) -> bool:
        if self.decoding - len(self.ghosts) + len(self.prefilling) < 2:
            return False  # the last that runs is never preempted
        while not math.isnan(self.admitted[-1].ended):
            self.admitted.pop()
        request = self.admitted.pop()
        if request.todo:
            self.prefilling.remove(request)
        else:
            done = self.round - request.begun
            request.held += request.growth * done
            grown = request.emitted + request.growth * done
            request.left -= done
            request.finish = -1
            self.decoding -= 1
            self.context -= request.prompt + grown
            self.growth -= request.growth
            request.emitted = round(grown + 1e-6)
            request.last = max(request.last, self.streams[0][0])
            for stream in self.streams:
                if stream[0] == request.last:
                    stream[1] -= 1
        self.held -= request.held
        request.held = 0.0
        request.preempted += 1
        self.preemptions += 1
        self.waiting.appendleft(request)
        return True

    def _admit(self) -> None:
        """First come, first served, while budget, slots and blocks last."""
        server = self.server
        if server.policy.in_batches and (self.decoding or self.prefilling):
            return
        feeding = sum(take for _, take in self.chunks) if self.chunks else 0.0
        left, reserves = self._left() - feeding, self.reserves
        room = self._room() - (0.0 if reserves else feeding)
        while self.waiting and left > 0:
            request = self.waiting[0]
            running = self.decoding + len(self.prefilling)
            if request.eligible > self.step or running >= self.slots:
                break
            own = request.prompt + request.emitted - server.shared_tokens
            reservation = self._reservation(request) if reserves else 0.0
            if (reservation or own) + self.slack > room and running:
                break
            new = own + server.shared_tokens - request.cached
            if new > left and not server.policy.chunked and self.chunks:
                break
            self.waiting.popleft()
            self.admitted.append(request)
            self.reserved += reservation
            request.todo = self._to_compute(request)
            request.held = own - request.todo
            self.held += request.held
            room -= reservation or request.held + self.slack
            if not request.todo:  # its last token is not in the cache yet
                request.held -= request.emitted
                self.held -= request.emitted
                self._join(request)
                left -= server.gamma + 1
                continue
            take = min(request.todo, left) if server.policy.chunked else request.todo
            self.prefilling.append(request)
            self.chunks.append((request, take))
            left -= take
            room -= 0.0 if reserves else take

    def _to_compute(self, request: SimulatedRequest) -> float:
        """Tokens not found in the cache, one at least; none where another engine has computed the
        prompt. What its session left behind is the request's own from now on."""
        whole, known = request.prompt + request.emitted, request.cached
        if known >= request.prompt and not request.preempted:
            return 0.0
        if known >= request.prompt:
            known = 0.0
        if kept := self.cache.pop(request.session, 0.0):
            self.cached -= kept
            known = max(known, kept + self.server.shared_tokens)
        found = min(max(known, self.server.shared_tokens), whole - 1)
        if not request.preempted:
            request.found = found
        return whole - found
