"""Acceptance rates of a real decoder, each with a label of its origin, and prompts to see it on."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from magicplan.errors import MissingExtra, SpecError, UsageError
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.transformer import Transformer

SCALES = (2.0**-8, 2.0**6)
"""Attention scales among which a rate is looked for."""


TRIES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedAcceptance:
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


def observe(
    decoder: Decoder, ctx_tokens: int, rounds: int, seed: int, label: str
) -> ObservedAcceptance:
    """Acceptance counted over rounds of speculation behind a random context of `ctx_tokens`."""
    decoder.fill_random(ctx_tokens, seed)
    decoder.run(rounds=rounds)
    return counted(decoder, label)


def counted(decoder: Decoder, label: str) -> ObservedAcceptance:
    """Acceptance by the decoder's counters since it started; waits for the device."""
    counters, text = decoder.counters, decoder.text
    tested = int(counters.tested.sum())
    rate = counters.acceptance
    place = torch.arange(text.tokens.shape[1], device=text.tokens.device)
    start = text.lengths.long() - counters.emitted
    new = (place > start[:, None]) & (place <= text.lengths[:, None])
    return ObservedAcceptance(
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
) -> ObservedAcceptance:
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
    return ObservedAcceptance(
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


CHARACTERS_A_TOKEN = 8
"""More characters than a token has on average; the text is cut to what is needed."""


def prompts(folder: Path, batch: int, tokens: int, text: Path | None = None) -> list[list[int]]:
    """`batch` prompts of `tokens` tokens each, one part of the text behind the other.

    Raises SpecError for a tokenizer or text that cannot be read, UsageError if the text is short.
    """
    need = batch * tokens
    words = _file_text(text) if text else library_text(need * CHARACTERS_A_TOKEN)
    ids = _tokenized(folder, words[: need * CHARACTERS_A_TOKEN])
    if len(ids) < need:
        source = text or "the standard library's sources"
        raise UsageError(f"{source}: {len(ids)} tokens, {batch} prompts of {tokens} need {need}")
    return [ids[i * tokens : (i + 1) * tokens] for i in range(batch)]


def library_text(characters: int) -> str:
    """The start of all modules of the standard library in the order of their names."""
    parts: list[str] = []
    length = 0
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        part = file.read_text(encoding="utf-8", errors="replace")
        parts.append(part)
        length += len(part)
        if length >= characters:
            break
    return "".join(parts)


def _file_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(file, f"cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(file, "is no UTF-8 text") from None


def _tokenized(folder: Path, text: str) -> list[int]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise SpecError(folder, "has no tokenizer.json; expected a Hugging Face tokenizer")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("reading text with a checkpoint's tokenizer", "validate") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises plain Exception
        raise SpecError(file, f"is no tokenizer ({problem})") from None
    ids: list[int] = tokenizer.encode(text).ids
    return ids
