"""Arrival traces as CSV: when requests came, how long their prompts and outputs were.

Known by their columns: the public Azure LLM inference traces (TIMESTAMP, ContextTokens,
GeneratedTokens), and plain names such as timestamp, prompt_tokens, output_tokens.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from magicplan.errors import SpecError
from magicplan.roofline.deployment import Array
from magicplan.serving.lengths import MAX_LENGTH, POINTS, Lengths

COLUMNS = {
    "time": ("timestamp", "time", "arrival", "arrived_at", "arrival_time", "arrival_seconds"),
    "prompt": ("contexttokens", "prompt_tokens", "input_tokens", "num_prefill_tokens"),
    "output": ("generatedtokens", "output_tokens", "completion_tokens", "num_decode_tokens"),
}
MINUTE = 60.0
LATEST = 1e11
"""Seconds since 1970 of no arrival: the year 5138. Milliseconds passed it in 1973."""
GAP = 50.0
"""Times the mean of all shorter gaps: exponential gaps of a million arrivals stay below 20."""
HOLES = 0.1
"""Largest share of all gaps that may be holes; more long gaps are how the traffic is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Longest:
    """The longest entry of a column, with the file's own name of it."""

    what: str
    field: str
    tokens: float
    line: int


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
    longest: tuple[Longest, ...]
    """The longest prompt and the longest output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The file as arrays [n], with its own names of the columns and the line of each row."""

    names: dict[str, str]
    seconds: Array
    prompts: Array
    outputs: Array
    lines: list[int]


def read_trace(path: Path) -> Trace:
    """The traffic of a CSV. Raises SpecError naming file, line and field for whatever cannot be."""
    columns = _columns(path)
    seconds, prompts, outputs = columns.seconds, columns.prompts, columns.outputs
    gaps = np.diff(seconds)
    duration = float(seconds[-1] - seconds[0])
    if duration <= 0:
        raise SpecError(
            path,
            f"{columns.names['time']}: all arrivals fall into one instant, so there is no rate",
        )
    if outputs.max() <= 1:
        raise SpecError(
            path,
            f"{columns.names['output']}: every request ends with its first token, so nothing "
            "decodes",
        )
    _refuse_silence(path, columns, gaps)
    chosen = np.linspace(0, len(prompts) - 1, min(POINTS, len(prompts))).astype(np.int64)
    order = np.lexsort((outputs, prompts))[chosen]  # evenly over what is sorted by prompt
    return Trace(
        path=str(path),
        requests=len(prompts),
        requests_per_s=(len(prompts) - 1) / duration,
        peak_factor=_busiest_minute(seconds, duration),
        arrival_cv2=_burstiness(gaps),
        lengths=Lengths(prompt=prompts[order], output=outputs[order]),
        longest=tuple(
            Longest(
                what=f"a{'n' if what == 'output' else ''} {what}", field=columns.names[what],
                tokens=float(tokens.max()), line=columns.lines[int(np.argmax(tokens))],
            )
            for what, tokens in (("prompt", prompts), ("output", outputs))
        ),
    )  # fmt: skip


def refuse_longer(trace: Trace, limit: int, model: str) -> None:
    """Raises SpecError where a prompt or an output alone exceeds the context of a model."""
    for one in trace.longest:
        if one.tokens > limit:
            raise SpecError(
                f"{trace.path}, line {one.line}",
                f"{one.field}: {one.what} of {one.tokens:.0f} tokens, beyond the {limit} that "
                f"{model} was made for; leave such requests out, or name another model",
            )


def _columns(path: Path) -> Columns:
    rows: list[tuple[float, float, float]] = []
    lines: list[int] = []
    first = ""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = _names(path, reader.fieldnames or [])
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                time, kind = _time(where, names["time"], row)
                first = first or kind
                if kind != first:
                    raise SpecError(
                        where, f"{names['time']}: {row[names['time']]} is {kind} among {first}"
                    )
                if rows and time < rows[-1][0]:
                    raise SpecError(
                        where, f"{names['time']}: {row[names['time']]} lies before the line above"
                    )
                prompt = _tokens(where, names["prompt"], row)
                rows.append((time, prompt, _tokens(where, names["output"], row)))
                lines.append(reader.line_num)
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise SpecError(path, f"cannot be read as CSV ({problem})") from None
    if len(rows) < 2:
        raise SpecError(path, f"{len(rows)} arrivals: expected at least 2")
    seconds, prompts, outputs = np.asarray(rows).T
    return Columns(names=names, seconds=seconds, prompts=prompts, outputs=outputs, lines=lines)


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


def _time(where: str, name: str, row: dict[str, str]) -> tuple[float, str]:
    """Seconds, and how they were written: a number, or an ISO date with time and maybe a zone."""
    text = (row.get(name) or "").strip()
    try:
        value, kind = float(text), "seconds"
    except ValueError:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            raise SpecError(
                where, f"{name}: {text!r} is neither seconds nor a date with time"
            ) from None
        kind = "dates without a zone" if date.tzinfo is None else "dates with a zone"
        value = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value):
        raise SpecError(where, f"{name}: {text!r} is not a finite time")
    if abs(value) > LATEST:
        raise SpecError(
            where,
            f"{name}: {text} seconds lie thousands of years from 1970: the file counts in a finer "
            "unit, such as milliseconds; expected seconds",
        )
    return value, kind


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


def _refuse_silence(path: Path, columns: Columns, gaps: Array) -> None:
    """A hole in a recording would pass for low traffic."""
    if gaps.size < 2:
        return
    ranked = np.sort(gaps)
    shorter = np.concatenate([[np.inf], np.cumsum(ranked)[:-1] / np.arange(1, gaps.size)])
    holes = ranked > np.maximum(MINUTE, GAP * shorter)
    holes[: min(math.ceil(gaps.size * (1 - HOLES)), gaps.size - 1)] = False
    if not holes.any():
        return
    at = int(np.argmax(gaps >= ranked[holes][0]))
    usual = float(shorter[np.argmax(holes)])
    raise SpecError(
        f"{path}, line {columns.lines[at + 1]}",
        f"{columns.names['time']}: {gaps[at]:.0f} s without an arrival, where the mean gap is "
        f"{usual:.3g} s; cut the trace there, or state requests_per_s",
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
