"""Prompts that ride along with decoding: how they fill steps, what that costs, and who waits.

Axes are [config, batch]; prompts add a last axis of groups [k].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.planning.engine import PrefillCost, RowTable
from magicplan.planning.traffic_load import Load
from magicplan.roofline.deployment import Array

POPULATION_ROUNDS = 8
"""Of the iteration between a closed population and its waits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounds:
    """Decoding alone, by batch seen [b]: what `engine` and an acceptance model say.

    round_seconds, tokens_per_round (and its variance) [config, b], at draft lengths `gamma`.
    """

    batch: Array
    gamma: Array
    round_seconds: Array
    draft_seconds: Array
    """Of a round: drafting and its bookkeeping."""
    tokens_per_round: Array
    tokens_variance: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What prompts do to steps. [config, b, k] by group, [config, b] averaged over requests."""

    own: Array
    """Seconds of a prompt's own steps, by group."""
    mixed: Array
    """Seconds of one such step, by group."""
    extra: Array
    """Seconds that a prompt adds to the rounds of others."""
    extra_square: Array
    steps: Array
    """Steps that carry prompts, a request."""
    own_mean: Array
    alone: Array
    """Seconds of a request's own steps, a request: prompts that share steps share their time."""
    work: Array
    """Seconds of a prompt when full steps follow each other; of a mean one."""
    work_biased: Array
    """The same of the prompt that one in the queue finds, halved: mean square over twice the
    mean."""
    part: Array
    """Full steps that a mean prompt fills."""


def mix_prompts(
    load: Load,
    rounds: Rounds,
    table: RowTable,
    prefill: PrefillCost,
    rows: Array,
    space: Array,
    arrivals: Array,
    sequence_seconds: float,
) -> Mix:
    """Prompts in chunks of at most `space` tokens, on top of `rows` decoded ones.

    Poisson arrivals during one step start together: k = a / (1 - exp(-a)) of them on average.
    Steps that nobody decodes in are spared the draft. Pipeline stages work on as many micro-batches,
    each with its own chunks and its share of arrivals: see `_meeting` for how those meet.
    """
    groups = load.groups
    stages = prefill.stages.reshape(-1, 1)
    share, wide, decoded = groups.share, space[..., None], rows[..., None]
    few = np.maximum(arrivals / stages, 1e-6)
    together = few / -np.expm1(-few)
    whole = np.ceil(groups.new / wide) - 1
    rest = groups.new - whole * wide
    others = (together[..., None] - 1) * float((groups.new * share).sum())
    joined = np.minimum(others, wide - rest)  # into the last step; what spills over fills more
    full = whole + (others - joined) / wide
    base = table.at(decoded)
    deep = stages[..., None]  # what a chunk passes in turn, others' chunks pass beside it
    full_extra = table.at(decoded + deep * wide) - base
    attention = deep * prefill.of(groups.new, groups.cached)[:, None, :]
    mean_attention = (attention * share).sum(axis=-1, keepdims=True)
    extra = full * full_extra + table.at(decoded + deep * (rest + joined)) - base + sequence_seconds
    extra = extra + attention + (together[..., None] - 1) * mean_attention
    steps = ((full + 1) * share).sum(axis=-1) / together
    meeting = together * _meeting(stages, arrivals * steps)
    alone = _alone(load, rounds.batch, arrivals)
    seen = rounds.round_seconds - alone * rounds.draft_seconds
    own = (full + 1) * seen[..., None] + extra
    own_mean = (own * share).sum(axis=-1)
    part = groups.new / wide
    work = part * (rounds.round_seconds[..., None] + full_extra) + attention
    if load.replaces:  # the clock of such a queue is the full step
        work = part * (rounds.round_seconds[..., None] + full_extra + mean_attention)
    work, part = work / deep, part / deep
    work_mean = (work * share).sum(axis=-1)
    return Mix(
        own=own,
        mixed=rounds.round_seconds[..., None] + extra / (full + 1),
        extra=(extra * share).sum(axis=-1) / meeting,
        extra_square=(extra**2 * share).sum(axis=-1) / meeting,
        steps=steps * together / meeting,
        own_mean=own_mean,
        alone=own_mean / meeting,
        work=work_mean,
        work_biased=(work**2 * share).sum(axis=-1) / (2 * work_mean),
        part=(part * share).sum(axis=-1),
    )


def _meeting(stages: Array, chunks: Array) -> Array:
    """How many micro-batches with a chunk share one delay, where a round has `chunks` of them.

    Micro-batches follow each other through the stages and none overtakes: one that is slower by x
    in all stages keeps everybody from the next round for x. On the slowest way through the stages
    (last-passage time) it lasts for as many micro-batches as there are stages, and the next one
    counts after that: (1 - q) / q others on average, where a share q of them has a chunk.
    """
    return np.asarray(1 + np.minimum(chunks, stages) * (1 - 1 / stages))


def _alone(load: Load, batch: Array, arrivals: Array) -> Array:
    """Probability that nobody decodes while a prompt is computed."""
    if load.users is None:
        return np.asarray(np.exp(-np.maximum(batch - 1, 0)) * np.ones_like(arrivals))
    return np.asarray(np.clip(2 - batch, 0.0, 1.0) * np.ones_like(arrivals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Prompts behind prompts, [config, b]."""

    offered: Array
    """Prompt tokens that arrive over those that full steps take."""
    load: Array
    """The same as another prompt meets it."""
    wait: Array
    """Mean seconds of a wait, where there is one."""
    busy: Array
    """Share of time spent in steps with prompts."""


def queue_prompts(load: Load, rate: Array, in_flight: Array, arrivals: Array, mix: Mix) -> Queue:
    """Random arrivals queue as in M/G/1 (Pollaczek and Khinchine), burstier ones longer.

    Of a closed population of K, a prompt meets the K - 1 others (mean value analysis as by
    Schweitzer), which bounds the queue; K follows from the wait and the wait from K, in a few
    rounds. Where answers are followed by requests at once, arrivals come by the step and not by
    the second, and so does the queue's clock.
    """
    offered = arrivals * mix.part if load.replaces else rate * mix.work
    others = np.ones_like(rate)
    if load.users is None:
        wait = (1 + load.arrival_cv2) / 2 * mix.work_biased / np.maximum(1 - offered, 1e-3)
    else:
        others = others / 2
        for _ in range(POPULATION_ROUNDS):
            use = np.minimum(others * offered, 1 - 1e-6)
            wait = mix.work_biased / (1 - use)
            people = in_flight + rate * (load.think_seconds + mix.own_mean + use * wait)
            others = np.maximum(1 - 1 / np.maximum(people, 1.0), 0.0)
    return Queue(
        offered=offered,
        load=others * offered,
        wait=wait,
        busy=np.minimum(others * rate * mix.alone, 1.0),
    )


def others_share(
    load: Load, rounds: Rounds, in_flight: Array, per_request: Array, arrivals: Array, mix: Mix
) -> Array:
    """Share of all prompts that stretch a decoding request's rounds: all but its own."""
    if load.users is None:
        return np.ones_like(arrivals)
    rate = in_flight / (per_request * (rounds.round_seconds + arrivals * mix.extra))
    people = in_flight + rate * (load.think_seconds + mix.own_mean)
    return np.asarray(np.maximum(1 - 1 / np.maximum(people, 1.0), 0.0))
