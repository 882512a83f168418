"""Acceptance out of what engines print: log lines and `/metrics` of vLLM, SGLang and llama.cpp.

Each reader returns None where the text is of another engine, so that a door can try them in turn.
Lines are weighted by what they counted: rounds where a line states them, else requests that ran.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from magicplan.acceptance_specs.counts import counted, with_errors
from magicplan.errors import SpecError, UsageError
from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    Iid,
    PerPosition,
    alpha_from_tokens_per_round,
)
from magicplan.roofline.deployment import Array

VLLM = re.compile(
    r"SpecDecoding metrics:(?:.*?Drafted: (?P<drafted>\d+) tokens)?"
    r".*?Per-position acceptance rate:[ ]*(?P<rates>\d[\d., ]*)?",
    re.IGNORECASE,
)
VLLM_COUNTS = re.compile(
    r"vllm:spec_decode_num_(?P<what>drafts|accepted_tokens_per_pos)(_total)?"
    r"(\{(?P<labels>[^}]*)\})?\s+(?P<value>[\d.eE+]+)"
)
SGLANG = re.compile(
    r"(?:#running-req: (?P<requests>\d+).*?)?accept len: (?P<length>[\d.]+)"
    r"(?:.*?accept rate: (?P<rate>[\d.]+))?"
)
SGLANG_GAUGE = re.compile(
    r"sglang:(?P<what>spec_accept_length|spec_accept_rate|num_running_reqs)"
    r"(?P<labels>\{[^}]*\})?\s+(?P<value>[\d.eE+-]+)"
)
LLAMA_CPP = re.compile(
    r"draft acceptance(?: rate)? = [\d.]+ \(\s*(?P<accepted>\d+) accepted /\s*(?P<drafted>\d+) gen"
)
LLAMA_CPP_DRAFTS = re.compile(
    r"#gen drafts = (?P<drafts>\d+).*?#gen tokens = (?P<drafted>\d+), #acc tokens = (?P<acc>\d+)"
)


def from_vllm_log(path: Path, text: str) -> PerPosition | None:
    """vLLM's periodic line, position by position over the lines that drafted it.

    A line of another draft length counts for the positions that it has; a line without rates
    drafted nothing. Rounds give weights and interval where lines state the tokens drafted, else
    the spread between lines gives the interval. Raises SpecError.
    """
    found = list(VLLM.finditer(text))
    if not found:
        return None
    rows = [(_rates(m["rates"]), float(m["drafted"] or 0)) for m in found if m["rates"]]
    if not rows:
        raise SpecError(path, "no SpecDecoding line carries a rate: the server drafted nothing")
    depth = max(len(rates) for rates, _ in rows)
    rates = np.full((len(rows), depth), np.nan)
    for line, (known, _) in zip(rates, rows, strict=True):
        line[: len(known)] = known
    rounds = np.array([drafted / len(known) for known, drafted in rows])
    weights = np.where(
        np.isnan(rates), 0.0, (rounds if rounds.all() else 1.0 + 0 * rounds)[:, None]
    )
    means = np.minimum.accumulate(np.nansum(rates * weights, axis=0) / weights.sum(axis=0))
    origin = f"vLLM's per-position marginals in {path}, {len(rows)} lines"
    try:
        if rounds.all():
            origin += f", {rounds.sum():.0f} rounds"
            return counted(means, weights.sum(axis=0), origin)
        return with_errors(means, _errors_between(rates), origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _rates(text: str) -> list[float]:
    return [float(part) for part in text.replace(" ", "").strip(",.").split(",")]


def _errors_between(rates: Array) -> Array:
    """Standard errors of the tokens emitted at every draft length, from how lines differ; 0,
    unknown, where one line alone drafted a position."""
    emitted = np.cumsum(rates, axis=1)
    lines = np.isfinite(emitted).sum(axis=0)
    errors = np.zeros(rates.shape[1])
    for k in np.flatnonzero(lines > 1):
        seen = emitted[np.isfinite(emitted[:, k]), k]
        errors[k] = seen.std(ddof=1) / math.sqrt(seen.size)
    return errors


def from_vllm_metrics(path: Path, text: str) -> PerPosition | None:
    """vLLM's Prometheus counters: accepted tokens by position over drafts. Raises SpecError."""
    drafts, accepted = 0.0, dict[int, float]()
    for match in VLLM_COUNTS.finditer(text):
        if match["what"] == "drafts":
            drafts += float(match["value"])
        elif position := re.search(r'position="(\d+)"', match["labels"] or ""):
            at = int(position[1])
            accepted[at] = accepted.get(at, 0.0) + float(match["value"])
    if not drafts or not accepted:
        return None
    rates = np.array([accepted.get(i, 0.0) / drafts for i in range(max(accepted) + 1)])
    try:
        return counted(
            rates, np.full(rates.size, drafts), f"vLLM's counters in {path}, {drafts:.0f} drafts"
        )
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def from_sglang(path: Path, text: str) -> Acceptance | None:
    """SGLang's decode log lines, weighted by the requests that ran: a rate for each draft length.

    Accept length and rate of a line give its draft length: newer versions print
    (length - 1) / gamma, older ones length / (gamma + 1), and the form whose draft lengths are
    nearest to whole numbers over the file is the one that was printed. A rate of 0 is a
    measurement, of the draft length that most other lines have. Raises SpecError.
    """
    found = [
        (float(m["length"]), m["rate"], float(m["requests"] or 1)) for m in SGLANG.finditer(text)
    ]
    found = [row for row in found if row[2] > 0]
    if not found:
        return None
    return _from_lengths(path, found, f"SGLang's accept length in {path}, {len(found)} lines")


def from_sglang_metrics(path: Path, text: str) -> Acceptance | None:
    """SGLang's gauges of `/metrics`, weighted by the requests running on each. Raises SpecError."""
    seen: dict[str, dict[str, float]] = defaultdict(dict)
    for match in SGLANG_GAUGE.finditer(text):
        seen[match["labels"] or ""][match["what"]] = float(match["value"])
    rows = [
        (one["spec_accept_length"], one.get("spec_accept_rate"), one.get("num_running_reqs", 1.0))
        for one in seen.values()
        if one.get("spec_accept_length", 0.0) > 0
    ]
    if not rows:
        return None
    found = [(length, None if r is None else str(r), w or 1.0) for length, r, w in rows]
    return _from_lengths(path, found, f"SGLang's gauges in {path}, {len(rows)} of them")


def _from_lengths(path: Path, rows: list[tuple[float, str | None, float]], origin: str) -> Iid:
    """One rate from lines of accept length, accept rate and weight. Raises SpecError."""
    if not any(rate is not None for _, rate, _ in rows):
        raise SpecError(path, "SGLang lines carry no accept rate, so the draft length is unknown")
    known = [(length, float(rate), weight) for length, rate, weight in rows if rate is not None]
    for length, rate, _ in known:
        if not (0 <= rate <= 1 and length >= 1) or (rate == 0) != (length == 1):
            raise SpecError(path, f"accept len {length:g} with accept rate {rate:g} cannot be")
    gammas = _draft_lengths(known)
    lengths = np.array([length for length, _, _ in known])
    weights = np.array([weight for _, _, weight in known])
    if len(set(gammas)) == 1:
        mean = float(np.average(lengths, weights=weights))
        alpha = _alpha(gammas[0], mean)
    each = np.array([_alpha(g, length) for g, length in zip(gammas, lengths, strict=True)])
    if len(set(gammas)) > 1:
        alpha = float(np.average(each, weights=weights))
    return Iid(
        alpha=alpha,
        origin=f"{origin}, weighted by running requests, up to {max(gammas)} drafted tokens",
        uncertainty=_error_of_mean(each, weights),
        measured=max(gammas),
    )


def _error_of_mean(values: Array, weights: Array) -> float:
    """Half-width of an 80 % interval on a weighted mean of lines; 0, unknown, for one line."""
    if values.size < 2:
        return 0.0
    share = weights / weights.sum()
    squares = float((share * (values - share @ values)) @ (share * (values - share @ values)))
    return Z80 * math.sqrt(squares * values.size / (values.size - 1))


def _draft_lengths(rows: list[tuple[float, float, float]]) -> list[int]:
    """The draft length of every line, by the form that fits the file; 1 where every rate is 0."""
    clear = [(length, rate) for length, rate, _ in rows if rate > 0]
    if not clear:
        return [1] * len(rows)
    forms = (
        [(length - 1) / rate for length, rate in clear],
        [length / rate - 1 for length, rate in clear],
    )
    best = min(forms, key=lambda gammas: sum(abs(g - round(g)) for g in gammas))
    whole = iter([max(1, round(gamma)) for gamma in best])
    usual = Counter(max(1, round(gamma)) for gamma in best).most_common(1)[0][0]
    return [next(whole) if rate > 0 else usual for _, rate, _ in rows]


def _alpha(gamma: int, length: float) -> float:
    """The i.i.d. rate whose chain of `gamma` emits `length`."""
    emitted = np.asarray(min(max(length, 1.0), gamma + 1.0))
    return float(alpha_from_tokens_per_round(np.asarray(float(gamma)), emitted))


def from_llama_cpp(path: Path, text: str) -> Iid | None:
    """llama.cpp's lines of accepted over generated drafts.

    Where its statistics count drafts, the mean draft length turns the share into a rate; without
    them the share itself is taken, which is a floor, for tokens behind a rejected one count as
    rejected. llama.cpp ends a draft early where it is unsure, so lengths are a mean. Raises
    SpecError.
    """
    drafts = list(LLAMA_CPP_DRAFTS.finditer(text))
    lines = list(LLAMA_CPP.finditer(text))
    if not drafts and not lines:
        return None
    if drafts:  # the counters only rise, so the last line holds them all
        last = drafts[-1]
        rounds, drafted, accepted = (float(last[k]) for k in ("drafts", "drafted", "acc"))
    else:
        drafted = sum(float(m["drafted"]) for m in lines)
        accepted = sum(float(m["accepted"]) for m in lines)
        rounds = drafted
    if not 0 <= accepted <= drafted or not drafted:
        raise SpecError(path, f"{accepted:g} accepted of {drafted:g} drafted tokens cannot be")
    length = max(1, round(drafted / max(rounds, 1.0)))
    alpha = _alpha(length, 1 + accepted / drafted * length)
    said = f"mean drafts of {length} tokens" if drafts else "a floor: draft lengths are not printed"
    return Iid(
        alpha=alpha,
        origin=f"llama.cpp's accepted drafts in {path}, {drafted:.0f} tokens, {said}",
        uncertainty=Z80 * math.sqrt(max(alpha * (1 - alpha), 0.0) / max(rounds, 1.0)),
        measured=length if drafts else 0,
    )
