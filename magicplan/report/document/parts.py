"""Parts that the pages of several answers share."""

from __future__ import annotations

from magicplan.report.document.page import Bullets, Section, Tone
from magicplan.report.document.record import Record

OLD = "This document holds no verdict: an older version of magicplan wrote it."
WORDS = ("yes", "no", "undecided")


def verdict_text(found: Record) -> str:
    """The sentence that the document holds."""
    verdict = found.maybe_record("verdict")
    return OLD if verdict is None else verdict.text("text")


def verdict_tone(found: Record) -> Tone:
    """Good where the document's verdict on one workload is to speculate."""
    verdict = found.maybe_record("verdict")
    if verdict is None:
        return "plain"
    word = verdict.text("speculate")
    if word not in WORDS:
        verdict.fail("speculate", f"one of {', '.join(WORDS)}")
    return "good" if word == "yes" else "plain"


def rests_on(lines: tuple[str, ...]) -> Section:
    """The last section of every page: the assumptions that its numbers rest on, each once."""
    return Section(title="Rests on", blocks=(Bullets(lines=tuple(dict.fromkeys(lines))),))


def left_out(found: Record) -> tuple[Section, ...]:
    """What was not compared, and why."""
    lines = tuple(f"{e.text('method')}: {e.text('reason')}" for e in found.records("left_out"))
    return (Section(title="Left out", blocks=(Bullets(lines=lines),)),) if lines else ()
