"""What to do about speculation, as a word and as the sentence that every form of an answer prints.

An interval of the speedup all above 1 is "yes", one all below is "no", one that holds 1 is
"undecided".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.units import human_count, human_tokens

BOUND_WORDS = {
    "weights": "memory-bound on weights",
    "kv": "memory-bound on the KV cache",
    "compute": "compute-bound",
    "overhead": "bound by launches and element-wise work",
    "communication": "bound by communication",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """`speculate` is "yes", "no" or "undecided", with the draft and the draft length to run, or to
    measure where undecided; "none" and 0 where the answer is no. Arrays [batch, ctx] over a grid,
    in which a cell that fits nowhere is null. `text` is one sentence."""

    speculate: Any
    draft: Any
    gamma: Any
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON of a verdict."""
        return asdict(self)


def judged(low: float, high: float) -> str:
    """Whether a speedup whose 80 % interval is given is a gain: "yes", "no" or "undecided"."""
    return "yes" if low > 1 else "no" if high < 1 else "undecided"


class Drafted(Protocol):
    """A draft length with its speedup: numbers, or arrays [batch, ctx]. The names are those of
    `Round`."""

    @property
    def draft(self) -> Any: ...
    @property
    def gamma(self) -> Any: ...
    @property
    def tokens_per_s(self) -> Any: ...
    @property
    def speedup(self) -> Any: ...
    @property
    def speedup_low(self) -> Any: ...
    @property
    def speedup_high(self) -> Any: ...


def at_words(stack: str, ctx_tokens: float) -> str:
    """A stack and a context, as a clause of a verdict."""
    return f"on {stack} at {human_tokens(int(ctx_tokens))} tokens of context"


def workload_verdict(
    bound: str, best: Drafted, rounds: Sequence[Drafted], where: str = "", beside: str = ""
) -> Verdict:
    """The verdict on one workload whose plain step is bound by `bound`: on the round chosen, or
    where none was, on the draft length above 0 of the highest speedup. `where` says on which stack
    and context, `beside` is a sentence more."""
    words = f"Decoding is {BOUND_WORDS[bound]}"
    drafted = [entry for entry in rounds if entry.gamma]
    if not drafted and not best.gamma:
        return _said("no", "none", 0, f"{words}; {NOTHING_DRAFTS}.", beside)
    found = best if best.gamma else max(drafted, key=lambda entry: float(entry.speedup))
    return _judged(found, f"{words}; ", where, beside, float(found.tokens_per_s))


NOTHING_DRAFTS = "no draft was asked for, or none can be launched here, so nothing speculates"


def _judged(
    found: Drafted | Planned, words: str, where: str, beside: str, rate: float | None = None
) -> Verdict:
    """The verdict on one round or plan; `words` begin its sentence."""
    low, high = float(found.speedup_low), float(found.speedup_high)
    gain = f"{float(found.speedup):.2f}x ({low:.2f} to {high:.2f})"
    what = ", ".join([_named(found), *([where] if where else [])])
    tokens = f", {human_count(rate)} tokens/s" if rate else ""
    speculate = judged(low, high)
    text = {
        "yes": f"speculate with {what}: {gain}{tokens}.",
        "no": f"do not speculate: the best draft, {what}, gives {gain}.",
        "undecided": f"whether to speculate is not decided: {what}, gives {gain}{tokens}, and the "
        "interval holds 1, so measure first.",
    }[speculate]
    text = words + (text if words else text[:1].upper() + text[1:])
    if speculate == "no":
        return _said(speculate, "none", 0, text, beside)
    gamma = None if found.gamma is None else int(found.gamma)
    return _said(speculate, str(found.draft), gamma, text, beside)


def _said(speculate: str, draft: str, gamma: int | None, text: str, beside: str) -> Verdict:
    whole = f"{text} {beside}" if beside else text
    return Verdict(speculate=speculate, draft=draft, gamma=gamma, text=whole)


def _named(found: Drafted | Planned) -> str:
    """A draft with its head, and its length or its tree."""
    head, size = getattr(found, "head", None), getattr(found, "size", None)
    name = f"{found.draft} ({head})" if head else str(found.draft)
    if size is not None:
        return f"{name}, a tree of {size} nodes"
    return f"{name}, {found.gamma} drafted token{'s' if found.gamma != 1 else ''}"


def better_elsewhere(other: Planned | None, best: Planned | Drafted | None, stack: str) -> str:
    """A sentence on what another stack would bring, where that is more than the best one here and
    than plain decoding."""
    here = max(float(best.speedup), 1.0) if best else 1.0
    if other is None or other.speedup <= here:
        return ""
    gain = f"{other.speedup:.2f}x ({other.speedup_low:.2f} to {other.speedup_high:.2f})"
    return (
        f"Better with another stack: {_named(other)}, would give {gain}; {stack} cannot run it, "
        f"{other.runners}."
    )


def grid_verdict(
    where: str,
    cells: tuple[Array, Array, Array],
    best: Drafted,
    rounds: Sequence[Drafted],
) -> Verdict:
    """The verdict on every cell, and how many speculate `where` ("on h100-sxm"). `cells` are which
    cells fit, their batches and their contexts, [batch, ctx] each."""
    fits, batch, ctx = cells
    drafted = [entry for entry in rounds if int(np.max(entry.gamma)) > 0]
    speculate, draft, gamma = (_where(fits, word) for word in ("no", "none", 0))
    text = f"No draft was asked for {where}, so nothing speculates."
    if drafted:
        low, high, gain, length = _chosen(fits, best, drafted)
        for at in zip(*np.nonzero(fits), strict=True):
            speculate[at] = judged(float(low[at]), float(high[at]))
            if speculate[at] != "no":
                draft[at], gamma[at] = _name(drafted[0], at), int(length[at])
        text = _grid_text(speculate, np.where(fits, gain, -np.inf), (batch, ctx), where)
    return Verdict(
        speculate=speculate.tolist(), draft=draft.tolist(), gamma=gamma.tolist(), text=text
    )


def _where(fits: Array, value: Any) -> Any:
    """The value in every cell that fits, None elsewhere."""
    found = np.full(fits.shape, None, dtype=object)
    found[np.asarray(fits, dtype=bool)] = value
    return found


def _name(entry: Drafted, at: tuple[Any, ...]) -> str:
    return str(entry.draft) if np.ndim(entry.draft) == 0 else str(entry.draft[at])


def _chosen(fits: Array, best: Drafted, drafted: Sequence[Drafted]) -> tuple[Array, ...]:
    """Low, high and median speedup and the draft length of every cell: of the round chosen there,
    or of the fastest that drafts."""

    def stacked(name: str) -> Array:
        return np.stack([np.broadcast_to(getattr(entry, name), fits.shape) for entry in drafted])

    fastest = np.where(fits, stacked("speedup"), -np.inf).argmax(axis=0)[None]
    names = ("speedup_low", "speedup_high", "speedup", "gamma")
    rivals = (np.take_along_axis(stacked(name), fastest, axis=0)[0] for name in names)
    drafts = np.asarray(best.gamma) > 0
    return tuple(
        np.where(drafts, getattr(best, name), rival)
        for name, rival in zip(names, rivals, strict=True)
    )


def _grid_text(speculate: Any, gain: Array, cells: tuple[Array, Array], where: str) -> str:
    counts = {word: int((speculate == word).sum()) for word in ("yes", "no", "undecided")}
    if not any(counts.values()):
        return f"The workload fits nowhere {where}."
    if not counts["yes"] and not counts["undecided"]:
        return f"Do not speculate {where}: no draft length gains in any cell."
    at = tuple(int(i) for i in np.unravel_index(int(gain.argmax()), gain.shape))
    batch, ctx = (int(values[at]) for values in cells)
    return (
        f"Speculation brings up to {gain[at]:.2f}x {where}, at batch {batch} and context "
        f"{human_tokens(ctx)}; of {sum(counts.values())} cells it pays in {counts['yes']}, loses "
        f"in {counts['no']} and is not decided in {counts['undecided']}."
    )


class Planned(Protocol):
    """A draft with its chain or its tree, and its speedup. The names are those of `Plan`."""

    @property
    def draft(self) -> str: ...
    @property
    def head(self) -> str | None: ...
    @property
    def gamma(self) -> int | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def runners(self) -> str: ...
    @property
    def speedup(self) -> float: ...
    @property
    def speedup_low(self) -> float: ...
    @property
    def speedup_high(self) -> float: ...


def drafts_verdict(best: Planned | None, where: str = "", beside: str = "") -> Verdict:
    """The verdict on one workload over all drafts, of which `best` comes first of those that can
    be launched; `where` and `beside` as in `workload_verdict`."""
    if best is None:
        return _said(
            "no", "none", 0, "No draft can be launched here, so nothing speculates.", beside
        )
    return _judged(best, "", where, beside)


def most_sentence(what: str, gains: Sequence[tuple[float, int, int, str]], *, fits: bool) -> str:
    """How much `what` ("Trees bring") brings at most on a grid: each cell that gains with its
    speedup, batch, context and how; `fits` says whether any cell holds the workload."""
    if not fits:
        return "The workload fits nowhere on this grid."
    if not gains:
        return "Do not speculate: nothing gains in any cell."
    speedup, batch, ctx, how = max(gains)
    return f"{what} up to {speedup:.2f}x, at batch {batch} and context {human_tokens(ctx)}: {how}."
