"""Acceptance out of JSON: our survival counts, benchmark results, histograms of accepted tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.acceptance_specs.counts import counted, survival_of
from magicplan.errors import SpecError, UsageError
from magicplan.roofline.acceptance import Acceptance, PerPosition

SCHEMA = "magicplan.acceptance/1"
RATES = "spec_decode_per_position_acceptance_rates"
"""P(first k accepted) in a result of `vllm bench serve`."""
HISTOGRAMS = ("acceptance_histogram", "spec_correct_drafts_histogram", "spec_accept_histogram")
"""Rounds by accepted drafts, bonus token not counted: vLLM's and TensorRT-LLM's per request and
AIPerf's pooled one, SGLang's newer and older name."""
LENGTHS = ("spec_decode_acceptance_length", "spec_accept_length", "accept_length")
"""Mean tokens a round, bonus token counted, in results that do not state the draft length."""
MAX_DRAFTED = 256


def from_json(path: Path, text: str) -> Acceptance:
    """Whatever of the known fields a document, or every line of JSON lines, holds.

    Histograms of several requests are added. Raises SpecError naming what would be read.
    """
    documents = _documents(path, text)
    one = documents[0]
    if isinstance(one, dict) and one.get("schema") == SCHEMA:
        return _from_counts(path, one)
    if isinstance(one, dict) and RATES in one:
        return _from_bench(path, one)
    histograms = [h for document in documents for h in _histograms(document)]
    if histograms:
        return _from_histograms(path, histograms)
    for name in LENGTHS:
        if isinstance(one, dict) and isinstance(one.get(name), int | float):
            raise SpecError(
                path,
                f"states {name} but no draft length; give --acceptance len:{one[name]:g}@K with "
                "the K drafted tokens of that run",
            )
    raise SpecError(
        path,
        f'expected {{"schema": "{SCHEMA}", "drafted": [...], ...}}, a result of vllm bench serve '
        f"with {RATES}, or a field named {', '.join(HISTOGRAMS)}",
    )


def _documents(path: Path, text: str) -> list[Any]:
    """The document, or those of JSON lines."""
    try:
        return [json.loads(text)]
    except (json.JSONDecodeError, RecursionError) as whole:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (json.JSONDecodeError, RecursionError):
            raise SpecError(path, f"is not JSON ({whole})") from None


def _from_counts(path: Path, document: dict[str, Any]) -> PerPosition:
    drafted = number_list(path, "drafted", document.get("drafted"))
    accepted = number_list(path, "accepted", document.get("accepted"))
    if len(drafted) != len(accepted) or not drafted:
        raise SpecError(path, f"{len(drafted)} drafted and {len(accepted)} accepted counts")
    origin = f"survival counts of {path}, {drafted[0]:.0f} rounds"
    try:
        return counted(survival_of(accepted, drafted), np.array(drafted), origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _from_bench(path: Path, document: dict[str, Any]) -> Acceptance:
    """Marginal rates by position, of as many rounds as the result states."""
    rates = np.array(number_list(path, RATES, document[RATES]))
    rounds = document.get("spec_decode_num_drafts")
    if not isinstance(rounds, int | float) or isinstance(rounds, bool) or not rounds > 0:
        raise SpecError(path, f"spec_decode_num_drafts is {rounds!r}, expected rounds above 0")
    origin = f"vllm bench serve's rates by position in {path}, {rounds:.0f} rounds"
    try:
        return counted(rates, np.full(rates.size, float(rounds)), origin)
    except UsageError as problem:
        raise SpecError(path, str(problem)) from None


def _histograms(value: Any) -> Iterator[Any]:
    """Every field of a known name, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in HISTOGRAMS:
                yield inner
            else:
                yield from _histograms(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _histograms(inner)


def _from_histograms(path: Path, histograms: list[Any]) -> PerPosition:
    """Rounds by accepted drafts: P(first k accepted) is the share of rounds with k or more."""
    steps = np.zeros(MAX_DRAFTED + 1)
    longest = 0
    for histogram in histograms:
        for accepted, count in _buckets(path, histogram):
            steps[accepted] += count
            longest = max(longest, accepted)
    if not steps.sum() or not longest:
        raise SpecError(path, "the histogram of accepted drafts holds no round that drafted")
    survival = steps[::-1].cumsum()[::-1] / steps.sum()
    rounds = np.full(longest, steps.sum())
    origin = f"accepted drafts of {path}, {steps.sum():.0f} rounds, bonus token not counted"
    return counted(survival[1 : longest + 1], rounds, origin)


def _buckets(path: Path, histogram: Any) -> list[tuple[int, float]]:
    """(accepted drafts, rounds) of a dense list or a sparse object."""
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(histogram, list):
        pairs = enumerate(histogram)
    elif isinstance(histogram, dict):
        pairs = histogram.items()
    else:
        raise SpecError(path, "a histogram of accepted drafts is a list or an object of counts")
    found = []
    for key, count in pairs:
        whole = isinstance(key, int) or str(key).isdigit()
        number = isinstance(count, int | float) and not isinstance(count, bool) and count >= 0
        if not (whole and number and int(key) <= MAX_DRAFTED):
            raise SpecError(
                path,
                f"histogram of accepted drafts, {key!r}: {count!r}; expected a length up to "
                f"{MAX_DRAFTED} and a count of 0 or more",
            )
        found.append((int(key), float(count)))
    return found


def number_list(path: Path, name: str, value: Any) -> list[float]:
    """A list of numbers. Raises SpecError naming the entry that is none."""
    if not isinstance(value, list) or not value:
        raise SpecError(path, f"{name} is missing or no list of numbers")
    for i, entry in enumerate(value, 1):
        if isinstance(entry, bool) or not isinstance(entry, int | float) or entry != entry:
            raise SpecError(path, f"{name}, entry {i}: {entry!r} is not a number")
    return [float(entry) for entry in value]
