"""Where an acceptance rate comes from, always by its label, and never two in one column.

checkpoint      a real model on real text
dialled:A       random weights whose attention is scaled until the real accept path reaches A
simulated:A     the draft and the verification run, but a given law says how much is accepted; for
                timing only
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from magicplan.errors import UsageError
from magicplan.validate.decoder import Decoder
from magicplan.validate.transformer import Transformer

SCALES = (2.0**-8, 2.0**6)
"""Attention scales among which a rate is looked for."""
TRIES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A measured acceptance and its label.

    acceptance: share of looked-at draft tokens accepted; standard_error: of that share, as if
    tokens were independent. distinct_tokens: different tokens generated: a model that repeats
    itself is easy to draft for.
    """

    label: str
    acceptance: float
    standard_error: float
    tokens_per_round: float
    rounds: int
    distinct_tokens: int
    attention_scale: float | None = None


def observe(decoder: Decoder, ctx_tokens: int, rounds: int, seed: int, label: str) -> Acceptance:
    """Rounds behind a random context, counted."""
    decoder.fill_random(ctx_tokens, seed)
    decoder.run(rounds=rounds)
    return counted(decoder, label)


def counted(decoder: Decoder, label: str) -> Acceptance:
    """What the decoder's counters say since it started; synchronises."""
    counters, text = decoder.counters, decoder.text
    tested = int(counters.tested.sum())
    rate = counters.acceptance
    place = torch.arange(text.tokens.shape[1], device=text.tokens.device)
    start = text.lengths.long() - counters.emitted
    new = (place > start[:, None]) & (place <= text.lengths[:, None])
    return Acceptance(
        label=label,
        acceptance=rate,
        standard_error=math.sqrt(rate * (1 - rate) / tested) if tested else math.inf,
        tokens_per_round=counters.tokens_per_round,
        rounds=int(counters.rounds.sum()),
        distinct_tokens=int(text.tokens[new].unique().numel()),
    )


def dial(
    model: Transformer,
    decoder: Decoder,
    wanted: float,
    *,
    ctx_tokens: int,
    rounds: int = 16,
    tolerance: float = 0.1,
    seed: int = 0,
) -> Acceptance:
    """Scale a random model's attention until its draft is accepted as often as wanted.

    Less attention makes what a draft does not see matter less: the rate rises as the scale falls.
    The model keeps the best scale tried, whose rate, measured again on another context, is given.
    Raises UsageError for a checkpoint, a tree, a rate outside (0, 1), or one that is out of reach.
    """
    if not 0 < wanted < 1:
        raise UsageError(f"acceptance dialled:{wanted:g}: expected more than 0, less than 1")
    if model.origin != "random":
        raise UsageError("a checkpoint's acceptance is what it is; only random weights are dialled")
    if decoder.draft is None or decoder.draft.shape.levels:
        raise UsageError("acceptance is dialled on a chain; a tree of the same model follows it")
    set_scale = _scaler(model)
    low, high = (math.log2(scale) for scale in SCALES)
    tried: dict[float, float] = {}
    for _ in range(TRIES):
        middle = (low + high) / 2
        set_scale(2.0**middle)
        tried[middle] = observe(decoder, ctx_tokens, rounds, seed, "").acceptance
        low, high = (middle, high) if tried[middle] > wanted else (low, middle)
    best = min(tried, key=lambda power: abs(tried[power] - wanted))
    if abs(tried[best] - wanted) > tolerance:
        raise UsageError(
            f"acceptance dialled:{wanted:g} is out of reach of this model at {ctx_tokens} tokens: "
            f"the nearest is {tried[best]:.2f}"
        )
    set_scale(2.0**best)
    again = observe(decoder, ctx_tokens, rounds, seed + 1, f"dialled:{wanted:g}")
    return Acceptance(
        label=again.label,
        acceptance=again.acceptance,
        standard_error=again.standard_error,
        tokens_per_round=again.tokens_per_round,
        rounds=again.rounds,
        distinct_tokens=again.distinct_tokens,
        attention_scale=2.0**best,
    )


def _scaler(model: Transformer) -> Callable[[float], None]:
    """Sets the attention scale of a model made with scale 1, as if it had been made with it."""
    unscaled = [layer.output.clone() for layer in model.weights.layers]

    def scale(factor: float) -> None:
        for layer, output in zip(model.weights.layers, unscaled, strict=True):
            torch.mul(output, factor, out=layer.output)

    return scale
