"""Acceptance from files: ranks for trees, survival counts, and engines' own log lines."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

from magicplan.acceptance_specs.text import parse
from magicplan.errors import SpecError, UsageError
from magicplan.roofline.acceptance import Z80, Acceptance, Iid, PerPosition, Ranked

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
    if separator and kind == "rank":
        return load_ranks(Path(rest))
    if separator and kind == "file":
        return import_measured(Path(rest))
    return parse(text)


def load_ranks(path: Path) -> Ranked:
    """Acceptance by child rank: a JSON list, `{"ranks": [...], "samples": n}`, or a number a line;
    a list of lists gives the ranks of every level of a tree.

    Raises SpecError naming the file and the line.
    """
    text = _read(path)
    samples = 0
    if text.lstrip().startswith(("[", "{")):
        document = _json(path, text)
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
        return _from_counts(path, _json(path, text))
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
    for i, (n, k) in enumerate(zip(drafted, accepted, strict=True), 1):
        if not 0 <= k <= n or n <= 0:
            raise SpecError(path, f"position {i}: accepted {k:g} of {n:g} drafted")
    marginal = [k / n for n, k in zip(drafted, accepted, strict=True)]
    origin = f"survival counts of {path}, {drafted[0]:.0f} rounds"
    return _marginal(path, marginal, origin, drafted[0])


def _marginal(path: Path, rates: list[float], origin: str, rounds: float = 0.0) -> PerPosition:
    """Marginal rates; noise of counts may raise a later one a little, an increase is refused."""
    first = rates[0]
    spread = Z80 * math.sqrt(first * (1 - first) / rounds) if rounds and 0 <= first <= 1 else 0.0
    try:
        return PerPosition.from_marginal(tuple(rates), origin=origin, uncertainty=spread)
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
    means = [
        sum(w * value for w, value in zip(weights, column, strict=True)) / sum(weights)
        for column in zip(*rows, strict=True)
    ]
    origin = f"vLLM's per-position marginals in {path}, {len(rows)} lines"
    if all(rounds):
        return _marginal(path, means, f"{origin}, {sum(rounds):.0f} rounds", sum(rounds))
    return replace(
        _marginal(path, means, origin), uncertainty=_between_lines([row[0] for row in rows])
    )


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
    import numpy as np

    from magicplan.roofline.acceptance import alpha_from_tokens_per_round

    if not (0 < rate <= 1 and length >= 1):
        raise SpecError(path, f"accept len {length:g} with accept rate {rate:g} cannot be")
    newer, older = (length - 1) / rate, length / rate - 1
    exact = min(newer, older, key=lambda gamma: abs(gamma - round(gamma)))
    drafted = np.asarray(max(1.0, round(exact)))
    return float(alpha_from_tokens_per_round(drafted, np.asarray(min(length, drafted + 1))))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(path, "is no text file") from None
    if not text.strip():
        raise SpecError(path, "is empty")
    return text


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as problem:
        raise SpecError(path, f"is not JSON ({problem})") from None


def _number_list(path: Path, name: str, value: Any) -> list[float]:
    if not isinstance(value, list) or not value:
        raise SpecError(path, f"{name} is missing or no list of numbers")
    for i, entry in enumerate(value, 1):
        if isinstance(entry, bool) or not isinstance(entry, int | float) or entry != entry:
            raise SpecError(path, f"{name}, entry {i}: {entry!r} is not a number")
    return [float(entry) for entry in value]
