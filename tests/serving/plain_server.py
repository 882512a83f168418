"""The slow plain twin of `magicplan.serving.simulation`: every step and every request walked.

It keeps no sums and skips nothing: each step asks every running request for its context, its
tokens held and its next chunk. The rules are written anew from the scheduler's description, so that
a fault of the fast simulation shows as another time of some request. The two share only what is
asked of both: the requests with their draws, the server's settings, and `StepTable.step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from magicplan.serving.policies import ServerRules
from magicplan.serving.requests import SimulatedRequest
from magicplan.serving.step_table import StepTable


@dataclass(eq=False)
class Guest:
    """A request while this server has it."""

    ask: SimulatedRequest
    queued: float
    computed: float = 0.0
    rounds_done: int = 0
    in_prompt: bool = True
    target: float = 0.0
    """Tokens to compute before it decodes (again)."""
    started_over: bool = False
    done: bool = False
    last_token: float = math.nan
    gaps: list[float] = field(default_factory=list)
    first: float = math.nan
    ended: float = math.nan

    @property
    def emitted(self) -> float:
        if math.isnan(self.first):
            return 0.0
        return 1 + self.growth * self.rounds_done

    @property
    def growth(self) -> float:
        return (self.ask.output - 1) / self.ask.rounds if self.ask.rounds else 0.0


@dataclass(eq=False)
class PlainServer:
    """One engine; `begin` starts a step, `end` ends it."""

    server: ServerRules
    times: StepTable
    running: list[Guest] = field(default_factory=list)
    """In order of admission; those that have ended stay while their place is taken."""
    waiting: list[Guest] = field(default_factory=list)
    busy_until: float = math.inf
    step_before: float | None = None
    """When the step before began, if the engine has not been idle since."""
    now: float = 0.0
    part: list[tuple[Guest, float]] = field(default_factory=list)
    decoders: list[Guest] = field(default_factory=list)
    old_ended: list[Guest] = field(default_factory=list)
    left_behind: dict[int, float] = field(default_factory=dict)
    preemptions: int = 0
    steps: int = 0

    def tokens_held(self, guest: Guest) -> float:
        return guest.computed - self.server.shared_tokens

    def holds(self) -> float:
        return sum(self.tokens_held(g) for g in self.running)

    def promised(self, guest: Guest) -> float:
        return guest.ask.prompt + guest.ask.output - self.server.shared_tokens

    def free(self) -> float:
        s = self.server
        if s.policy.reserves_output:
            return s.capacity_tokens - sum(self.promised(g) for g in self.running)
        return s.capacity_tokens - self.holds() - len(self.running) * s.slack_tokens + 1e-6

    def begin(self, now: float) -> None:
        """Compose a step that begins now; leaves `busy_until` infinite if there is nothing."""
        policy = self.server.policy
        self.now = now
        seen_until = now
        if policy.asynchronous and self.step_before is not None:
            seen_until = self.step_before
        threw_out = self._throw_out()
        part = self._continue_prompts()
        if not threw_out:
            self._let_in(part, seen_until)
        if not self.running and self.waiting:
            self._let_in(part, now)
        decoders = [g for g in self.running if not g.in_prompt]
        if part and not policy.mixes:
            decoders = []
        if not part and not decoders:
            self.busy_until, self.step_before = math.inf, None
            return
        context = sum(g.ask.prompt + g.emitted for g in decoders)
        chunks = [(new, g.computed) for g, new in part]
        seconds = self.times.step(len(decoders), context, chunks) if chunks else (
            self.times.decode(len(decoders), context)
        )  # fmt: skip
        self.part, self.decoders = part, decoders
        self.old_ended = [g for g in self.running if g.done]
        self.step_before, self.busy_until = now, now + seconds
        self.steps += 1

    def _rows(self) -> float:
        if not self.server.policy.mixes:
            return 0
        return sum(self.server.gamma + 1 for g in self.running if not g.in_prompt)

    def _continue_prompts(self) -> list[tuple[Guest, float]]:
        budget = self.server.budget_tokens - self._rows()
        part = []
        for guest in self.running:
            if guest.in_prompt and budget > 0:
                new = min(guest.target - guest.computed, budget)
                part.append((guest, new))
                budget -= new
        return part

    def _throw_out(self) -> bool:
        if self.server.policy.reserves_output:
            return False
        threw_out = False
        while len(self.running) > 1:
            wanted = sum(new for _, new in self._continue_prompts())
            alive = [g for g in self.running if not g.done]
            if self.free() >= wanted or len(alive) < 2:
                break
            guest = alive[-1]
            self.running.remove(guest)
            guest.computed, guest.in_prompt, guest.started_over = 0.0, True, True
            self.waiting.insert(0, guest)
            self.preemptions += 1
            threw_out = True
        return threw_out

    def _let_in(self, part: list[tuple[Guest, float]], seen_until: float) -> None:
        s = self.server
        if s.policy.in_batches and self.running and not part:
            return
        budget = s.budget_tokens - self._rows() - sum(new for _, new in part)
        promised_chunks = sum(new for _, new in part)
        while self.waiting and budget > 0 and len(self.running) < s.slots:
            guest = self.waiting[0]
            if guest.queued > seen_until and not guest.started_over:
                return
            whole = guest.ask.prompt + round(guest.emitted + 1e-6)
            need = self.promised(guest) if s.policy.reserves_output else whole - s.shared_tokens
            growing = 0.0 if s.policy.reserves_output else promised_chunks
            if self.running and self.free() - growing < need + s.slack_tokens:
                return
            handed_over = guest.ask.cached >= guest.ask.prompt
            if handed_over and not guest.started_over:
                self.waiting.pop(0)
                guest.in_prompt, guest.computed = False, guest.ask.prompt
                self.running.append(guest)
                budget -= s.gamma + 1
                continue
            if part and not s.policy.chunked and whole - guest.ask.cached > budget:
                return
            self.waiting.pop(0)
            known = s.shared_tokens if handed_over else max(guest.ask.cached, s.shared_tokens)
            if guest.ask.session in self.left_behind:
                known = max(known, self.left_behind.pop(guest.ask.session) + s.shared_tokens)
            guest.computed = min(known, whole - 1)
            guest.target = whole
            self.running.append(guest)
            new = whole - guest.computed
            new = min(new, budget) if s.policy.chunked else new
            part.append((guest, new))
            promised_chunks += new
            budget -= new

    def end(self) -> list[Guest]:
        """The step ends; returns whose answers end with it."""
        now, policy = self.busy_until, self.server.policy
        finished = []
        for guest in self.decoders:
            if guest.done:
                continue
            guest.gaps.append(now - guest.last_token)
            guest.last_token = now
            guest.rounds_done += 1
            guest.computed += guest.growth
            if guest.rounds_done == guest.ask.rounds:
                guest.done, guest.ended = True, now
                guest.computed = round(guest.computed)
                finished.append(guest)
        for guest, new in self.part:
            guest.computed += new
        self._forget()
        for guest, _ in self.part:
            if guest.computed < guest.target:
                continue
            guest.in_prompt = False
            if math.isnan(guest.first):
                guest.first = now
            else:
                guest.gaps.append(now - guest.last_token)
                guest.rounds_done += 1
            guest.last_token = now
            if guest.rounds_done == guest.ask.rounds:
                guest.done, guest.ended = True, now
                finished.append(guest)
                self._go(guest)
        if policy.in_batches:
            everybody = all(g.done for g in self.running)
            leaving = list(self.running) if everybody else []
        elif policy.asynchronous:
            leaving = [g for g in self.old_ended if g in self.running]
        else:
            leaving = [g for g in self.running if g.done]
        for guest in sorted(leaving, key=lambda g: (g.ended, g.ask.number)):
            self._go(guest)
        self.part, self.decoders = [], []
        self.begin(now)
        return finished

    def _go(self, guest: Guest) -> None:
        self.running.remove(guest)
        if guest.ask.session >= 0 and self.server.keeps_prefixes:
            self.left_behind.pop(guest.ask.session, None)
            self.left_behind[guest.ask.session] = self.tokens_held(guest)
            self._forget()

    def _forget(self) -> None:
        for session in list(self.left_behind):
            over = self.holds() + sum(self.left_behind.values()) - self.server.capacity_tokens
            if over <= 1e-6:
                return
            self.left_behind[session] -= min(math.ceil(over - 1e-6), self.left_behind[session])
            if self.left_behind[session] <= 0:
                del self.left_behind[session]


def walk(
    servers: Sequence[PlainServer],
    arrivals: Sequence[tuple[float, SimulatedRequest]],
    route: Callable[[SimulatedRequest, Sequence[PlainServer]], int] = lambda _r, _s: 0,
    answered: Callable[
        [Guest, float], Sequence[tuple[float, SimulatedRequest]]
    ] = lambda _g, _t: (),
) -> list[Guest]:
    """Everybody's story, in the order in which requests came; `answered` may bring new ones."""
    due = sorted(arrivals, key=lambda a: (a[0], a[1].number))
    guests = []
    while True:
        when = min(s.busy_until for s in servers)
        if due and due[0][0] <= when:
            now = due[0][0]
            while due and due[0][0] == now:
                _, ask = due.pop(0)
                guest = Guest(ask=ask, queued=now)
                if ask.cached >= ask.prompt:  # its first token came from elsewhere
                    guest.first = guest.last_token = now
                guests.append(guest)
                servers[route(ask, servers)].waiting.append(guest)
            for server in servers:
                if server.busy_until == math.inf and server.waiting:
                    server.begin(now)
        elif when < math.inf:
            server = next(s for s in servers if s.busy_until == when)
            for guest in server.end():
                for new in answered(guest, guest.ended):
                    at = next((i for i, d in enumerate(due) if d[0] > new[0]), len(due))
                    due.insert(at, new)
        else:
            return guests
