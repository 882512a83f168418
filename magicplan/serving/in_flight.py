"""How many requests are in flight at the batch that one of them sees, and how that number varies.

Prompts stretch rounds, and rounds of more requests take longer: both feed back on the number. Axes
are those of `serving`: [config, batch].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.chunked_prefill import (
    Mix,
    Queue,
    Rounds,
    bursts,
    others_share,
    queue_prompts,
)
from magicplan.serving.load import Load

LEAST_SETTLING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """Requests that pass through at each batch, [config, b]."""

    rate: Array
    stretch: Array
    heap: Array
    follow: Array
    met: Array
    """Prompts that a decoding request meets in a round."""
    stay: Array
    """Seconds from the first token to the last."""
    away: Array
    """Seconds from the last token to the next first one."""
    queue: Queue


def flow_of(
    load: Load, rounds: Rounds, decoding: Array, per_request: Array, arrivals: Array, mix: Mix
) -> Flow:
    """The rate at which so many decode, by Little's law over the time that is left to decoding.

    Prompts stretch it. A request stays for its own rounds and for others' prompts: those that come
    meanwhile, and those behind it when it begins (see `latency.sample`).
    """
    alone = per_request * rounds.round_seconds
    met = arrivals * others_share(load, rounds, decoding, per_request, arrivals, mix)
    stretch = 1 + met * mix.extra / rounds.round_seconds
    rate = decoding / (alone * stretch)
    cv2 = spread_cv2(load, rate)
    queue = queue_prompts(load, rate, decoding, arrivals, mix, cv2)
    follow = _follow(load, stretch, mix)
    heap = 1 / (1 - (1 - 1 / stretch) * follow)
    share = load.groups.share
    ahead, burst = queue.waits * queue.wait, bursts(cv2)
    if load.replaces:
        away = ahead + mix.own_mean
        return Flow(
            rate=rate, stretch=stretch, heap=heap, follow=follow, met=met, stay=alone * stretch,
            away=away, queue=queue,
        )  # fmt: skip
    came = (1 - queue.load) * ahead
    behind = follow * queue.others_rate * came + burst - 1
    joined = mean_within(behind * mix.extra, mix.room @ share)
    prefill = ahead + mix.own_mean + joined
    heaps = queue.others_rate * (alone * stretch / heap + follow * (prefill - came))
    late = heap * ((heaps + behind) * mix.extra - joined)
    some = np.maximum(-np.expm1(-heaps), 1e-12)
    most = per_request * np.maximum(long_step(mix.mixed, share) - rounds.round_seconds, 0.0)
    stay = alone + some * mean_within(late / some, most)
    away = load.think_seconds + prefill
    return Flow(
        rate=rate, stretch=stretch, heap=heap, follow=follow, met=met, stay=stay, away=away,
        queue=queue,
    )  # fmt: skip


def _follow(load: Load, stretch: Array, mix: Mix) -> Array:
    """See `Steady`: all at random arrivals; of users those who think for longer than prompts are
    computed without a break, since nobody who waits for an answer asks; none at a fixed
    concurrency. Other pipeline stages compute what comes meanwhile: only a prompt's own follows."""
    busy = mix.extra_square / np.maximum(mix.extra, 1e-12) * stretch**2
    think = load.think_seconds / np.maximum(load.think_seconds + busy, 1e-12)
    if load.users is None:
        think = np.ones_like(stretch)
    return np.asarray(think / mix.stages)


def mean_within(mean: Array, most: Array) -> Array:
    """Mean of the lesser of an exponential variable and a bound."""
    return np.asarray(-mean * np.expm1(-most / np.maximum(mean, 1e-12)))


def long_step(mixed: Array, share: Array) -> Array:
    """A step with prompts as it is met, in proportion to its length."""
    return np.asarray((mixed**2 @ share) / (mixed @ share))


def spread_cv2(load: Load, rate: Array) -> Array:
    """Squared variation of the gaps between arrivals at one of as many replicas as serve the load
    at this rate each: bursts of m are spread at random, 1 + (m - 1) / replicas to each that gets
    any."""
    part = np.minimum(rate / load.requests_per_s, 1.0) if load.users is None else np.ones_like(rate)
    return np.asarray(1 + (load.arrival_cv2 - 1) * part)


def settling_of(rounds: Rounds) -> Array:
    """How much of a change of the number in flight is undone within one stay: all where requests
    come and go independently. Rounds of more requests take longer. (Of users, those in flight do
    not think either.)"""
    rise = np.gradient(rounds.round_seconds, rounds.batch, axis=-1) / rounds.round_seconds
    return np.clip(1 - rise * np.maximum(rounds.batch - 1, 0.0), LEAST_SETTLING, 1.0)


def decoding_of(
    load: Load, rounds: Rounds, per_request: Array, settling: Array, flow: Flow, mix: Mix
) -> Array:
    """Mean number that decode, over the time left to decoding, where one of them sees `batch`.

    A number of mean N and variance z N looks, to those that make it up, like N + z. Requests leave
    at a rate x = N / decoding time, and come in heaps: an arrival, and all who arrive while its
    prompt is computed. By linear noise, z = (noise of arrivals + of departures) / 2 settling, of
    which arrivals' is the mean square of 1 + x S, S being the seconds of a prompt, plus
    (cv2 - 1) (1 + x mean S)^2. So N + z = batch is a quadratic equation in x.
    """
    alone = per_request * rounds.round_seconds
    cv2 = spread_cv2(load, flow.rate)
    # of a heap, by when its last prompt is done
    kept = flow.follow * per_request / (per_request + mix.steps)
    mean, square = kept * mix.extra, kept * mix.extra_square
    seen = np.minimum(rounds.batch, 1.0) / settling
    constant = rounds.batch - seen * (cv2 + 1) / 2
    linear = alone + seen * cv2 * mean
    quadratic = seen * (square + (cv2 - 1) * mean**2) / 2
    left = np.maximum(constant, 0.0)
    return np.asarray(
        2 * alone * left / (linear + np.sqrt(linear**2 + 4 * np.maximum(quadratic, 0.0) * left))
    )


def peakedness_of(load: Load, batch: Array, decoding: Array) -> Array:
    """Variance over mean of the number that decode, see `decoding_of`; 0 of a fixed one."""
    if load.replaces:
        return np.zeros_like(decoding)
    return np.asarray((batch - decoding) / np.minimum(batch, 1.0))
