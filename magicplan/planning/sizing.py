"""How many replicas: each configuration simulated at fewer and fewer, with the same requests.

A fleet behind a random router is as many replicas that each see their share of the arrivals, so
one of them is simulated. Every number of replicas is asked the same questions in the same order
(common random numbers): fewer replicas are busier, and the least that keep every limit are found by
bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from magicplan.planning.search import Configuration
from magicplan.serving.load import Load
from magicplan.serving.load_test import Draws, Setup, drawn, saturation, setup_of, simulate, stable
from magicplan.serving.outcome import SimulationOutcome, statistic_of
from magicplan.serving.policies import policy_of
from magicplan.serving.replica import Speculation

Limits = Mapping[str, float]
MIXED, SPLIT = "mixed", "disaggregated"
BRIEF, FULL = 250, 600
"""Requests simulated to rank configurations, and to size the finalists."""
DRAWS = 3
"""Draws of the traffic under which a finalist has to keep its limits: its percentiles vary by 3 to
9 % from one to the next."""
PER_BATCH = 3
"""Requests simulated for each that is in flight, where that is more."""
MOST_REQUESTS = 8000
ROUGH = 0.08
"""Share of replicas to which configurations are ranked, and changed assumptions answered."""
GROWTH = 3
"""Times the count that failed up to which the next guess may lie."""
STEEPEST = 3.0
"""Largest power with which a figure is taken to fall as replicas are added, and one over the
smallest."""
HAIR = 1.05
"""Times the best reachable figure that count as good as it, where no load meets a limit."""
MOST_HEADROOM = 1000.0
"""Times the load beyond which nobody asks."""
IDLE = 0.02
"""A share of the rate at saturation at which a replica hardly meets two requests at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """One configuration with its draft length, ready to be simulated."""

    setup: Setup
    gamma: int
    depth: int
    layout: str
    rate_bound: float
    """Most requests a second of a replica (one that decodes, where others prefill)."""
    prefill_bound: float
    batch: float
    most: float
    """Requests that its cache holds on average."""

    saturation_bound: float
    careful: bool = False
    """Whether saturation is simulated, or taken from bounds."""
    slowness: float = 1.0
    fresh: Kind | None = None
    """What all steps are `slowness` times longer than, where they are."""
    runs: dict[tuple[object, ...], SimulationOutcome] = field(
        default_factory=dict, init=False, repr=False
    )
    """Simulations of this kind, by what they depend on."""
    slowed: dict[float, Kind] = field(default_factory=dict, init=False, repr=False)

    def slower(self, factor: float) -> Kind:
        """This configuration with all steps longer by a factor."""
        if factor not in self.slowed:
            slow = self.setup.slower(factor)
            self.slowed[factor] = replace(self, setup=slow, slowness=factor, fresh=self)
        return self.slowed[factor]

    @cached_property
    def saturation(self) -> float:
        """Requests a second of a replica whose queue never empties; of one that decodes only,
        where others prefill, its bound."""
        if self.fresh is not None:
            return self.fresh.saturation / self.slowness
        if self.layout == SPLIT:
            return self.rate_bound
        return saturation(self.setup, self.most) if self.careful else self.saturation_bound

    @property
    def tokens_per_round(self) -> float:
        """Mean tokens that a round emits."""
        law = self.setup.law
        return 1.0 if law is None else float(law @ np.arange(1, law.size + 1))


def kind_of(
    row: Configuration, layout: str, load: Load, stack: str, spec: Speculation | None = None
) -> Kind | None:
    """A configuration with the draft length that is best at the batch it will run; None where
    arithmetic says that it serves nothing, or where its draft does not pay there."""
    i, bounds, rounds = row.layout, row.bounds, row.rounds
    rate = float((bounds.rate if layout == MIXED else bounds.decode_rate)[i])
    prefill = float(bounds.prefill_rate[i])
    if not rate or not prefill:
        return None
    place = int(np.abs(rounds.batch - _batch_at(row, layout, load, rate)).argmin())
    gamma, depth = int(rounds.gamma[i, place]), int(rounds.depth[i, place])
    if row.draft != "none" and not gamma:
        return None
    return Kind(
        setup=setup_of(row.replica, i, spec or row.spec, gamma, depth, policy_of(stack)),
        gamma=gamma, depth=depth, layout=layout, rate_bound=rate, prefill_bound=prefill,
        batch=float(bounds.batch[i]), most=float(bounds.most[i]),
        saturation_bound=float(bounds.saturation[i]),
    )  # fmt: skip


def _batch_at(row: Configuration, layout: str, load: Load, rate: float) -> float:
    """Requests decoding on each of the fewest replicas, by bounds."""
    i, r = row.layout, row.replica
    if load.users is not None:
        fewest = math.ceil(load.users / max(float(row.bounds.most[i]), 1.0))
        return load.users / fewest
    share = load.requests_per_s / math.ceil(load.requests_per_s / rate)
    needed = float(load.decoded.mean()) / row.rounds.tokens_per_round[i]
    seconds = needed * row.rounds.round_seconds[i] / row.rounds.batch
    seconds = seconds + (1 / float(row.bounds.prefill_rate[i]) if layout == MIXED else 0.0)
    return float(r.batch[int((1 / seconds >= share).argmax())])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """So many replicas of a kind under the load."""

    outcome: SimulationOutcome
    pool: SimulationOutcome | None
    """Figures of the replicas that only prefill, where there are such."""
    replicas: int
    prefill_replicas: int
    rate: float
    """Requests a second of one replica that decodes."""
    moving: float
    figures_of: dict[str, float]

    def figure(self, key: str) -> float:
        """A latency in seconds by its key, such as `ttft_p95_seconds`."""
        if key not in self.figures_of:
            self.figures_of[key] = self._figure(key)
        return self.figures_of[key]

    def _figure(self, key: str) -> float:
        metric, statistic, _ = key.split("_")
        if self.pool is None or metric in ("tpot", "itl"):
            return self.outcome.figure(key)
        pool = {r.number: r for r in self.pool.requests}
        first = {n: r.ended - r.arrived + r.prompt * self.moving for n, r in pool.items()}
        if metric == "ttft":
            return statistic_of(np.asarray(list(first.values())), statistic)
        ends = {r.number: r.ended - r.arrived for r in self.outcome.requests}
        both = [first[n] + ends.get(n, 0.0) for n in first if n in ends or not pool[n].rounds]
        return statistic_of(np.asarray(both), statistic)

    def ratios(self, limits: Limits) -> dict[str, float]:
        """Figures over limits; infinite for a queue that grows."""
        if not (stable(self.outcome) and (self.pool is None or stable(self.pool))):
            return dict.fromkeys(limits, math.inf)
        return {key: self.figure(key) / limit for key, limit in limits.items()}

    def keeps(self, limits: Limits) -> bool:
        """Whether every limit holds."""
        return all(ratio <= 1 for ratio in self.ratios(limits).values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Sized:
    """A kind with the fewest replicas that keep every limit, or come nearest."""

    kind: Kind
    trial: Trial
    limits: Limits
    utilisation: float
    """Rate over the rate at saturation."""
    capacity: float
    """Requests a second (or users) that the fleet bears within every limit."""
    stopped_by: str
    """The limit that fewer replicas would break, "utilisation" where none."""
    allowed: Limits
    """The limits, or what is reachable of them where they are not."""
    requests: int
    """Simulated for it, or more where more are in flight."""

    @property
    def replicas(self) -> int:
        """Replicas that decode."""
        return self.trial.replicas

    @property
    def prefill_replicas(self) -> int:
        """Replicas that only prefill."""
        return self.trial.prefill_replicas

    @property
    def batch(self) -> float:
        """Requests decoding at once on a replica, mean over time."""
        return self.trial.outcome.decoding * self.kind.setup.stages

    def figure(self, key: str) -> float:
        """A latency by its key."""
        return self.trial.figure(key)

    @property
    def round_seconds(self) -> float:
        """A round of the mean batch, without prompts."""
        return decode_round(self.kind, max(self.batch, 1.0))

    @cached_property
    def ratios(self) -> dict[str, float]:
        """Figures over limits."""
        return self.trial.ratios(self.limits)


def decode_round(kind: Kind, batch: float) -> float:
    """Seconds of a round of a replica's batch at the load's mean context, prompts left out."""
    stages = kind.setup.stages
    each = max(round(batch / stages), 1)
    return kind.setup.times.decode(each, each * float(kind.setup.load.contexts().mean()))


@lru_cache(maxsize=64)
def draws_of(load: Load, count: int, seed: int) -> Draws:
    """The requests of a load, drawn once."""
    return drawn(load, count, seed)


def trial_of(
    kind: Kind, load: Load, replicas: int, pool: int, requests: int, seed: int = 0
) -> Trial:
    """Simulate one replica's share of the load; with users and pools, the whole fleet."""
    draws = draws_of(kind.setup.load, _count(kind, load, replicas, requests), seed)
    pool_outcome = None

    def run(**options: Any) -> SimulationOutcome:
        key = (draws.gaps.size, seed, *options.items())
        if key not in kind.runs:
            kind.runs[key] = simulate(kind.setup, draws, **options)
        return kind.runs[key]

    if load.users is not None and pool:
        decoder = run(users=math.ceil(load.users), replicas=replicas, prefill_replicas=pool)
        rate = decoder.request_rate / replicas
    elif load.users is not None:
        decoder = run(users=math.ceil(load.users / replicas))
        rate = decoder.request_rate
    else:
        rate = load.requests_per_s / replicas
        if pool:
            each = load.requests_per_s / pool
            pool_outcome = run(requests_per_s=each, role="prefill")
            decoder = run(requests_per_s=rate, role="decode")
        else:
            decoder = run(requests_per_s=rate)
    return Trial(
        outcome=decoder, pool=pool_outcome, replicas=replicas, prefill_replicas=pool, rate=rate,
        moving=kind.setup.moving_seconds_per_token, figures_of={},
    )  # fmt: skip


def _count(kind: Kind, load: Load, replicas: int, requests: int) -> int:
    """Requests to simulate: more where many are in flight, so that a server fills in a part."""
    if load.users is not None:
        together = load.users / (1 if kind.layout == SPLIT else replicas)
    else:
        together = kind.batch * min(load.requests_per_s / replicas / kind.rate_bound, 1.0)
    together = math.ceil(together)
    return min(max(requests, PER_BATCH * together), max(MOST_REQUESTS, 2 * together))


def size(
    kind: Kind, load: Load, limits: Limits, most_busy: float, requests: int,
    *, near: int | None = None, nearest: bool = True, draws: int = 1,
) -> Sized:  # fmt: skip
    """The fewest replicas that keep every limit under each of so many draws of the traffic, or the
    fewest that come as near as any does; idle ones where `nearest` need not be known. `near` says
    where to look first."""
    if kind.layout == SPLIT:
        return _size_split(kind, load, limits, most_busy, requests)
    fewest, idlest = _fewest(kind, load, most_busy), _idle_count(kind, load)

    def at(count: int) -> Trial:
        return trial_of(kind, load, count, 0, requests)

    def least(bounds: Limits) -> tuple[Trial, Trial | None] | None:
        def excess(count: int) -> float:
            worst = 0.0
            for seed in range(draws if bounds else 1):
                trial = trial_of(kind, load, count, 0, requests, seed)
                worst = max(worst, _excess(kind, trial, bounds, most_busy))
                if worst > 1:
                    break
            return worst

        grain = ROUGH if draws == 1 else 0.0
        counts = least_count(excess, fewest, near or fewest, idlest, grain)
        if counts is None:
            return None
        return at(counts[0]), at(counts[1]) if counts[1] is not None else None

    allowed, found = limits, least(limits)
    if found is None:
        idle = at(idlest)
        ratios = idle.ratios(limits)
        allowed = {key: limit * max(1.0, HAIR * ratios[key]) for key, limit in limits.items()}
        found = (least(allowed) if nearest else None) or (idle, None)
    trial, tighter = found
    broken = tighter.ratios(allowed) if tighter else {}
    worst = max(broken, key=broken.__getitem__, default="")
    return Sized(
        kind=kind, trial=trial, limits=limits, utilisation=trial.rate / kind.saturation,
        capacity=float(load.users if load.users is not None else load.requests_per_s),
        stopped_by=worst if worst and broken[worst] > 1 else "utilisation", allowed=allowed,
        requests=requests,
    )  # fmt: skip


def suffices(
    kind: Kind, load: Load, limits: Limits, most_busy: float, requests: int, replicas: int
) -> bool:
    """Whether so many replicas keep every limit, by one simulation; of pools, by bounds."""
    if kind.layout == SPLIT:
        return sum(_fewest_split(kind, load, most_busy)) <= replicas
    if replicas < _fewest(kind, load, most_busy):
        return False
    trial = trial_of(kind, load, replicas, 0, requests)
    return _excess(kind, trial, limits, most_busy) <= 1


def _excess(kind: Kind, trial: Trial, limits: Limits, most_busy: float) -> float:
    """Times the limit that it breaks most, or its share of saturation over the one allowed."""
    busy = trial.rate / (most_busy * kind.saturation * (1 + 1e-9))
    return max([busy, *trial.ratios(limits).values()])


def _fewest(kind: Kind, load: Load, most_busy: float) -> int:
    if load.users is not None:
        return max(math.ceil(load.users / max(kind.setup.server.slots * kind.setup.stages, 1)), 1)
    return max(math.ceil(load.requests_per_s / (most_busy * kind.saturation) - 1e-9), 1)


def _idle_count(kind: Kind, load: Load) -> int:
    if load.users is not None:
        return max(math.ceil(load.users), 1)
    return max(math.ceil(load.requests_per_s / (IDLE * kind.saturation)), 1)


def least_count(
    excess: Callable[[int], float], fewest: int, near: int, most: int, grain: float
) -> tuple[int, int | None] | None:
    """The least count from `fewest` to `most` of which `excess` is at most 1, to a share of
    `grain`, and the largest looked at below it; None where there is none.

    Excess is taken to fall as counts grow, about as a power of them: each guess is where the line
    through the last two in logarithms crosses 1; every third, and where a queue grows, is halfway.
    """
    low, high, slope = fewest - 1, 0, -1.0
    seen: dict[int, float] = {}
    count, before = min(max(near, fewest), max(most, fewest)), 0
    while True:
        seen[count] = excess(count)
        if seen[count] <= 1:
            high = count
        elif count >= most:
            return None
        else:
            low = count
        if high and high - low <= max(grain * high, 1):
            return high, low if low in seen else None
        slope = _slope(seen, before, count, slope)
        ends = (low, high) if high else (low, min(max(GROWTH * low, low + 1), max(most, low + 1)))
        value = math.inf if len(seen) % 3 == 0 else seen[count]
        before, count = count, _guess(value, count, slope, *ends, closed=high > 0)


def _slope(seen: Mapping[int, float], one: int, other: int, before: float) -> float:
    """The slope of excess over count, in logarithms, between two that are known; as before where
    they tell nothing."""
    a, b = seen.get(one, math.inf), seen[other]
    if not (0 < a < math.inf and 0 < b < math.inf) or a == b:
        return before
    return min(max((math.log(b / a)) / math.log(other / one), -STEEPEST), -1 / STEEPEST)


def _guess(excess: float, count: int, slope: float, low: int, high: int, *, closed: bool) -> int:
    """The next count to look at: above `low`, and below `high` if that is known to keep."""
    last = high - 1 if closed else high
    if 0 < excess < math.inf:
        target: float = count * excess ** (-1 / slope)
        guess = math.floor(target) if excess <= 1 else math.ceil(target)
    else:
        guess = round(math.sqrt(max(low, 1) * high))
    return min(max(guess, low + 1), last)


def _size_split(kind: Kind, load: Load, limits: Limits, most_busy: float, requests: int) -> Sized:
    """Pools one after the other: prompts until first tokens are in time, then decoding."""
    decode, pool = _fewest_split(kind, load, most_busy)
    trial = trial_of(kind, load, decode, pool, requests)
    stopped = "utilisation"
    for _ in range(24):
        ratios = trial.ratios(limits)
        worst = max(ratios, key=ratios.__getitem__, default="")
        if not worst or ratios[worst] <= 1:
            break
        before, stopped = ratios[worst], worst
        part = 8 if requests >= FULL else 2
        more = max(pool // part, 1) if worst.startswith("ttft") else 0
        less = max(decode // part, 1) if not worst.startswith("ttft") else 0
        bigger = trial_of(kind, load, decode + less, pool + more, requests)
        after = bigger.ratios(limits)[worst]
        if after > before * (1 - 1e-3) and math.isfinite(before):
            break  # more replicas do not help
        pool, decode, trial = pool + more, decode + less, bigger
    return Sized(
        kind=kind, trial=trial, limits=limits, utilisation=trial.rate / kind.rate_bound,
        capacity=float(load.users if load.users is not None else load.requests_per_s),
        stopped_by=stopped, allowed=limits, requests=requests,
    )  # fmt: skip


def _fewest_split(kind: Kind, load: Load, most_busy: float) -> tuple[int, int]:
    """Replicas that decode and that prefill, by bounds."""
    peak = load.requests_per_s if load.users is None else load.users * kind.rate_bound / max(
        kind.batch, 1.0
    )  # fmt: skip
    decode, pool = (
        max(math.ceil(peak / (most_busy * bound) - 1e-9), 1)
        for bound in (kind.rate_bound, kind.prefill_bound)
    )
    return decode, pool


def borne(
    sized: Sized, load: Load, most_busy: float, requests: int, *, least: float = 1.0,
    close: float = 1.03,
) -> float:  # fmt: skip
    """Requests a second (or users) that the sized fleet bears within every limit, found from
    `least` times the load upwards as close as a factor of `close`."""
    base = float(load.users if load.users is not None else load.requests_per_s)

    def excess(factor: float) -> float:
        busier = busier_load(load, factor)
        trial = trial_of(sized.kind, busier, sized.replicas, sized.prefill_replicas, requests)
        return _excess(sized.kind, trial, sized.allowed, most_busy)

    low, high, factor = least, math.inf, 1.0
    while high / low > close and low < MOST_HEADROOM:
        worst = excess(factor)
        low, high = (factor, high) if worst <= 1 else (low, factor)
        limit = min(high, 2 * low if math.isinf(high) else high)
        guess = factor / worst if 0 < worst < math.inf else math.sqrt(low * limit)
        guess *= math.sqrt(close) if worst > 1 else 1 / math.sqrt(close)
        margin = math.sqrt(close)
        factor = min(max(guess, low * margin), limit / margin) if high < math.inf else (
            min(max(guess, low * close), limit)
        )  # fmt: skip
    return base * low


def busier_load(load: Load, factor: float) -> Load:
    """These requests, more often or from more users."""
    users = None if load.users is None else load.users * factor
    return replace(load, requests_per_s=load.requests_per_s * factor, users=users)
