"""Engines behind a router, and whoever asks them: requests by the clock, or users in turns."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from magicplan.serving.requests import Request
from magicplan.serving.simulation import Engine

Routing = Literal["random", "round-robin", "least-outstanding", "sticky"]
ROUTINGS: tuple[Routing, ...] = ("random", "round-robin", "least-outstanding", "sticky")
TURNAROUND_SECONDS = 1e-4
"""From the end of an answer to its client's next request: the next step has begun."""

Handover = Callable[[Request], float]
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
    ask_next: Callable[[Request], tuple[float, Request] | None] | None = None
    due: list[tuple[float, int, Request, bool]] = field(default_factory=list)
    """When, whichever came first, who, and whether its prompt is computed."""
    answered: list[Request] = field(default_factory=list)
    order: count[int] = field(default_factory=count)
    turn: int = 0

    def ask(self, request: Request, now: float) -> None:
        """A request is sent at `now`."""
        request.arrived = now
        heapq.heappush(self.due, (now + self.entry_seconds, next(self.order), request, False))

    def run(self, requests: Iterable[Request], most: float = math.inf) -> list[Request]:
        """Answer everybody, or as many as `most`; the answers in the order of their ends."""
        for request in requests:
            self.ask(request, request.arrived)
        while len(self.answered) < most:
            engine = self._next()
            if self.due and self.due[0][0] <= engine.ends:
                self._receive()
            elif engine.ends < math.inf:
                self._answer(engine, engine.advance())
            else:
                break
        return self.answered

    def _next(self) -> Engine:
        engines = [*self.engines, *self.prefill] if self.prefill else self.engines
        if len(engines) == 1:
            return engines[0]
        return min(engines, key=lambda e: e.ends)

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

    def _routed(self, request: Request, engines: Sequence[Engine]) -> Engine:
        if len(engines) == 1:
            return engines[0]
        if self.routing == "least-outstanding":
            return min(engines, key=lambda e: e.outstanding)
        if self.routing == "round-robin":
            self.turn += 1
            return engines[self.turn % len(engines)]
        alone = self.routing == "random" or request.session < 0
        return engines[placed(request.number if alone else request.session, len(engines))]

    def _answer(self, engine: Engine, ended: list[Request]) -> None:
        for request in ended:
            if engine.only_prompts and self.prefill:
                self._hand_over(request)
                continue
            self.answered.append(request)
            self._follow(request)

    def _follow(self, request: Request) -> None:
        following = self.ask_next(request) if self.ask_next else None
        if following is not None:
            self.ask(following[1], following[0])

    def _hand_over(self, request: Request) -> None:
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


def placed(number: int, engines: int) -> int:
    """An engine drawn by number: the same of as many engines whenever it is asked, and as random
    as a hash (SplitMix64)."""
    z = (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return ((z ^ (z >> 31)) * engines) >> 64
