"""What arithmetic alone says of a replica: the most it could bear, before anything is simulated.

Both are bounds on the kind side: no prompt is computed with less than its share of full steps, no
token comes faster than a step that only decodes. Axes are [layout, batch].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.replica import Replica, ReplicaRounds, Speculation, prompts_of, room_of

KIND = 1.1
"""Times a limit that a bound may lie above it and still be simulated: bounds are of mean contexts,
and requests of short ones are faster."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Screen:
    """Bounds of every layout, [layout]."""

    rate: Array
    """Most requests a second at which limits could hold, or at all where they never do; 0 where
    nothing can be served."""
    saturation: Array
    """Requests a second that no replica exceeds, whatever the limits."""
    decode_rate: Array
    """Most requests a second within the limits for replicas whose prompts others compute."""
    prefill_rate: Array
    """Prompts a second of replicas that only compute prompts."""
    batch: Array
    """Requests decoding at that rate."""
    most: Array
    """Requests that the cache holds on average, or that may run."""
    least: Array
    """Largest factor by which an idle replica would break a limit; at most 1 where none."""


def screen(
    r: Replica, spec: Speculation, rounds: ReplicaRounds, limits: Mapping[str, float]
) -> Screen:
    """Bounds of every layout of `r` under the limits."""
    load = r.load
    room = room_of(r, spec)
    most = np.minimum(room.free_bytes / room.request_bytes, r.limits.max_sequences)
    prompt = _prompt_seconds(r, spec)
    mean_prompt = prompt.mean(axis=1)
    needed = float(load.decoded.mean()) / rounds.tokens_per_round
    decoding = needed * rounds.round_seconds / r.batch
    alone_factor = _factors(r, rounds, prompt, limits, np.zeros(decoding.shape))
    waits = r.batch * mean_prompt[:, None] / max(float(load.decoded.mean()), 1.0)
    factor = _factors(r, rounds, prompt, limits, waits)
    holds = (r.batch <= np.maximum(most, 1.0)[:, None]) & (most >= 1.0)[:, None]
    reached = np.where(holds, alone_factor, np.inf).min(axis=1)
    never = (reached > KIND)[:, None]
    able = holds & ((factor <= KIND) | never | (r.batch <= 1))
    able_alone = holds & ((alone_factor <= KIND) | never)
    rate = np.where(able, 1 / (decoding + mean_prompt[:, None]), 0.0)
    whole = np.where(holds, 1 / (decoding + mean_prompt[:, None]), 0.0)
    alone = np.where(able_alone, 1 / np.maximum(decoding, 1e-12), 0.0)
    best = rate.argmax(axis=1)
    fits = room.free_bytes > float((load.lengths.prompt + load.lengths.output).max()) * (
        room.request_bytes / float(r.contexts.mean())
    )  # fmt: skip
    return Screen(
        rate=np.where(fits, rate.max(axis=1), 0.0),
        saturation=whole.max(axis=1),
        decode_rate=np.where(fits, alone.max(axis=1), 0.0),
        prefill_rate=np.where(fits, 1 / mean_prompt, 0.0),
        batch=r.batch[best],
        most=np.where(fits, np.maximum(np.floor(most), 0.0), 0.0),
        least=reached,
    )


def _prompt_seconds(r: Replica, spec: Speculation) -> Array:
    """Seconds of every prompt of the sample in full steps, whose first tokens ride along with what
    is read anyhow, [layout, n]."""
    new, cached = r.load.lengths.prompt - r.load.cached, r.load.cached
    full = np.full((r.layouts, 1), r.limits.batched_tokens)
    token = (r.table.at(full) - r.table.at(np.ones_like(full))) / r.limits.batched_tokens
    return np.asarray(token * new + prompts_of(r, spec).of(new, cached))


def _factors(
    r: Replica, rounds: ReplicaRounds, prompt: Array, limits: Mapping[str, float], waits: Array
) -> Array:
    """By how much bounds lie beyond the limits, the largest of all, [layout, batch]; `waits` are
    the seconds a token for which prompts of others hold up a batch that is always full."""
    worst = np.zeros(rounds.round_seconds.shape)
    token = rounds.round_seconds / rounds.tokens_per_round
    decoded = r.load.decoded
    for key, limit in limits.items():
        metric, statistic, _ = key.split("_")
        if metric == "ttft":
            bound = _statistic(prompt, statistic)[:, None]
        elif metric == "tpot":
            bound = token + (0.0 if statistic == "p50" else waits)
        elif metric == "itl":
            bound = rounds.round_seconds
        else:
            bound = token * _statistic(decoded[None, :], statistic)
        worst = np.maximum(worst, bound / limit)
    return worst


def _statistic(values: Array, statistic: str) -> Array:
    if statistic == "mean":
        return np.asarray(values.mean(axis=1))
    return np.asarray(np.percentile(values, float(statistic[1:]), axis=1))
