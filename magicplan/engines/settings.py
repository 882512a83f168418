"""Settings that every engine reads alike, and the words that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.thresholds import (
    Threshold,
)
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settings:
    """What to paste, the file it names, the full schedule, and what could not be expressed."""

    engine: str
    text: str
    schedule: tuple[Threshold, ...]
    notes: tuple[str, ...]
    file_name: str = ""
    file_text: str = ""


def drafted(resolved: Resolved) -> Draft:
    """The draft of a question that has one."""
    assert resolved.draft is not None
    return resolved.draft


def accepted(resolved: Resolved) -> str:
    """A note on the source of the draft's acceptance."""
    return f"acceptance of {drafted(resolved).name}: {resolved.acceptance.origin}"


def cost(lost: Array) -> str:
    """Shares of throughput lost, negative where there is a gain, in words."""
    median, worst = float(np.median(lost)), float(lost.max())
    if lost.size == 1:
        return _change(worst)
    if worst <= 0:
        return f"{_change(median)} in the median cell and slower in none"
    return f"{_change(median)} in the median cell, {_change(worst)} in the worst"


def _change(lost: float) -> str:
    if abs(lost) < 0.0005:
        return "as fast"
    return f"{abs(lost):.1%} {'slower' if lost > 0 else 'faster'}"


def off_notes(full: tuple[Threshold, ...], lost: Array, *, where: str) -> tuple[str, ...]:
    """Why speculation stays off: nothing gains, or no draft length gains `where` it has to hold."""
    if not any(t.gamma for t in full):
        return ("no cell gains from this draft: leave speculation off",)
    return (
        f"no draft length helps at every {where}: leave speculation off, which loses up to "
        f"{lost[..., 0].max():.1%} against the best draft length of a cell",
    )


def model_id(name: str) -> str:
    """The Hugging Face id that serves a model: the one asked for, else its preset's; a path, or an
    id that is not known, stays what it is."""
    try:
        return model_specs.resolve(name).id or name
    except UsageError:
        return name
