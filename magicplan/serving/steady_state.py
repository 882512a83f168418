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

from magicplan.roofline.deployment import Array
from magicplan.serving.chunked_prefill import Rounds, bursts, chunks_of, mix_prompts, queue_prompts
from magicplan.serving.in_flight import decoding_of, flow_of, peakedness_of, settling_of, spread_cv2
from magicplan.serving.load import Load
from magicplan.serving.step_time import PrefillCost, RowTable

UTILISATIONS = np.linspace(0.02, 0.95, 32)
"""Of replicas that only prefill."""


SETTLING_ROUNDS = 2
"""Of the iteration between the number in flight and how it fluctuates."""


Flags = NDArray[np.bool_]


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
    peakedness: Array
    """Variance of that number over its mean: 1 where requests come and go independently."""
    settling: Array
    """How much of a change of that number is undone within one stay of a request."""
    step_seconds: Array
    """A mean round of a mean request, prompts included."""
    stretch: Array
    """Seconds that pass for each second of rounds, while prompts come and go."""
    heap: Array
    """Prompts that follow each other, where one sets out and more come while it is computed."""
    follow: Array
    """Share of the prompts that come while others are computed, of those that come on average."""
    rounds_per_request: Array
    rate: Array
    """Requests a second that keep this many in flight."""
    others_rate: Array
    """Prompts a second that a request meets: all but its own."""
    prefill_seconds: Array
    """What one request's prompt adds to the rounds of all others."""
    prefill_square: Array
    """Its mean square."""
    mixed_share: Array
    """Share of steps that carry chunks of others' prompts, as a decoding request meets them."""
    busy_share: Array
    """Share of time spent in such steps."""
    burst: Array
    """Requests that arrive at once, on average."""
    prompt_load: Array
    """Prompt tokens that arrive over those that full steps could take; below 1, or queues grow."""
    backlog_load: Array
    """Probability that a prompt waits for others."""
    backlog_seconds: Array
    """Mean wait behind other prompts, where there is one."""
    backlog_square: Array
    """Its mean square."""
    prompt_seconds: Array
    """Of a mean prompt, when full steps follow each other."""
    own_seconds: Array
    """[config, b, k]: a prompt's own steps, from its first to its first token."""
    mixed_seconds: Array
    """[config, b, k]: one step that carries such a prompt or a chunk of it."""
    room_seconds: Array
    """[config, b, k]: of others' chunks, that the last step of such a prompt has room for."""
    request_share: Array
    """Cache of a mean request in flight over all there is for requests."""
    request_spread: Array
    """Mean square of that share, over the requests in flight."""
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
        elif name.endswith("_square"):  # seconds squared
            found = values * factor**2
        elif name.endswith("rate"):
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
    batch = np.broadcast_to(rounds.batch, rounds.round_seconds.shape)
    # requests of one token are done with their prompts: next to nothing is left to decode
    decoded = max(float(load.decoded.mean()), 1e-3)
    per_request = (decoded + _overshoot(rounds)) / rounds.tokens_per_round
    rows = batch * (rounds.gamma + 1)
    fed = rows / prefill.stages.reshape(-1, 1)  # to each micro-batch
    space = np.maximum(batched_tokens - fed, 1.0)
    chunks = chunks_of(load, table, prefill, rows, space)
    undone = settling = np.ones_like(batch) if load.replaces else settling_of(rounds)
    decoding = batch if load.replaces else np.maximum(batch - np.minimum(batch, 1.0), 0.0)
    for _ in range(1 if load.replaces else SETTLING_ROUNDS):
        arrivals = decoding / per_request
        mix = mix_prompts(load, rounds, table, chunks, arrivals, sequence_seconds)
        flow = flow_of(load, rounds, decoding, per_request, arrivals, mix)
        if not load.replaces:
            settling = undone if load.users is None else undone + flow.stay / flow.away
            decoding = decoding_of(load, rounds, per_request, settling, flow, mix)
    flow = flow_of(load, rounds, decoding, per_request, decoding / per_request, mix)
    in_flight = flow.rate * flow.stay
    peakedness = peakedness_of(load, batch, decoding)
    request, spread = _request_shares(room)
    beside = (
        flow.rate * (mix.own @ load.groups.share) * _share(room, room.prefilling_bytes[:, None])
    )
    use, margin = _memory(in_flight, peakedness, request, spread, beside)
    holds = (np.maximum(in_flight, np.minimum(batch, 1.0)) * request <= 1) & (
        batch <= room.max_sequences
    )
    return Steady(
        batch=batch,
        gamma=np.broadcast_to(rounds.gamma, batch.shape),
        depth=np.broadcast_to(rounds.depth, batch.shape),
        round_seconds=rounds.round_seconds,
        tokens_per_round=rounds.tokens_per_round,
        tokens_variance=rounds.tokens_variance,
        in_flight=in_flight,
        peakedness=peakedness,
        settling=settling,
        step_seconds=flow.stay / per_request,
        stretch=flow.stretch,
        heap=flow.heap,
        follow=flow.follow,
        rounds_per_request=per_request,
        rate=flow.rate,
        others_rate=flow.queue.others_rate,
        prefill_seconds=mix.extra,
        prefill_square=mix.extra_square,
        mixed_share=np.minimum(mix.steps * flow.met, 1.0),
        busy_share=flow.queue.busy,
        burst=bursts(spread_cv2(load, flow.rate)),
        prompt_load=flow.queue.load,
        backlog_load=flow.queue.waits,
        backlog_seconds=flow.queue.wait,
        backlog_square=flow.queue.wait_square,
        prompt_seconds=mix.work,
        own_seconds=mix.own + prefill.request_seconds,
        mixed_seconds=mix.mixed,
        room_seconds=mix.room,
        request_share=request + np.zeros_like(batch),
        request_spread=spread + np.zeros_like(batch),
        kv_share=use,
        kv_margin=margin,
        holds=holds & (fed < batched_tokens),
        keeps_up=holds & (fed < batched_tokens) & (flow.queue.offered < 1),
    )


def _overshoot(rounds: Rounds) -> Array:
    """Tokens that the last round of a request emits in vain, by renewal theory."""
    mean = rounds.tokens_per_round
    return np.asarray((rounds.tokens_variance + mean**2 - mean) / (2 * mean))


def _share(room: Room, bytes_held: Array) -> Array:
    return np.asarray(bytes_held / np.maximum(room.free_bytes[:, None], 1.0))


def _request_shares(room: Room) -> tuple[Array, Array]:
    """Cache of a request in flight over all there is, [config, 1 or b]: mean and mean square."""
    mean, more = room.request_bytes[:, None], room.lookahead_bytes
    square = room.request_bytes_squared[:, None] + more * (2 * mean + more)
    return _share(room, mean + more), square / np.maximum(room.free_bytes[:, None], 1.0) ** 2


def _memory(
    in_flight: Array, peakedness: Array, request: Array, spread: Array, beside: Array | float
) -> tuple[Array, Array]:
    """Mean use of the cache, and the margin in standard deviations.

    Each request in flight has a length of its own, and their number varies. Use is skewed to the
    right, like a gamma variable, whose cube root is nearly normal (Wilson and Hilferty).
    """
    use = in_flight * request + beside
    varies = np.maximum(in_flight, 0.0) * (spread + (peakedness - 1) * request**2)
    mean = np.maximum(use, 1e-9)
    shape = mean**2 / np.maximum(varies, 1e-18)
    margin = 3 * np.sqrt(shape) * (np.cbrt(1 / mean) - 1 + 1 / (9 * shape))
    return np.asarray(use), np.asarray(margin)


def without_prefill(load: Load, state: Steady) -> Steady:
    """The same replicas where others prefill: rounds are never stretched, and requests come as they
    do, in no heaps."""
    zero = np.zeros_like(state.rate)
    in_flight, peakedness = state.batch, zero
    if not load.replaces:
        noise = bursts(spread_cv2(load, state.rate))
        peakedness = noise / state.settling
        seen = peakedness * np.minimum(state.batch, 1.0)
        in_flight = np.maximum(state.batch - seen, 0.0)
    held = state.request_share, state.request_spread
    use, margin = _memory(in_flight, peakedness, *held, 0.0)
    return replace(
        state,
        kv_share=use,
        kv_margin=margin,
        in_flight=in_flight,
        peakedness=peakedness,
        step_seconds=state.round_seconds,
        stretch=zero + 1,
        heap=zero + 1,
        follow=zero,
        rate=in_flight / (state.rounds_per_request * state.round_seconds),
        others_rate=zero,
        prefill_seconds=zero,
        prefill_square=zero,
        mixed_share=zero,
        busy_share=zero,
        prompt_load=zero,
        backlog_load=zero,
        backlog_seconds=zero,
        backlog_square=zero,
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
    chunks = chunks_of(random, table, prefill, zero, zero + batched_tokens)
    single = mix_prompts(random, rounds, table, chunks, zero, 0.0)
    rate = UTILISATIONS / single.work
    mix = mix_prompts(random, rounds, table, chunks, rate * single.alone, 0.0)
    cv2 = spread_cv2(load, rate)
    queue = queue_prompts(random, rate, zero, rate * single.alone, mix, cv2)
    return Steady(
        batch=zero, gamma=zero, depth=zero, round_seconds=step, tokens_per_round=zero + 1,
        tokens_variance=zero, in_flight=zero, peakedness=zero + 1, settling=zero + 1,
        step_seconds=step, stretch=zero + 1, heap=zero + 1, follow=zero + 1, rate=rate,
        others_rate=queue.others_rate,
        rounds_per_request=zero + load.decoded.mean(),
        prefill_seconds=mix.extra, prefill_square=mix.extra_square, mixed_share=zero + 1,
        busy_share=queue.busy, backlog_load=queue.waits, backlog_seconds=queue.wait,
        backlog_square=queue.wait_square, prompt_seconds=mix.work,
        own_seconds=mix.own + moving[:, None, :] + prefill.request_seconds,
        mixed_seconds=mix.mixed, room_seconds=mix.room, burst=bursts(cv2),
        prompt_load=queue.load, request_share=zero, request_spread=zero, kv_share=zero,
        kv_margin=zero + 99.0, holds=zero == 0, keeps_up=zero == 0,
    )  # fmt: skip


SAFE_MARGIN = 3.09
"""Standard deviations that the cache keeps free: requests in flight outgrow it for at most 0.1 %
of the time; a batch with less is one that the replica does not hold. So little, because overflow
feeds itself: a preempted request brings its prompt again, to be computed before all decoding."""


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
    """Seconds that one more request in the batch adds to a round, [n], at fractional indices."""
    low = np.clip(np.floor(at).astype(np.int64), 0, max(state.rate.shape[1] - 2, 0))
    high = np.minimum(low + 1, state.rate.shape[1] - 1)
    rise = state.round_seconds[config, high] - state.round_seconds[config, low]
    run = state.batch[config, high] - state.batch[config, low]
    return np.asarray(np.maximum(rise, 0.0) / np.maximum(run, 1e-9))
