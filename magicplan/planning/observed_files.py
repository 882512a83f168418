"""Result files of load generators: vLLM bench, SGLang bench_serving, NVIDIA AIPerf and GenAI-Perf.

Each becomes the same facts in SI units: how the server was loaded, and what was seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.observed_fields import (
    STATABLE,
    ObservedRun,
    checked,
    lengths_of,
    list_of,
    loading,
    needed,
    number,
    positive,
    text_of,
)
from magicplan.planning.observed_nvidia import nvidia

LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e", "e2e_latency": "e2e"}
"""Metric names of vLLM and SGLang, by ours."""
STATISTICS = {"mean": "mean", "median": "p50", "p95": "p95", "p99": "p99"}


def read_observed(path: Path, stated: Mapping[str, float] | None = None) -> ObservedRun:
    """Recognise the tool by its fields. `stated` adds what a file leaves out (`STATABLE`).

    Raises SpecError naming the file and the field: another tool, another version, bad numbers.
    """
    document = _load(path)
    known = dict(stated or {})
    if unknown := sorted(set(known) - set(STATABLE)):
        raise SpecError(path, f"{', '.join(unknown)} cannot be stated; {', '.join(STATABLE)} can")
    for name, value in known.items():
        known[name] = checked(path, f"--stated {name}", value)
    for mark, read in READERS:
        if mark <= set(document):
            return read(path, document, known)
    holds = f"has fields {', '.join(sorted(document)[:8])}" if document else "holds no fields"
    raise SpecError(
        path,
        f"{holds}: no result of vllm bench serve, latency or throughput, of sglang.bench_serving, "
        "of AIPerf or of GenAI-Perf",
    )


def _load(path: Path) -> dict[str, Any]:
    """One JSON object, or the last line of a file with one a line (SGLang appends)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"cannot be read ({problem})") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            document = json.loads(lines[-1]) if lines else None
        except (ValueError, RecursionError) as problem:
            raise SpecError(f"{path}, line {len(lines)}", f"is not JSON ({problem})") from None
    if not isinstance(document, dict):
        raise SpecError(path, "holds no JSON object: expected one result, or one a line")
    return document


def _vllm_serve(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench serve --save-result`: milliseconds, totals, and lists with --save-detailed."""
    return _served(path, d, stated, tool="vllm bench serve", count="num_prompts")


def _sglang(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`python -m sglang.bench_serving --output-file`: one JSON a line."""
    return _served(path, d, stated, tool="sglang.bench_serving", count="completed")


def _served(
    path: Path, d: dict[str, Any], stated: dict[str, float], *, tool: str, count: str
) -> ObservedRun:
    completed = positive(path, d, "completed")
    prompt = list_of(path, d, "input_lens") or [positive(path, d, "total_input_tokens") / completed]
    output = list_of(path, d, "output_lens") or [
        positive(path, d, "total_output_tokens") / completed
    ]
    figures = {
        "requests_per_s": positive(path, d, "request_throughput"),
        "output_tokens_per_s": positive(path, d, "output_throughput"),
    }
    for theirs, ours in LATENCIES.items():
        for word, statistic in STATISTICS.items():
            key = f"{word}_{theirs}_ms"
            if d.get(key) is not None:
                figures[f"{ours}_{statistic}_seconds"] = number(path, d, key) * 1e-3
    if "ttft_mean_seconds" not in figures or "tpot_mean_seconds" not in figures:
        raise SpecError(path, "mean_ttft_ms or mean_tpot_ms is missing: the run did not stream")
    concurrency, rate = loading(path, d.get("max_concurrency"), d.get("request_rate"), stated)
    if concurrency is None and rate is None:
        concurrency = completed  # everything was sent at once
    prompts = positive(path, d, count)
    failed = number(path, d, "failed") if d.get("failed") is not None else prompts - completed
    accepted = d.get("accept_length")
    return ObservedRun(
        path=str(path),
        tool=tool,
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=stated.get("prompts", prompts),
        lengths=lengths_of(np.asarray(prompt), np.asarray(output)),
        figures=figures,
        tokens_per_round=None if accepted is None else checked(path, "accept_length", accepted),
        model=text_of(path, d, "model_id"),
        model_field="model_id",
        failed=max(failed, 0.0),
    )


def _vllm_latency(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench latency --output-json`: seconds of whole batches, nothing about their size."""
    batch = needed(path, d, stated, "concurrency", "batch_size")
    output = needed(path, d, stated, "output", "output_len")
    seconds = positive(path, d, "avg_latency")
    return ObservedRun(
        path=str(path),
        tool="vllm bench latency",
        concurrency=batch,
        requests_per_s=None,
        prompts=batch,
        lengths=lengths_of(
            np.asarray([needed(path, d, stated, "prompt", "input_len")]), np.asarray([output])
        ),
        figures={
            "e2e_mean_seconds": seconds,
            "requests_per_s": batch / seconds,
            "output_tokens_per_s": batch * output / seconds,
        },
    )


def _vllm_throughput(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench throughput --output-json`: everything at once, and how long it took."""
    count = positive(path, d, "num_requests")
    output = needed(path, d, stated, "output", "output_len")
    prompt = stated.get("prompt")
    if prompt is None:
        prompt = positive(path, d, "total_num_tokens") / count - output
        if prompt < 1:
            raise SpecError(
                path, f"total_num_tokens leaves no prompts beside outputs of {output:g} tokens"
            )
    rate = positive(path, d, "requests_per_second")
    return ObservedRun(
        path=str(path),
        tool="vllm bench throughput",
        concurrency=stated.get("concurrency", count),
        requests_per_s=None,
        prompts=count,
        lengths=lengths_of(np.asarray([prompt]), np.asarray([output])),
        figures={"requests_per_s": rate, "output_tokens_per_s": rate * output},
    )


Reader = Callable[[Path, dict[str, Any], dict[str, float]], ObservedRun]
READERS: tuple[tuple[frozenset[str], Reader], ...] = (
    (frozenset({"num_prompts", "mean_ttft_ms", "completed"}), _vllm_serve),
    (frozenset({"mean_ttft_ms", "completed", "duration"}), _sglang),
    (frozenset({"avg_latency", "latencies"}), _vllm_latency),
    (frozenset({"elapsed_time", "num_requests", "requests_per_second"}), _vllm_throughput),
    (frozenset({"time_to_first_token", "request_throughput"}), nvidia),
)
"""Fields that tell a tool, most telling first."""
