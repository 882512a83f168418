"""Latency percentiles of a steady state: each sampled request meets its waits and its rounds.

A lattice of equally likely requests replaces simulation: request i brings its own lengths, and
evenly spread numbers decide what it meets. Shapes are [config, n] until a percentile is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.in_flight import long_step, mean_within
from magicplan.serving.load import Load
from magicplan.serving.steady_state import Steady

PERCENTILES = (50.0, 95.0, 99.0)
POWERS = np.linspace(0.0, 6.0, 1201)
GAMMAS = np.asarray([math.gamma(1 + power) for power in POWERS])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampled:
    """[config, n] seconds of each sampled request, and quantiles of gaps between tokens."""

    ttft: Array
    tpot: Array
    e2e: Array
    itl: Array
    """[config, 3] at `PERCENTILES`, over tokens."""
    itl_mean: Array
    itl_cv: Array

    def statistic(self, metric: str, statistic: str) -> Array:
        """[config] of `mean`, `p50`, `p95` or `p99` of a metric."""
        if metric == "itl":
            ranks = {"p50": 0, "p95": 1, "p99": 2}
            return self.itl_mean if statistic == "mean" else self.itl[:, ranks[statistic]]
        values = getattr(self, metric)
        if statistic == "mean":
            return np.asarray(values.mean(axis=1))
        return np.asarray(np.percentile(values, float(statistic[1:]), axis=1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """Time before a request's own prefill, where that is not the decoding replica's affair.

    `saturation` [config] is the rate at which slots run out, `slots` how many there are.
    """

    saturation: Array
    slots: Array
    queued: Array
    """Users of a closed population for whom there is no slot."""


def mean_ttft(load: Load, state: Steady) -> Array:
    """The mean of `sample`'s time to first token without a wait for slots, [config, b]."""
    share = load.groups.share
    own = state.own_seconds @ share
    ahead = state.backlog_load * state.backlog_seconds
    if load.replaces:
        mixed, mean = state.mixed_seconds, state.backlog_seconds
        longer = state.mixed_share * ((mixed @ share) - state.round_seconds)
        step = np.clip(state.batch - 1, 0, 1) * (state.round_seconds + longer)
        beyond = np.exp(-mixed.mean(axis=-1) / 2 / np.maximum(mean, 1e-12))
        return np.asarray(step + np.minimum(ahead, mean) * beyond + own)
    decoding = (1 - state.backlog_load) * -np.expm1(-state.in_flight)
    came = (1 - state.prompt_load) * ahead
    number = state.follow * state.others_rate * came + state.burst - 1
    room = state.room_seconds @ share
    joined = mean_within(number * state.prefill_seconds, room)
    return np.asarray(ahead + decoding * state.round_seconds / 2 + joined + own)


def population(load: Load, state: Steady) -> Array:
    """Users that a replica serves at each batch seen, [config, b]: each thinks, waits, reads."""
    stay = mean_ttft(load, state) + state.rounds_per_request * state.step_seconds
    return np.asarray(state.rate * (load.think_seconds + stay))


def sample(load: Load, state: Steady, entry: Entry, slope: Array | None = None) -> Sampled:
    """Latencies of states with one entry on the batch axis (see `Steady.pick`).

    `slope` [config] is d step / d batch, which turns a varying batch into varying rounds.
    """
    groups = load.groups
    size = load.decoded.size
    first, second, third, fourth, fifth, crowd, normal = _lattice(size)
    own = state.own_seconds[:, 0, groups.group]
    rounds, alone = _rounds(load, state, slope, normal, crowd)
    if load.replaces:
        ahead = _next_step(state, groups.share, first) + _backlog(state, second)
        prefill, behind, lag = ahead + own, np.zeros_like(own), np.zeros_like(own)
    else:
        ahead = _ahead(state, first, second)
        came = (1 - state.prompt_load) * ahead  # within the step under way
        come = _come(state, came, fifth)
        joined = np.minimum(come, state.room_seconds[:, 0, groups.group])
        prefill, behind = ahead + own + joined, come - joined
        lag = state.follow * (prefill - came)
    ttft = prefill + _slot_wait(load, state, entry, third)
    decoding = alone + _met_prompts(load, state, rounds, alone, lag, behind, fourth)
    gaps, itl_mean, itl_cv = _gaps(state, groups.share)
    return Sampled(
        ttft=ttft,
        tpot=decoding / np.maximum(load.decoded, 1.0),
        e2e=ttft + decoding,
        itl=gaps,
        itl_mean=itl_mean,
        itl_cv=itl_cv,
    )


@cache
def _lattice(size: int) -> tuple[Array, ...]:
    """Five sets of evenly spread numbers in (0, 1), the normal scores of the fourth (high for low
    numbers), and a set of normal numbers: unlike each other and the requests' order.

    Fractional parts of multiples of the square roots of primes are equidistributed (Weyl).
    """
    roots = np.sqrt([2.0, 3.0, 5.0, 13.0, 17.0, 7.0])
    *even, last = ((np.arange(size) * root + 0.5 / size) % 1.0 for root in roots)
    score = NormalDist().inv_cdf
    crowd, normal = (np.asarray([score(float(x)) for x in xs]) for xs in (1 - even[3], last))
    return (*even, crowd, normal)


def delay(chance: Array, waits: Array, mean: Array, square: Array) -> Array:
    """A delay that there is with probability `waits`, of a `mean` and mean `square` where there is
    one, at equally likely numbers `chance`: Weibull-distributed, its shape by the rule of
    Justus et al. (J. Appl. Meteorol. 17, 1978); exponential where mean and deviation are equal."""
    variation = np.maximum(square / np.maximum(mean, 1e-30) ** 2 - 1, 1e-6)
    power = np.minimum(variation ** (1.086 / 2), POWERS[-1])  # one over the shape
    scale = mean / np.interp(power, POWERS, GAMMAS)
    left = np.maximum(chance, 1e-12) / np.maximum(waits, 1e-300)
    wait = scale * (-np.log(np.minimum(left, 1.0))) ** power
    return np.asarray(np.where(left < 1, wait, 0.0))


def _ahead(state: Steady, chance: Array, other: Array) -> Array:
    """Until the prompt's own first step: prompts ahead, from what is left of the step under way on;
    or the rest of a step without prompts; or nothing on an idle engine."""
    wait = delay(chance, state.backlog_load, state.backlog_seconds, state.backlog_square)
    decoding = -np.expm1(-state.in_flight)
    left = np.where(other < decoding, other / np.maximum(decoding, 1e-12), 0.0)
    return np.where(wait > 0, wait, left * state.round_seconds)


def _come(state: Steady, came: Array, chance: Array) -> Array:
    """Seconds of prompts that come behind one within the seconds `came`, its own burst's included:
    a compound Poisson number and a geometric one, see `delay`."""
    mates = state.burst - 1
    number, mean, square = (
        state.follow * state.others_rate * came,
        state.prefill_seconds,
        state.prefill_square,
    )
    whole = (number + mates) * mean
    spread = (number + mates) * square + mates * (2 * number + mates) * mean**2
    some = np.maximum(1 - np.exp(-number / state.burst) / state.burst, 1e-12)
    return delay(chance, some, whole / some, (spread + whole**2) / some)


def _next_step(state: Steady, share: Array, chance: Array) -> Array:
    """Who asks again as soon as the answer ends just misses a step and waits for all of it."""
    if not state.in_flight.any():
        return np.zeros((state.configs, chance.size))
    others = np.clip(state.batch - 1, 0.0, 1.0)  # alone, no step is under way
    mixed = (state.mixed_seconds[:, 0] * share).sum(axis=-1, keepdims=True)
    wait = np.where(chance < state.mixed_share, mixed, state.round_seconds)
    return np.asarray(others * wait)


def _backlog(state: Steady, chance: Array) -> Array:
    """Behind other prompts, beyond the step under way."""
    load = np.clip(state.backlog_load, 0.0, 1.0)
    wait = delay(chance, load, state.backlog_seconds, state.backlog_square)
    half = state.mixed_seconds[:, 0].mean(axis=-1, keepdims=True) / 2
    return np.asarray(np.maximum(wait - half, 0.0))


def _slot_wait(load: Load, state: Steady, entry: Entry, chance: Array) -> Array:
    """For a free slot of a nearly full replica: who waits by Halfin and Whitt, for how long as in
    M/G/c; in a closed population, behind those in excess."""
    if load.users is not None:
        queue = (entry.queued / np.maximum(state.rate[:, 0], 1e-12))[:, None]
        return np.asarray(np.broadcast_to(queue, (state.configs, chance.size)))
    use = np.clip(state.rate[:, 0] / entry.saturation, 0.0, 0.999)
    busy = np.maximum(state.in_flight[:, 0], 1e-9)
    waits = _chance_to_wait(busy, state.peakedness[:, 0], entry.slots)
    cv2 = load.decoded.var() / max(float(load.decoded.mean()), 1e-3) ** 2
    mean = ((load.arrival_cv2 + cv2) / 2 / (entry.saturation * (1 - use)))[:, None]
    return delay(chance, waits[:, None], mean, 2 * mean**2)


def _chance_to_wait(busy: Array, peakedness: Array, slots: Array) -> Array:
    """1 / (1 + b Phi(b) / phi(b)) with b = (slots - busy) / sqrt(z busy) (Halfin and Whitt, 1981;
    peaked by z as of Hayward)."""
    beta = np.maximum((slots - busy) / np.sqrt(peakedness * busy), 0.0)
    below = 0.5 * np.asarray([math.erfc(-b / math.sqrt(2)) for b in beta])
    density = np.exp(-(beta**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(1 / (1 + beta * below / np.maximum(density, 1e-300)))


def _rounds(
    load: Load, state: Steady, slope: Array | None, normal: Array, crowd: Array
) -> tuple[Array, Array]:
    """A request's rounds, and their seconds without prompts: lognormal by the tokens accepted and
    the batch met, whose fluctuation a stay averages as far as it settles meanwhile. What is in it
    beyond that of independent requests comes with the prompts met, whose normal score is `crowd`.
    """
    emitted = load.decoded
    over = state.rounds_per_request * state.tokens_per_round - load.decoded.mean()
    rounds = np.where(emitted > 0, (emitted + over) / state.tokens_per_round, 0.0)
    mean = rounds * state.round_seconds
    alone = emitted * state.tokens_variance / state.tokens_per_round**3 * state.round_seconds**2
    crowded = np.zeros_like(mean)
    if slope is not None and not load.replaces:
        settles = state.settling
        averaged = 2 * (np.expm1(-settles) + settles) / settles**2
        swing = rounds**2 * slope[:, None] ** 2 * averaged * np.maximum(state.in_flight, 0.0)
        own = np.minimum(state.peakedness, 1 / settles)
        alone, crowded = alone + swing * own, swing * (state.peakedness - own)
    spreads = [np.log1p(v / np.maximum(mean, 1e-12) ** 2) for v in (alone, crowded)]
    swings = np.sqrt(spreads[0]) * normal + np.sqrt(spreads[1]) * crowd
    return rounds, np.asarray(mean * np.exp(swings - sum(spreads) / 2))


def _met_prompts(
    load: Load, state: Steady, rounds: Array, alone: Array, lag: Array,
    behind: Array, chance: Array,
) -> Array:  # fmt: skip
    """Seconds that others' prompts add to a request's rounds.

    Prompts go first, so that decoding is work of the least priority in M/G/1: each that comes while
    it is under way, or came behind it before its first token (`exposed` seconds in all), delays it
    by a busy period that starts with that prompt, of mean S / (1 - r) and mean square
    S^2 / (1 - r)^3; and so do seconds of prompts `behind` it from the beginning. None lasts for
    more steps than the request has rounds. Who keeps a fixed concurrency meets prompts one by one.
    """
    heaps = state.others_rate * (alone * state.stretch / state.heap + lag)
    number, mates = heaps * state.heap, state.burst - 1
    some = np.maximum(-np.expm1(-heaps / state.burst), 1e-12)
    mean = number * state.prefill_seconds
    each = state.prefill_square + 2 * mates * state.prefill_seconds**2
    late = delay(chance, some, mean / some, (number * each * state.heap**2 + mean**2) / some)
    long = long_step(state.mixed_seconds[:, 0], load.groups.share)[:, None]
    most = rounds * np.maximum(long - state.round_seconds, 0.0)
    return np.minimum(late + behind * state.heap, most)


def _gaps(state: Steady, share: Array) -> tuple[Array, Array, Array]:
    """Gaps between tokens: (G - 1) / G of them are 0, the rest one step, with or without prompts.

    Their squared variation follows in closed form: G (1 + cv_step^2) - 1.
    """
    emitted = state.tokens_per_round[:, 0]
    mixed = state.mixed_share[:, 0]
    steps = np.concatenate([state.round_seconds, state.mixed_seconds[:, 0]], axis=1)
    weight = np.concatenate([(1 - mixed)[:, None], mixed[:, None] * share], axis=1)
    values = np.concatenate([np.zeros((state.configs, 1)), steps], axis=1)
    chance = np.concatenate([(1 - 1 / emitted)[:, None], weight / emitted[:, None]], axis=1)
    order = np.argsort(values, axis=1, kind="stable")
    reached = np.cumsum(np.take_along_axis(chance, order, axis=1), axis=1)
    ranked = np.take_along_axis(values, order, axis=1)
    found = [
        np.take_along_axis(ranked, _first(reached, p / 100), axis=1)[:, 0] for p in PERCENTILES
    ]
    mean = (weight * steps).sum(axis=1)
    variation = (weight * steps**2).sum(axis=1) / mean**2
    return np.stack(found, axis=1), mean / emitted, np.sqrt(np.maximum(emitted * variation - 1, 0))


def _first(reached: Array, share: float) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Index of the first entry that reaches a share, [config, 1]."""
    found = np.argmax(reached >= share - 1e-12, axis=1)
    return np.asarray(found[:, None])
