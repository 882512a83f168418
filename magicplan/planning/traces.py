"""Arrival traces as CSV: when requests came, how long their prompts and outputs were.

Known by their columns: the public Azure LLM inference traces (TIMESTAMP, ContextTokens,
GeneratedTokens), and plain names such as timestamp, prompt_tokens, output_tokens.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.lengths import MAX_LENGTH, POINTS, Lengths
from magicplan.roofline.deployment import Array

COLUMNS = {
    "time": ("timestamp", "time", "arrival", "arrived_at", "arrival_time", "arrival_seconds"),
    "prompt": ("contexttokens", "prompt_tokens", "input_tokens", "num_prefill_tokens"),
    "output": ("generatedtokens", "output_tokens", "completion_tokens", "num_decode_tokens"),
}
MINUTE = 60.0
GAP = 50.0
"""Mean gaps between arrivals: exponential gaps of a million arrivals stay below 20."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What a trace says about traffic."""

    path: str
    requests: int
    requests_per_s: float
    peak_factor: float
    """Busiest minute over the mean; 1 for traces shorter than three minutes."""
    arrival_cv2: float
    """Squared coefficient of variation of gaps, each over the mean of the hundred around it."""
    lengths: Lengths


def read_trace(path: Path) -> Trace:
    """Raises SpecError naming file, line and field for whatever cannot be."""
    seconds, prompts, outputs = _columns(path)
    gaps = np.diff(seconds)
    duration = float(seconds[-1] - seconds[0])
    if duration <= 0:
        raise SpecError(path, "timestamp: all arrivals fall into one instant, so there is no rate")
    _refuse_silence(path, gaps)
    chosen = np.linspace(0, len(prompts) - 1, min(POINTS, len(prompts))).astype(np.int64)
    order = np.lexsort((outputs, prompts))[chosen]  # evenly over what is sorted by prompt
    return Trace(
        path=str(path),
        requests=len(prompts),
        requests_per_s=(len(prompts) - 1) / duration,
        peak_factor=_busiest_minute(seconds, duration),
        arrival_cv2=_burstiness(gaps),
        lengths=Lengths(prompt=prompts[order], output=outputs[order]),
    )


def _columns(path: Path) -> tuple[Array, Array, Array]:
    times: list[float] = []
    prompts: list[float] = []
    outputs: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = _names(path, reader.fieldnames or [])
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                time = _time(where, names["time"], row)
                if times and time < times[-1]:
                    raise SpecError(
                        where, f"{names['time']}: {row[names['time']]} lies before the line above"
                    )
                times.append(time)
                prompts.append(_tokens(where, names["prompt"], row))
                outputs.append(_tokens(where, names["output"], row))
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise SpecError(path, f"cannot be read as CSV ({problem})") from None
    if len(times) < 2:
        raise SpecError(path, f"{len(times)} arrivals: expected at least 2")
    return np.asarray(times), np.asarray(prompts), np.asarray(outputs)


def _names(path: Path, header: Sequence[str]) -> dict[str, str]:
    """The file's own name of each column."""
    plain = {name.strip().lower(): name for name in header}
    found = {}
    for what, known in COLUMNS.items():
        match = next((plain[name] for name in known if name in plain), None)
        if match is None:
            raise SpecError(
                f"{path}, line 1",
                f"no column for {what}: expected one of {', '.join(known)}, as in "
                "TIMESTAMP,ContextTokens,GeneratedTokens",
            )
        found[what] = match
    return found


def _time(where: str, name: str, row: dict[str, str]) -> float:
    """Seconds: a number, or an ISO date with time."""
    text = (row.get(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        try:
            value = datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise SpecError(
                where, f"{name}: {text!r} is neither seconds nor a date with time"
            ) from None
    if not math.isfinite(value):
        raise SpecError(where, f"{name}: {text!r} is not a finite time")
    return value


def _tokens(where: str, name: str, row: dict[str, str]) -> float:
    text = (row.get(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= MAX_LENGTH or value != int(value):
        raise SpecError(
            where, f"{name}: {text!r}, expected whole tokens from 1 to {MAX_LENGTH:.0f}"
        )
    return value


def _refuse_silence(path: Path, gaps: Array) -> None:
    """A hole in a recording would pass for low traffic."""
    longest, mean = int(np.argmax(gaps)), float(gaps.mean())
    if gaps[longest] > max(MINUTE, GAP * mean):
        raise SpecError(
            f"{path}, line {longest + 3}",
            f"timestamp: {gaps[longest]:.0f} s without an arrival, {gaps[longest] / mean:.0f} "
            "times the mean gap; cut the trace there, or state requests_per_s",
        )


def _busiest_minute(seconds: Array, duration: float) -> float:
    minutes = int(duration // MINUTE)
    if minutes < 3:
        return 1.0
    counts = np.histogram(seconds - seconds[0], bins=minutes, range=(0.0, minutes * MINUTE))[0]
    return max(1.0, float(counts.max() / counts.mean()))


def _burstiness(gaps: Array) -> float:
    window = np.ones(min(101, gaps.size))
    around = np.convolve(gaps, window, "same") / np.convolve(np.ones(gaps.size), window, "same")
    relative = gaps[around > 0] / around[around > 0]
    return float(np.clip(relative.var() / relative.mean() ** 2, 0.0, 100.0))
