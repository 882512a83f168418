"""Steady state of continuous batching, in closed form, for many replicas at once.

Every quantity is a function of the batch that a decoding request sees, so that the arrival rate
is an output; only corrections of the second order are iterated. Little's law ties them: B requests
in flight, each of n rounds of T seconds, arrive at B / (n T) a second; each brings S seconds of
prompt chunks that stretch the rounds of the others, T = round + B S / n.
Axes are [config, batch]; prompts add a last axis of groups [k].
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.planning.engine import PrefillCost, RowTable
from magicplan.planning.prompt_chunks import Rounds, mix_prompts, others_share, queue_prompts
from magicplan.planning.traffic_load import Load
from magicplan.roofline.deployment import Array

UTILISATIONS = np.linspace(0.02, 0.95, 32)
"""Of replicas that only prefill."""
SLOWNESS_ROUNDS = 5
"""Of the iteration between the rate and the share of time that prompts take at that rate."""
Flags = NDArray[np.bool_]
SAFE_MARGIN = 2.326
"""Standard deviations that the cache keeps free: requests in flight outgrow it for at most 1 % of
the time; a batch with less is one that the replica does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """KV memory of one GPU, [config]: bytes free for requests, bytes of a request in flight (mean
    and mean square over the length-biased contexts), bytes of a request that is being prefilled."""

    free_bytes: Array
    request_bytes: Array
    request_bytes_squared: Array
    prefilling_bytes: Array
    max_sequences: float
    lookahead_bytes: Array | float = 0.0
    """[config, b] more bytes of a request where it drafts a tree larger than the longest chain."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steady:
    """The state of a replica at each batch seen. Every array is [config, b] unless it says more."""

    batch: Array
    """Requests that a decoding request sees in its steps, itself included."""
    gamma: Array
    """Tokens that a round drafts: of a chain its length, of a tree its nodes without the root."""
    depth: Array
    """Levels that a round drafts; less than `gamma` where it drafts a tree."""
    round_seconds: Array
    """A round without prompts."""
    tokens_per_round: Array
    tokens_variance: Array
    in_flight: Array
    """Requests that decode, on average over time."""
    step_seconds: Array
    """A mean round of a mean request, prompts included."""
    fast_seconds: Array
    """The same for a request that stays long: prompts come and go many times."""
    slow_seconds: Array
    """The same for one that stays for an instant: prompts are there for all of it, or for none."""
    turnover: Array
    """How often, in a round, the engine starts or ends to prefill: what "long" is measured in."""
    rounds_per_request: Array
    rate: Array
    """Requests a second that keep this many in flight."""
    prefill_seconds: Array
    """What one request's prompt adds to the rounds of all others."""
    prefill_square: Array
    """Its mean square."""
    mixed_share: Array
    """Share of steps that carry chunks of others' prompts, as a decoding request meets them."""
    busy_share: Array
    """Share of time spent in such steps."""
    backlog_load: Array
    """Prompt tokens that arrive over those that full steps could take; below 1, or queues grow."""
    backlog_seconds: Array
    """Mean wait behind other prompts, where there is one."""
    prompt_seconds: Array
    """Of a mean prompt, when full steps follow each other."""
    own_seconds: Array
    """[config, b, k]: a prompt's own steps, from its first to its first token."""
    mixed_seconds: Array
    """[config, b, k]: one step that carries such a prompt or a chunk of it."""
    kv_share: Array
    """Mean share of the cache in use."""
    kv_margin: Array
    """Free cache over the standard deviation of its use: how rarely requests outgrow it."""
    holds: Flags
    """Whether the replica may run that batch and has cache for it on average."""
    keeps_up: Flags
    """Whether it also computes prompts as fast as they come."""

    @property
    def configs(self) -> int:
        """How many replicas are described."""
        return int(self.rate.shape[0])

    def pick(self, config: NDArray[np.int64], at: Array) -> Steady:
        """States of some configs at fractional batch indices: [n] becomes the config axis, and the
        batch axis has one entry. Between grid points everything is interpolated."""
        low = np.clip(np.floor(at).astype(np.int64), 0, self.rate.shape[1] - 1)
        high = np.minimum(low + 1, self.rate.shape[1] - 1)
        share = at - low

        def between(values: Array) -> Array:
            first, last = values[config, low], values[config, high]
            weight = share.reshape(-1, *([1] * (first.ndim - 1)))
            return np.asarray((first + weight * (last - first))[:, None])

        parts: dict[str, Any] = {}
        for entry in fields(self):
            values = getattr(self, entry.name)
            if entry.name in ("gamma", "depth", "holds", "keeps_up"):
                parts[entry.name] = values[config, np.rint(at).astype(np.int64)][:, None]
            else:
                parts[entry.name] = between(values)
        return Steady(**parts)


def join(parts: list[Steady]) -> Steady:
    """Many steady states behind each other on the config axis."""
    return Steady(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Steady)}
    )


def at_speeds(state: Steady, slower: Array) -> Steady:
    """The same replicas with all times longer by factors [n, config or 1]: n times as many, behind
    each other on the config axis. Shares and batches stay, rates fall by the factor."""

    def scaled(name: str, values: NDArray[Any]) -> NDArray[Any]:
        factor = slower.reshape(*slower.shape, *([1] * (values.ndim - 1)))
        if name.endswith("_seconds"):
            found = values * factor
        elif name == "prefill_square":  # seconds squared
            found = values * factor**2
        elif name == "rate":
            found = values / factor
        else:
            found = np.broadcast_to(values, (slower.shape[0], *values.shape))
        return np.asarray(found).reshape(-1, *values.shape[1:])

    return Steady(**{f.name: scaled(f.name, getattr(state, f.name)) for f in fields(Steady)})


def steady_states(
    load: Load,
    rounds: Rounds,
    table: RowTable,
    prefill: PrefillCost,
    room: Room,
    *,
    batched_tokens: float,
    sequence_seconds: float = 0.0,
) -> Steady:
    """Every batch seen on the grid of `rounds`, prompts chunked into steps that also decode."""
    share = load.groups.share
    batch = np.broadcast_to(rounds.batch, rounds.round_seconds.shape)
    in_flight = np.maximum(batch - _poisson_share(load) * np.minimum(batch, 1.0), 0.0)
    # requests of one token are done with their prompts: next to nothing is left to decode
    decoded = max(float(load.decoded.mean()), 1e-3)
    per_request = (decoded + _overshoot(rounds)) / rounds.tokens_per_round
    arrivals = in_flight / per_request
    rows = batch * (rounds.gamma + 1)
    fed = rows / prefill.stages.reshape(-1, 1)  # to each micro-batch
    space = np.maximum(batched_tokens - fed, 1.0)
    mix = mix_prompts(load, rounds, table, prefill, rows, space, arrivals, sequence_seconds)
    met = arrivals * others_share(load, rounds, in_flight, per_request, arrivals, mix)
    fast = rounds.round_seconds + met * mix.extra
    rate = in_flight / (per_request * fast)
    mixed = (mix.mixed * share).sum(axis=-1)
    step, slow, turnover = fast, fast, np.ones_like(fast)
    queue = queue_prompts(load, rate, in_flight, arrivals, mix)
    for _ in range(0 if load.replaces else SLOWNESS_ROUNDS):
        slow = rounds.round_seconds + queue.busy * (mixed - rounds.round_seconds)
        turnover = _turnover(rate, queue.busy, rounds.round_seconds, mixed)
        step = fast + np.maximum(slow - fast, 0.0) * remaining(turnover * per_request)
        rate = np.sqrt(rate * in_flight / (per_request * step))
        queue = queue_prompts(load, rate, in_flight, arrivals, mix)
    rate = in_flight / (per_request * step)
    use, margin, holds = _memory(room, batch, in_flight, rate, mix.own, share)
    return Steady(
        batch=batch,
        gamma=np.broadcast_to(rounds.gamma, batch.shape),
        depth=np.broadcast_to(rounds.depth, batch.shape),
        round_seconds=rounds.round_seconds,
        tokens_per_round=rounds.tokens_per_round,
        tokens_variance=rounds.tokens_variance,
        in_flight=in_flight,
        step_seconds=step,
        fast_seconds=fast,
        slow_seconds=np.maximum(slow, fast),
        turnover=turnover,
        rounds_per_request=per_request,
        rate=rate,
        prefill_seconds=mix.extra,
        prefill_square=mix.extra_square,
        mixed_share=np.minimum(mix.steps * met, 1.0),
        busy_share=queue.busy,
        backlog_load=queue.load,
        backlog_seconds=queue.wait,
        prompt_seconds=mix.work,
        own_seconds=mix.own + prefill.request_seconds,
        mixed_seconds=mix.mixed,
        kv_share=use,
        kv_margin=margin,
        holds=holds & (fed < batched_tokens),
        keeps_up=holds & (fed < batched_tokens) & (queue.offered < 1),
    )


def _turnover(rate: Array, busy: Array, plain: Array, mixed: Array) -> Array:
    """Changes a round between an engine that prefills (a share `busy` of the time) and one that
    does not, as a two-state Markov chain that prompts switch on at `rate`."""
    off = rate * (1 - busy) / np.maximum(busy, 1e-9)
    return np.asarray(rate * plain + off * mixed)


def remaining(changes: Array) -> Array:
    """Mean of exp(-u) over u from 0 to `changes`: of a state at the start, what a stay sees."""
    small = np.maximum(changes, 1e-9)
    return np.asarray(-np.expm1(-small) / small)


def _poisson_share(load: Load) -> float:
    """What a decoding request sees beyond the time average: itself, where requests come and go at
    random, from anywhere or from thinking users; nothing where a fixed number always decodes."""
    return 0.0 if load.replaces else 1.0


def _overshoot(rounds: Rounds) -> Array:
    """Tokens that the last round of a request emits in vain, by renewal theory."""
    mean = rounds.tokens_per_round
    return np.asarray((rounds.tokens_variance + mean**2 - mean) / (2 * mean))


def _memory(
    room: Room, batch: Array, in_flight: Array, rate: Array, own: Array, share: Array
) -> tuple[Array, Array, Flags]:
    """Mean use of the cache, margin in standard deviations, and whether the batch may run.

    Requests in flight come and go at random, so their bytes vary as a compound Poisson sum.
    """
    prefilling = rate * (own * share).sum(axis=-1)
    more = room.lookahead_bytes
    request = room.request_bytes[:, None] + more
    square = room.request_bytes_squared[:, None] + more * (request + room.request_bytes[:, None])
    mean = in_flight * request + prefilling * room.prefilling_bytes[:, None]
    deviation = np.sqrt(np.maximum(in_flight, 0.0) * square)
    left = room.free_bytes[:, None] - mean
    margin = left / np.maximum(deviation, 1.0)
    use = mean / np.maximum(room.free_bytes[:, None], 1.0)
    one = room.free_bytes[:, None] >= batch * request
    return use, margin, np.asarray(one & (batch <= room.max_sequences), dtype=np.bool_)


def without_prefill(state: Steady) -> Steady:
    """The same replicas where others prefill: rounds are never stretched."""
    zero = np.zeros_like(state.rate)
    return replace(
        state,
        step_seconds=state.round_seconds,
        fast_seconds=state.round_seconds,
        slow_seconds=state.round_seconds,
        rate=state.in_flight / (state.rounds_per_request * state.round_seconds),
        prefill_seconds=zero,
        prefill_square=zero,
        mixed_share=zero,
        busy_share=zero,
        backlog_load=zero,
        backlog_seconds=zero,
        keeps_up=state.holds,
    )


def prefill_pool(
    load: Load,
    table: RowTable,
    prefill: PrefillCost,
    overhead: Array,
    moving: Array,
    batched_tokens: float,
) -> Steady:
    """Replicas that only prefill: the batch axis is `UTILISATIONS` instead.

    `overhead` [config] seconds of any step, `moving` [config, k] seconds until the cache of a
    prompt has reached the replica that decodes.
    """
    zero = np.zeros((overhead.size, UTILISATIONS.size))
    step = overhead[:, None] + table.at(zero)  # weights are read whatever the step feeds
    rounds = Rounds(
        batch=zero, gamma=zero, depth=zero, round_seconds=step, draft_seconds=zero,
        tokens_per_round=zero + 1, tokens_variance=zero,
    )  # fmt: skip
    random = replace(load, users=None)
    space = zero + batched_tokens
    single = mix_prompts(random, rounds, table, prefill, zero, space, zero, 0.0)
    rate = UTILISATIONS / single.work
    mix = mix_prompts(random, rounds, table, prefill, zero, space, rate * single.alone, 0.0)
    queue = queue_prompts(random, rate, zero, rate * single.alone, mix)
    return Steady(
        batch=zero, gamma=zero, depth=zero, round_seconds=step, tokens_per_round=zero + 1,
        tokens_variance=zero, in_flight=zero, step_seconds=step, fast_seconds=step,
        slow_seconds=step, turnover=zero, rate=rate,
        rounds_per_request=zero + load.decoded.mean(),
        prefill_seconds=mix.extra, prefill_square=mix.extra_square, mixed_share=zero + 1,
        busy_share=queue.busy, backlog_load=queue.load, backlog_seconds=queue.wait,
        prompt_seconds=mix.work,
        own_seconds=mix.own + moving[:, None, :] + prefill.request_seconds,
        mixed_seconds=mix.mixed, kv_share=zero,
        kv_margin=zero + 99.0, holds=zero == 0, keeps_up=zero == 0,
    )  # fmt: skip


def last_feasible(state: Steady, margin: float = SAFE_MARGIN) -> NDArray[np.int64]:
    """Index of the batch up to which every batch keeps up and leaves `margin` standard deviations
    of cache free, [config]; -1 where none does."""
    bad = ~(state.keeps_up & (state.kv_margin >= margin))
    return np.asarray(np.where(bad.any(axis=1), bad.argmax(axis=1), bad.shape[1]) - 1)


def edge_of(state: Steady, margin: float = 0.0) -> Array:
    """Fractional index at which the cache leaves just `margin` standard deviations, [config]; the
    last batch that keeps up where something else ends it."""
    last = np.maximum(last_feasible(state, margin), 0)
    after = np.minimum(last + 1, state.rate.shape[1] - 1)
    rows = np.arange(state.configs)
    here, there = state.kv_margin[rows, last], state.kv_margin[rows, after]
    share = np.clip((here - margin) / np.maximum(here - there, 1e-12), 0.0, 1.0)
    return np.asarray(last + np.where(state.keeps_up[rows, after], share * (after - last), 0.0))


def where_reached(values: Array, wanted: Array, end: NDArray[Any]) -> Array:
    """Fractional batch index at which rising `values` [config, b] reach `wanted` [config].

    The first index where all are above, `end` where none up to it reaches it.
    """
    found = np.empty(wanted.shape)
    for row, (ladder, target, most) in enumerate(zip(values, wanted, end, strict=True)):
        rising = np.maximum.accumulate(ladder[: int(np.ceil(most)) + 1])
        found[row] = min(np.interp(target, rising, np.arange(float(rising.size))), most)
    return found


def reached(values: Array, at: Array) -> Array:
    """Values [config, b] at fractional indices, [config]."""
    rows = np.arange(values.shape[0])
    low = np.clip(np.floor(at).astype(np.int64), 0, values.shape[1] - 1)
    high = np.minimum(low + 1, values.shape[1] - 1)
    return np.asarray(values[rows, low] + (at - low) * (values[rows, high] - values[rows, low]))


def slope_at(state: Steady, config: NDArray[np.int64], at: Array) -> Array:
    """Seconds that one more request in the batch adds to a step, [n], around fractional indices."""
    low = np.clip(np.floor(at).astype(np.int64), 0, max(state.rate.shape[1] - 2, 0))
    high = np.minimum(low + 1, state.rate.shape[1] - 1)
    rise = state.step_seconds[config, high] - state.step_seconds[config, low]
    run = state.batch[config, high] - state.batch[config, low]
    return np.asarray(np.maximum(rise, 0.0) / np.maximum(run, 1e-9))
