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


def workload_verdict(bound: str, best: Drafted, rounds: Sequence[Drafted]) -> Verdict:
    """The verdict on one workload whose plain step is bound by `bound`: on the round chosen, or
    where none was, on the draft length above 0 of the highest speedup."""
    words = f"Decoding is {BOUND_WORDS[bound]}"
    drafted = [entry for entry in rounds if entry.gamma]
    if not drafted:
        text = f"{words}; no draft was asked for, so nothing speculates."
        return Verdict(speculate="no", draft="none", gamma=0, text=text)
    found = best if best.gamma else max(drafted, key=lambda entry: float(entry.speedup))
    low, high, gamma = float(found.speedup_low), float(found.speedup_high), int(found.gamma)
    gain = f"{found.speedup:.2f}x ({low:.2f} to {high:.2f})"
    what = f"{found.draft}, {gamma} drafted token{'s' if gamma > 1 else ''}"
    speculate = judged(low, high)
    if speculate == "no":
        text = f"{words}; do not speculate: the best draft, {what}, gives {gain}."
        return Verdict(speculate=speculate, draft="none", gamma=0, text=text)
    rate = f"{human_count(float(found.tokens_per_s))} tokens/s"
    text = f"{words}; speculate with {what}: {gain}, {rate}."
    if speculate == "undecided":
        text = (
            f"{words}; whether to speculate is not decided: {what}, gives {gain}, {rate}, and the "
            "interval holds 1, so measure first."
        )
    return Verdict(speculate=speculate, draft=str(found.draft), gamma=gamma, text=text)


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
    def speedup(self) -> float: ...
    @property
    def speedup_low(self) -> float: ...
    @property
    def speedup_high(self) -> float: ...


def drafts_verdict(best: Planned | None, shape: str, gamma: int | None) -> Verdict:
    """The verdict on one workload over all drafts, of which `best` is the fastest; `shape` names
    its chain or tree, `gamma` is None for a tree."""
    if best is None:
        text = "No draft can be compared here, so nothing speculates."
        return Verdict(speculate="no", draft="none", gamma=0, text=text)
    speculate = judged(best.speedup_low, best.speedup_high)
    gain = f"{best.speedup:.2f}x ({best.speedup_low:.2f} to {best.speedup_high:.2f})"
    name = f"{best.draft}, {shape}"
    text = {
        "yes": f"Speculate with {name}: {gain} over plain decoding.",
        "no": f"Do not speculate: the best draft, {name}, gives {gain}.",
        "undecided": f"Whether to speculate is not decided: the best draft, {name}, gives {gain}, "
        "and the interval holds 1, so measure first.",
    }[speculate]
    if speculate == "no":
        return Verdict(speculate=speculate, draft="none", gamma=0, text=text)
    return Verdict(speculate=speculate, draft=best.draft, gamma=gamma, text=text)


def most_sentence(what: str, gains: Sequence[tuple[float, int, int, str]], *, fits: bool) -> str:
    """How much `what` ("Trees bring") brings at most on a grid: each cell that gains with its
    speedup, batch, context and how; `fits` says whether any cell holds the workload."""
    if not fits:
        return "The workload fits nowhere on this grid."
    if not gains:
        return "Do not speculate: nothing gains in any cell."
    speedup, batch, ctx, how = max(gains)
    return f"{what} up to {speedup:.2f}x, at batch {batch} and context {human_tokens(ctx)}: {how}."
