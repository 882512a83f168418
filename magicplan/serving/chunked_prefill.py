"""Prompts that ride along with decoding: how they fill steps, what that costs, and who waits.

Axes are [config, batch]; prompts add a last axis of groups [k].
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.load import Load
from magicplan.serving.step_time import PrefillCost, RowTable

POPULATION_ROUNDS = 8
"""Of the iteration between a closed population and its waits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounds:
    """Decoding alone, by batch seen [b]: what `engine` and an acceptance model say.

    round_seconds, tokens_per_round (and its variance) [config, b], where `gamma` tokens are drafted
    in `depth` levels.
    """

    batch: Array
    gamma: Array
    depth: Array
    round_seconds: Array
    draft_seconds: Array
    """Of a round: drafting and its bookkeeping."""
    tokens_per_round: Array
    tokens_variance: Array
    looked_at: int = 1
    """Chains and trees that these are the best of."""


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
    work_square: Array
    """Its mean square."""
    left: Array
    """What is left of the own steps of a prompt under way: mean square over twice the mean."""
    left_square: Array
    """Its mean square: mean cube over three times the mean."""
    room: Array
    """Seconds of others' chunks that its last step has room for, by group."""
    part: Array
    """Full steps that a mean prompt fills."""
    stages: Array
    """Of the pipeline, whose prompts are computed side by side."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunks:
    """A prompt in chunks of at most `space` tokens on top of `rows` decoded ones, by group
    [config, b, group], whoever else comes: seconds beyond a step that decodes alone."""

    rows: Array
    space: Array
    deep: Array
    """Stages that a chunk passes in turn; others' chunks pass beside it."""
    whole: Array
    """Full steps before the last."""
    rest: Array
    """Tokens of the last step."""
    base: Array
    """Of the decoded rows alone."""
    full_extra: Array
    """Of a full step."""
    attention: Array
    alone: Array
    """Of all its steps, attention included."""


def chunks_of(
    load: Load, table: RowTable, prefill: PrefillCost, rows: Array, space: Array
) -> Chunks:
    """What a prompt's steps cost before others join them."""
    groups, deep = load.groups, prefill.stages.reshape(-1, 1, 1)
    wide, decoded = space[..., None], rows[..., None]
    whole = np.ceil(groups.new / wide) - 1
    rest = groups.new - whole * wide
    base = table.at(decoded)
    full_extra = table.at(decoded + deep * wide) - base
    attention = deep * prefill.of(groups.new, groups.cached)[:, None, :]
    return Chunks(
        rows=decoded,
        space=wide,
        deep=deep,
        whole=whole,
        rest=rest,
        base=base,
        full_extra=full_extra,
        attention=attention,
        alone=whole * full_extra + table.at(decoded + deep * rest) - base + attention,
    )


def mix_prompts(
    load: Load,
    rounds: Rounds,
    table: RowTable,
    chunks: Chunks,
    arrivals: Array,
    sequence_seconds: float,
) -> Mix:
    """Prompts in their `chunks`, joined by those that arrive in the same step.

    Poisson arrivals during one step start together: k = a / (1 - exp(-a)) of them on average.
    Steps that nobody decodes in are spared the draft. Pipeline stages work on as many
    micro-batches, each with its own chunks and its share of arrivals; `meeting` says how those
    meet.
    """
    groups, wide, deep = load.groups, chunks.space, chunks.deep
    share, stages = groups.share, deep[..., 0]
    whole, rest, full_extra, attention = (
        chunks.whole, chunks.rest, chunks.full_extra, chunks.attention,
    )  # fmt: skip
    few = np.maximum(arrivals / stages, 1e-6)
    together = few / -np.expm1(-few)
    others = (together[..., None] - 1) * float(groups.new @ share)
    joined = np.minimum(others, wide - rest)  # into the last step; what spills over fills more
    full = whole + (others - joined) / wide
    mean_attention = (attention @ share)[..., None]
    last = table.at(chunks.rows + deep * (rest + joined)) - chunks.base
    extra = full * full_extra + last + sequence_seconds
    extra = extra + attention + (together[..., None] - 1) * mean_attention
    steps = (full + 1) @ share / together
    delayed = together * _sharing(load, chunks, few)
    alone = _alone(load, rounds.batch, arrivals)
    seen = rounds.round_seconds - alone * rounds.draft_seconds
    joint = own = (full + 1) * seen[..., None] + extra
    if not load.replaces:  # who joins is drawn for each request, see `latency.sample`
        own = chunks.alone + sequence_seconds + (whole + 1) * seen[..., None]
    own_mean = own @ share
    part = groups.new / wide
    work = part * (rounds.round_seconds[..., None] + full_extra) + attention
    if load.replaces:  # the clock of such a queue is the full step
        work = part * (rounds.round_seconds[..., None] + full_extra + mean_attention)
    work, part = work / deep, part / deep
    found = work if load.replaces else own
    found_mean = found @ share
    work_mean, work_square = work @ share, work**2 @ share
    return Mix(
        own=own,
        mixed=rounds.round_seconds[..., None] + extra / (full + 1),
        extra=extra @ share / delayed,
        extra_square=extra**2 @ share / delayed,
        steps=steps * together / delayed,
        own_mean=own_mean,
        alone=joint @ share / delayed,
        work=work_mean,
        work_square=work_square,
        left=found**2 @ share / (2 * found_mean),
        left_square=found**2 * found @ share / (3 * found_mean),
        room=(1 - rest / wide) * full_extra,
        part=part @ share,
        stages=stages,
    )


def _sharing(load: Load, chunks: Chunks, arrivals: Array) -> Array:
    """See `meeting`; 1 without pipeline stages."""
    stages, share = chunks.deep[..., 0], load.groups.share
    if np.all(stages == 1):
        return np.ones_like(arrivals)
    chunk_square = (chunks.whole * chunks.space**2 + chunks.rest**2) @ share
    return meeting(
        stages, arrivals, float(load.groups.new @ share), chunk_square, chunks.space[..., 0]
    )


def meeting(
    stages: Array, arrivals: Array, tokens: float, chunk_square: Array, space: Array
) -> Array:
    """How many prompts of different micro-batches share one delay; 1 without pipeline stages.

    Micro-batches follow each other through the stages and do not overtake: one that is slower by x
    in all of them keeps everybody from the next round for x, so the slowest of each round counts.
    Of p that bring work of mean m and squared variation u it brings
    m (1 + (p - 1) sqrt(u / (u + ((p - 1) / M)^2))), M being the mean of the largest of p normal
    numbers (Blom's approximation): within 5 % of the last-passage time of gamma-distributed work
    on 2 to 8 stages. Chunks come as a compound Poisson sum, and full steps do not vary.
    """
    lone = np.maximum(stages, 2.0)
    normal = NormalDist()
    largest = np.vectorize(lambda p: normal.inv_cdf((p - 0.375) / (p + 0.25)))(lone)
    idle = np.clip(1 - arrivals * tokens / space, 0.0, 1.0)
    varies = idle * chunk_square / (arrivals * tokens**2)
    slowest = 1 + (stages - 1) * np.sqrt(varies / (varies + ((lone - 1) / largest) ** 2))
    return np.asarray(stages / slowest)


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
    waits: Array
    """Probability that another prompt is ahead."""
    wait: Array
    """Mean seconds of a wait, where there is one."""
    wait_square: Array
    """Its mean square."""
    others_rate: Array
    """Prompts a second that a request meets: all but its own."""
    busy: Array
    """Share of time spent in steps with prompts."""

    @property
    def mean(self) -> Array:
        """Seconds that a prompt waits."""
        return self.waits * self.wait


def queue_prompts(
    load: Load, rate: Array, in_flight: Array, arrivals: Array, mix: Mix, cv2: Array | float
) -> Queue:
    """Random arrivals queue as in M/G/1 (Pollaczek and Khinchine), burstier ones longer.

    Of a closed population of K, a prompt meets the K - 1 others (mean value analysis as by
    Schweitzer), which bounds the queue; K follows from the wait and the wait from K, in a few
    rounds. Where answers are followed by requests at once, arrivals come by the step and not by
    the second, and so does the queue's clock.
    """
    offered = arrivals * mix.part if load.replaces else rate * mix.work
    each = offered if load.replaces else rate * mix.alone
    others = np.ones_like(rate)
    waits, wait, square = _wait(offered, each, cv2, mix)
    for _ in range(0 if load.users is None else POPULATION_ROUNDS):
        people = in_flight + rate * (load.think_seconds + mix.own_mean + waits * wait)
        others = np.maximum(1 - 1 / np.maximum(people, 1.0), 0.0)
        waits, wait, square = _wait(others * offered, others * each, cv2, mix)
    return Queue(
        offered=offered,
        load=others * offered,
        waits=waits,
        wait=wait,
        wait_square=square,
        others_rate=others * rate,
        busy=np.minimum(others * rate * mix.alone, 1.0),
    )


def _wait(load: Array, busy: Array, cv2: Array | float, mix: Mix) -> tuple[Array, Array, Array]:
    """Chance of a wait, and where there is one its mean and mean square.

    It is a geometric number of pieces (Pollaczek and Khinchine): of what is left of a prompt under
    way, and of whole prompts of the same burst. Bursts of geometric size m come at once, which
    makes gaps between arrivals vary by 2 m - 1; calmer arrivals wait less in proportion.
    """
    use = np.minimum(load, 1 - 1e-3)
    burst = bursts(cv2)
    goes_on = 1 - (1 - use) / burst
    starts = 1 - (1 - np.clip(busy, 0.0, 1.0)) / burst
    whole = (burst - 1) / np.maximum(burst - 1 + use, 1e-12)
    piece = (1 - whole) * mix.left + whole * mix.work
    piece_square = (1 - whole) * mix.left_square + whole * mix.work_square
    mean = piece / (1 - goes_on)
    square = piece_square / (1 - goes_on) + 2 * goes_on * mean**2
    calm = np.minimum((1 + cv2) / 2, 1.0)
    return starts, calm * mean, calm**2 * square


def bursts(cv2: Array | float) -> Array:
    """Mean size of bursts at once whose gaps have this squared coefficient of variation."""
    return np.maximum((1 + np.asarray(cv2)) / 2, 1.0)


def others_share(
    load: Load, rounds: Rounds, in_flight: Array, per_request: Array, arrivals: Array, mix: Mix
) -> Array:
    """Share of all prompts that stretch a decoding request's rounds: all but its own."""
    if load.users is None:
        return np.ones_like(arrivals)
    rate = in_flight / (per_request * (rounds.round_seconds + arrivals * mix.extra))
    people = in_flight + rate * (load.think_seconds + mix.own_mean)
    return np.asarray(np.maximum(1 - 1 / np.maximum(people, 1.0), 0.0))
