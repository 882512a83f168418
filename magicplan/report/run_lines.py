"""The lines of a validation run as the document that a validation page reads."""

from __future__ import annotations

import statistics
from typing import Any

from magicplan.report.record import Record

RUN = "magicplan.run/1"


def folded(lines: list[Record]) -> Record:
    """The lines of a validation run as one document: every point with what was predicted for it.

    Nothing is judged here: `magicplan validate --from FILE --json` does that.
    """
    told: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {"schema": "magicplan.validation/1", "points": []}
    whole["device"] = lines[0].record("device").data
    if settings := lines[0].maybe_record("settings"):
        whole["settings"] = settings.data
    for line in lines[1:]:
        kind = line.text("kind")
        if kind == "exactness":
            whole["exactness"] = line.data
        elif kind == "prediction":
            content = line.record("content")
            shared = {key: content.text(key, "") for key in ("draft", "acceptance_origin")}
            told = {p.text("id"): p.data | shared for p in content.records("points")}
            whole["prediction_sha256"] = line.text("sha256", "")
        elif kind == "point":
            known = told.get(line.text("id"), {})
            whole["points"].append(known | _medians(line, known))
    return Record(data=whole, file=lines[0].file)


def _medians(line: Record, known: dict[str, Any]) -> dict[str, Any]:
    """A measured point's medians, of the thread's own time where it was taken."""
    if "samples" not in line.data:
        reason = line.text("skipped", "not measured")
        return {**line.data, "verdict": "skipped", "reason": reason}
    samples = line.record("samples")
    times = {
        f"{name}_seconds": statistics.median(kept)
        for name in samples.data
        if (kept := _kept(samples.record(name)))
    }
    decode, round_ = times.get("decode_seconds"), times.get("round_seconds")
    emitted = [n for n in line.numbers("emitted_tokens") if n is not None]
    if decode and round_ and emitted:
        tokens = statistics.fmean(emitted) / line.number("batch")
        times |= {"tokens_per_round": tokens, "speedup": tokens * decode / round_}
    place = {key: line.number(key) for key in ("batch", "ctx_tokens")}
    return known | place | {"measured": times}


def _kept(samples: Record) -> list[float]:
    key = "own" if samples.data.get("own") else "wall"
    return [value for value in samples.numbers(key) if value is not None]
