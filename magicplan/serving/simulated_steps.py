"""What a simulated server asks of the roofline: seconds of one step, tokens accepted, room.

Step times come from the passes that the closed form uses as well; who is in a step does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from magicplan.roofline.acceptance import conditional_from_marginal
from magicplan.roofline.deployment import Array
from magicplan.roofline.memory import kv_sequence_bytes
from magicplan.roofline.traffic import FULL
from magicplan.serving.replica import Replica, Speculation, prompts_of, room_of
from magicplan.serving.step_time import (
    catching_up_seconds,
    chain_passes,
    decode_seconds,
    row_table,
)

CONTEXTS = 24
Clock = Callable[[int, int, float, Sequence[tuple[int, int]]], float]
"""Seconds through all pipeline stages of a micro-batch of so many decoding requests, of so many
that decode at all, of a mean context, with chunks of (new, cached) prompt tokens."""
Accept = Callable[[int], np.ndarray[Any, Any]]


def stages_of(r: Replica) -> int:
    """Pipeline stages of a replica of one layout."""
    return int(np.asarray(r.layout.pp).reshape(-1)[0])


def step_clock(r: Replica, spec: Speculation) -> Clock:
    """The clock of one micro-batch: the passes are asked for whole batches, `stages` times it.

    The host works for every request once a round, whatever micro-batch it is in.
    """
    gamma, stages, shared = spec.gamma or 0, stages_of(r), r.load.shared_prefix_tokens
    sizes = np.unique(np.rint(np.geomspace(1, r.limits.max_sequences, 40)))
    longest = float((r.load.lengths.prompt + r.load.lengths.output).max())
    flat = decode_seconds(
        r.model, r.layout, r.machine, np.repeat(sizes * stages, CONTEXTS),
        np.tile(np.linspace(1.0, longest, CONTEXTS), sizes.size)[:, None],
        np.asarray([gamma + 1.0]), r.limits.kv_passes,
    )[0, :, 0].reshape(sizes.size, CONTEXTS)  # fmt: skip
    most_rows = int(r.limits.batched_tokens + sizes[-1] * (gamma + 1))
    table = row_table(r.model, r.layout, r.machine, float(stages * most_rows))
    by_rows = table.at(stages * np.arange(most_rows + 1.0)[None, :])[0]
    alone = float(flat[0, 0]) - float(by_rows[gamma + 1])  # sampling, host and launches of one
    by_size = (flat + _drafting(r, spec, sizes * stages)[:, None]).tolist()
    row_of = np.interp(np.arange(sizes[-1] + 1), sizes, np.arange(sizes.size)).tolist()
    prompts, per_sequence = prompts_of(r, spec), r.machine.calibration.host.sequence_seconds

    def clock(
        count: int, all_decoding: int, ctx: float, chunks: Sequence[tuple[int, int]]
    ) -> float:
        if count:
            row = row_of[count]
            read = max(ctx - shared * (1 - 1 / count), 1.0)  # a shared prefix is read once
            column = (min(read, longest) - 1.0) / max(longest - 1.0, 1.0) * (CONTEXTS - 1)
            low, left = min(int(row), sizes.size - 2), min(int(column), CONTEXTS - 2)
            up, along = row - low, column - left
            (a, b), (c, d) = (line[left : left + 2] for line in by_size[low : low + 2])
            first, last = a + along * (b - a), c + along * (d - c)
            seconds = first + up * (last - first) + per_sequence * (all_decoding - count * stages)
        else:
            seconds = alone
        if not chunks:
            return float(seconds)
        rows, tokens = count * (gamma + 1), sum(new for new, _ in chunks)
        seconds += float(by_rows[rows + tokens] - (by_rows[rows] if rows else 0.0))
        news, cached = np.asarray(chunks, dtype=np.float64).T
        seconds += stages * float(prompts.of(news, cached).sum())
        return float(seconds + len(chunks) * per_sequence)

    return clock


def _drafting(r: Replica, spec: Speculation, batch: Array) -> Array:
    """Of a round beside the target's pass, [batch]."""
    if spec.draft is None or not spec.gamma:
        return np.zeros(batch.size)
    ctx = np.broadcast_to(r.contexts.mean(), (batch.size, 1))
    asked = spec.draft, r.layout, r.machine, batch, ctx
    passes = chain_passes(*asked, np.asarray([float(spec.gamma)]))[0, :, 0]
    first = catching_up_seconds(*asked)[0]
    between = r.machine.calibration.host.between_passes_seconds(batch)
    return np.asarray(passes + first + between)


def acceptor(r: Replica, spec: Speculation, rng: np.random.Generator) -> Accept:
    """Tokens that each of `count` requests emits in a round, drawn from the acceptance model."""
    if spec.draft is None or spec.acceptance is None or not spec.gamma:
        return lambda count: np.ones(count, dtype=np.int64)
    ctx = np.asarray(r.contexts.mean())
    survival = spec.acceptance.survival(spec.gamma, ctx, spec.draft.budget_tokens)
    rates = conditional_from_marginal(np.asarray(survival, dtype=np.float64).reshape(-1))

    def accept(count: int) -> np.ndarray[Any, Any]:
        kept = rng.random((count, rates.size)) < rates
        return np.asarray(1 + np.cumprod(kept, axis=1).sum(axis=1))

    return accept


def kv_tokens(r: Replica, spec: Speculation) -> float:
    """Tokens that the cache holds beside weights, draft, workspace and what all requests share."""
    room = room_of(r, spec)
    token = float(np.max(kv_sequence_bytes(r.model, r.layout, 1.0, FULL)))
    mean = float(np.maximum(r.contexts - r.load.shared_prefix_tokens, 1.0).mean())
    each = float(room.request_bytes[0]) / mean
    return float(room.free_bytes[0]) / max(each, token * 1e-9)


def moving_seconds(r: Replica) -> Callable[[int], float]:
    """Seconds until the cache of a prompt has left a replica that only prefills, over each GPU's
    PCIe or network port."""
    a = r.machine.accelerator
    port = a.pcie_bytes_per_s or a.link_bytes_per_s or np.inf
    gpus = float(np.asarray(r.layout.gpus_per_replica).reshape(-1)[0])

    def seconds(tokens: int) -> float:
        sent = np.max(kv_sequence_bytes(r.model, r.layout, float(tokens), FULL))
        return float(sent) / (port * gpus)

    return seconds
