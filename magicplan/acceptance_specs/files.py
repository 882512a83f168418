"""Acceptance from files: ranks for trees, survival counts, and engines' own log lines."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np

from magicplan.acceptance_specs.counts import counted, survival_of, with_errors
from magicplan.acceptance_specs.text import parse
from magicplan.errors import FieldError, SpecError, UsageError
from magicplan.fields import parse_json, read_text
from magicplan.roofline.acceptance import (
    Z80,
    Acceptance,
    Iid,
    PerPosition,
    Ranked,
    alpha_from_tokens_per_round,
)

SCHEMA = "magicplan.acceptance/1"
VLLM = re.compile(
    r"SpecDecoding metrics:(?:.*?Drafted: (?P<drafted>\d+) tokens)?"
    r".*?Per-position acceptance rate: (?P<rates>[\d., ]+)",
    re.IGNORECASE,
)
VLLM_COUNTS = re.compile(
    r"vllm:spec_decode_num_(?P<what>drafts|accepted_tokens_per_pos)(_total)?"
    r"(\{(?P<labels>[^}]*)\})?\s+(?P<value>[\d.eE+]+)"
)
SGLANG = re.compile(r"accept len: (?P<length>[\d.]+)(.*?accept rate: (?P<rate>[\d.]+))?")


def parse_acceptance(text: str) -> Acceptance:
    """What `--acceptance` takes besides `auto`: numbers, `rank:FILE` or `file:FILE`."""
    kind, separator, rest = text.partition(":")
    read = {"rank": load_ranks, "file": import_measured}.get(kind)
    if read is None or not separator:
        return parse(text)
    if not rest.strip():
        raise FieldError("acceptance", f"{text}: the path is missing; expected {kind}:FILE")
    return read(Path(rest))


def load_ranks(path: Path) -> Ranked:
    """Acceptance by child rank: a JSON list, `{"ranks": [...], "samples": n}`, or a number a line;
    a list of lists gives the ranks of every level of a tree.

    Raises SpecError naming the file and the line.
    """
    text = _read(path)
    samples = 0
    if text.lstrip().startswith(("[", "{")):
        document = parse_json(text, path)
        if isinstance(document, dict):
            samples, document = document.get("samples", 0), document.get("ranks")
        by_level = isinstance(document, list) and any(isinstance(row, list) for row in document)
        rows = [
            _number_list(path, f"ranks of level {i}" if by_level else "ranks", row)
            for i, row in enumerate(document if by_level else [document], 1)
        ]
    else:
        lines = enumerate(text.splitlines(), 1)
        rows = [[_line_number(path, i, line) for i, line in lines if line]]
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 0:
        raise SpecError(path, f"samples is {samples!r}, expected a whole number")
    try:
        first = rows[0][0]
        spread = Z80 * math.sqrt(first * (1 - first) / samples) if samples else 0.0
        origin = f"ranks of {path}" + (f", {samples} samples" if samples else "")
        return Ranked(
            probabilities=tuple(rows[0]),
            deeper=tuple(tuple(row) for row in rows[1:]),
            origin=origin,
            uncertainty=spread,
        )
    except (UsageError, ValueError, IndexError) as problem:
        raise SpecError(path, str(problem)) from None


def _line_number(path: Path, number: int, line: str) -> float:
    try:
        return float(line)
    except ValueError:
        raise SpecError(path, f"line {number} {line[:40]!r} is not a number") from None


def import_measured(path: Path) -> Acceptance:
    """Measured rates: our JSON of survival counts, or what vLLM or SGLang printed.

    The JSON is {"schema": "magicplan.acceptance/1", "drafted": [n, ...], "accepted": [k, ...]}:
    of n rounds that drafted position i, k accepted it and all before. Raises SpecError.
    """
    text = _read(path)
    if text.lstrip().startswith("{"):
        return _from_counts(path, parse_json(text, path))
    for reader in (_from_vllm_log, _from_vllm_metrics, _from_sglang):
        found = reader(path, text)
        if found is not None:
            return found
    raise SpecError(
        path,
        f"holds neither {SCHEMA} JSON, nor vLLM's SpecDecoding metrics or Prometheus counters, nor "
        "SGLang's accept len",
    )


def _from_counts(path: Path, document: Any) -> PerPosition:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SpecError(path, f'expected {{"schema": "{SCHEMA}", "drafted": [...], ...}}')
    drafted = _number_list(path, "drafted", document.get("drafted"))
    accepted = _number_list(path, "accepted", document.get("accepted"))
    if len(drafted) != len(accepted) or not drafted:
        raise SpecError(path, f"{len(drafted)} drafted and {len(accepted)} accepted counts")
    origin = f"survival counts of {path}, {drafted[0]:.0f} rounds"
    try:
        return counted(survival_of(accepted, drafted), np.array(drafted), origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _marginal(path: Path, rates: list[float], origin: str, rounds: float) -> PerPosition:
    """Marginal rates that all come from the same number of rounds."""
    try:
        return counted(np.array(rates), np.full(len(rates), rounds), origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _from_vllm_log(path: Path, text: str) -> PerPosition | None:
    """vLLM's periodic log line: the mean over all lines, weighted by the rounds they drafted where
    they say so; rounds then give the interval, else the spread between lines does."""
    found = list(VLLM.finditer(text))
    if not found:
        return None
    rows = [_rates(match["rates"]) for match in found]
    if len({len(row) for row in rows}) > 1:
        raise SpecError(path, "SpecDecoding lines disagree on the number of positions")
    rounds = [float(match["drafted"] or 0) / len(rows[0]) for match in found]
    weights = rounds if all(rounds) else [1.0] * len(rows)
    means = np.average(rows, axis=0, weights=weights)
    origin = f"vLLM's per-position marginals in {path}, {len(rows)} lines"
    if all(rounds):
        whole = f"{origin}, {sum(rounds):.0f} rounds"
        return _marginal(path, means.tolist(), whole, sum(rounds))
    emitted = np.cumsum(rows, axis=1)
    errors = np.array([_between_lines(column) for column in emitted.T.tolist()])
    try:
        return with_errors(means, errors / Z80, origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _rates(text: str) -> list[float]:
    return [float(part) for part in text.replace(" ", "").strip(",.").split(",")]


def _between_lines(values: list[float]) -> float:
    """Half-width of an 80 % interval on the mean of several lines; 0, unknown, for one."""
    return Z80 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _from_vllm_metrics(path: Path, text: str) -> PerPosition | None:
    """vLLM's Prometheus counters: accepted tokens by position over drafts."""
    drafts, accepted = 0.0, dict[int, float]()
    for match in VLLM_COUNTS.finditer(text):
        if match["what"] == "drafts":
            drafts += float(match["value"])
        elif position := re.search(r'position="(\d+)"', match["labels"] or ""):
            at = int(position[1])
            accepted[at] = accepted.get(at, 0.0) + float(match["value"])
    if not drafts or not accepted:
        return None
    rates = [accepted.get(i, 0.0) / drafts for i in range(max(accepted) + 1)]
    return _marginal(path, rates, f"vLLM's counters in {path}, {drafts:.0f} drafts", drafts)


def _from_sglang(path: Path, text: str) -> Iid | None:
    """SGLang's decode log lines, as an i.i.d. rate: accept length and rate give the draft length.

    Newer versions print (length - 1) / gamma, older ones length / (gamma + 1); the form whose
    gamma is nearest to a whole number is the one that was printed.
    """
    found = [(float(m["length"]), m["rate"]) for m in SGLANG.finditer(text)]
    if not found:
        return None
    rates = [float(rate) for _, rate in found if rate is not None]
    if not rates:
        raise SpecError(path, "SGLang lines carry no accept rate, so the draft length is unknown")
    length = sum(value for value, _ in found) / len(found)
    each = [_alpha(path, value, float(rate)) for value, rate in found if rate is not None]
    return Iid(
        alpha=_alpha(path, length, sum(rates) / len(rates)),
        origin=f"SGLang's accept length in {path}, {len(found)} lines",
        uncertainty=_between_lines(each),
    )


def _alpha(path: Path, length: float, rate: float) -> float:
    if not (0 < rate <= 1 and length >= 1):
        raise SpecError(path, f"accept len {length:g} with accept rate {rate:g} cannot be")
    newer, older = (length - 1) / rate, length / rate - 1
    exact = min(newer, older, key=lambda gamma: abs(gamma - round(gamma)))
    drafted = np.asarray(max(1.0, round(exact)))
    return float(alpha_from_tokens_per_round(drafted, np.asarray(min(length, drafted + 1))))


def _read(path: Path) -> str:
    text = read_text(path)
    if not text.strip():
        raise SpecError(path, "is empty")
    return text


def _number_list(path: Path, name: str, value: Any) -> list[float]:
    if not isinstance(value, list) or not value:
        raise SpecError(path, f"{name} is missing or no list of numbers")
    for i, entry in enumerate(value, 1):
        if isinstance(entry, bool) or not isinstance(entry, int | float) or entry != entry:
            raise SpecError(path, f"{name}, entry {i}: {entry!r} is not a number")
    return [float(entry) for entry in value]
