"""Result files of load generators: vLLM bench, SGLang bench_serving, NVIDIA AIPerf and GenAI-Perf.

Each becomes the same facts in SI units: how the server was loaded, and what was seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.lengths import Lengths
from magicplan.roofline.deployment import Array

STATABLE = ("concurrency", "requests_per_s", "prompts", "prompt", "output")
"""Facts that a file may leave out and its reader then states."""
LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e", "e2e_latency": "e2e"}
"""Metric names of vLLM and SGLang, by ours."""
STATISTICS = {"mean": "mean", "median": "p50", "p95": "p95", "p99": "p99"}
NVIDIA = {
    "time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e",
}  # fmt: skip
"""The same for NVIDIA's tools, whose inter-token latency is one request's mean: our TPOT."""
UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedRun:
    """What a file says. `figures` are seconds by names such as "ttft_p99_seconds", and rates
    "requests_per_s", "output_tokens_per_s"."""

    path: str
    tool: str
    concurrency: float | None
    requests_per_s: float | None
    prompts: float | None
    lengths: Lengths
    figures: Mapping[str, float]
    tokens_per_round: float | None = None
    """Accept length, where the server speculated and the tool saw it."""


def read_observed(path: Path, stated: Mapping[str, float] | None = None) -> ObservedRun:
    """Recognise the tool by its fields. `stated` adds what a file leaves out (`STATABLE`).

    Raises SpecError naming the file and the field: another tool, another version, bad numbers.
    """
    document = _load(path)
    known = dict(stated or {})
    if unknown := set(known) - set(STATABLE):
        raise SpecError(path, f"{', '.join(unknown)} cannot be stated; {', '.join(STATABLE)} can")
    for mark, read in READERS:
        if mark <= set(document):
            return read(path, document, known)
    raise SpecError(
        path,
        f"has fields {', '.join(sorted(document)[:8])}: no result of vllm bench serve, latency or "
        "throughput, of sglang.bench_serving, of AIPerf or of GenAI-Perf",
    )


def _load(path: Path) -> dict[str, Any]:
    """One JSON object, or the last line of a file with one a line (SGLang appends)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"cannot be read ({problem})") from None
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            document = json.loads(lines[-1]) if lines else None
        except (json.JSONDecodeError, RecursionError) as problem:
            raise SpecError(f"{path}, line {len(lines)}", f"is not JSON ({problem})") from None
    if not isinstance(document, dict):
        raise SpecError(path, "holds no JSON object: expected one result, or one a line")
    return document


def _vllm_serve(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench serve --save-result`: milliseconds, totals, and lists with --save-detailed."""
    return _served(path, d, stated, tool="vllm bench serve", prompts=d.get("num_prompts"))


def _sglang(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`python -m sglang.bench_serving --output-file`: one JSON a line."""
    return _served(path, d, stated, tool="sglang.bench_serving", prompts=d.get("completed"))


def _served(
    path: Path, d: dict[str, Any], stated: dict[str, float], *, tool: str, prompts: Any
) -> ObservedRun:
    completed = _positive(path, d, "completed")
    prompt = _list(path, d, "input_lens") or [_positive(path, d, "total_input_tokens") / completed]
    output = _list(path, d, "output_lens") or [
        _positive(path, d, "total_output_tokens") / completed
    ]
    figures = {
        "requests_per_s": _positive(path, d, "request_throughput"),
        "output_tokens_per_s": _positive(path, d, "output_throughput"),
    }
    for theirs, ours in LATENCIES.items():
        for word, statistic in STATISTICS.items():
            key = f"{word}_{theirs}_ms"
            if d.get(key) is not None:
                figures[f"{ours}_{statistic}_seconds"] = _number(path, d, key) * 1e-3
    if "ttft_mean_seconds" not in figures or "tpot_mean_seconds" not in figures:
        raise SpecError(path, "mean_ttft_ms or mean_tpot_ms is missing: the run did not stream")
    concurrency, rate = _loading(path, d.get("max_concurrency"), d.get("request_rate"), stated)
    if concurrency is None and rate is None:
        concurrency = completed  # everything was sent at once
    accepted = d.get("accept_length")
    return ObservedRun(
        path=str(path),
        tool=tool,
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=float(prompts or completed),
        lengths=_lengths(np.asarray(prompt), np.asarray(output)),
        figures=figures,
        tokens_per_round=float(accepted) if isinstance(accepted, int | float) else None,
    )


def _loading(
    path: Path, concurrency: Any, rate: Any, stated: dict[str, float]
) -> tuple[float | None, float | None]:
    """A fixed concurrency wins over a rate; "inf" is no rate."""
    limit = stated.get("concurrency", concurrency)
    if limit is not None:
        return _checked(path, "max_concurrency", limit), None
    speed = stated.get("requests_per_s", rate)
    if speed in (None, "inf") or (isinstance(speed, float) and math.isinf(speed)):
        return None, None
    return None, _checked(path, "request_rate", speed)


def _vllm_latency(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench latency --output-json`: seconds of whole batches, nothing about their size."""
    batch = _needed(path, d, stated, "concurrency", "batch_size")
    output = _needed(path, d, stated, "output", "output_len")
    seconds = _positive(path, d, "avg_latency")
    return ObservedRun(
        path=str(path),
        tool="vllm bench latency",
        concurrency=batch,
        requests_per_s=None,
        prompts=batch,
        lengths=_lengths(
            np.asarray([_needed(path, d, stated, "prompt", "input_len")]), np.asarray([output])
        ),
        figures={
            "e2e_mean_seconds": seconds,
            "requests_per_s": batch / seconds,
            "output_tokens_per_s": batch * output / seconds,
        },
    )


def _vllm_throughput(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench throughput --output-json`: everything at once, and how long it took."""
    count = _positive(path, d, "num_requests")
    output = _needed(path, d, stated, "output", "output_len")
    prompt = stated.get("prompt")
    if prompt is None:
        prompt = _positive(path, d, "total_num_tokens") / count - output
    rate = _positive(path, d, "requests_per_second")
    return ObservedRun(
        path=str(path),
        tool="vllm bench throughput",
        concurrency=float(stated.get("concurrency", count)),
        requests_per_s=None,
        prompts=count,
        lengths=_lengths(np.asarray([prompt]), np.asarray([output])),
        figures={"requests_per_s": rate, "output_tokens_per_s": rate * output},
    )


def _nvidia(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """AIPerf and GenAI-Perf: a block of statistics and a unit for every metric."""
    figures = {}
    for theirs, ours in NVIDIA.items():
        block = d.get(theirs)
        if not isinstance(block, dict):
            continue
        unit = block.get("unit")
        if unit not in UNITS:
            raise SpecError(path, f"{theirs}.unit is {unit!r}, expected one of {', '.join(UNITS)}")
        for word, statistic in (("avg", "mean"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99")):
            if word in block:
                seconds = _number(path, block, word, f"{theirs}.") * UNITS[unit]
                figures[f"{ours}_{statistic}_seconds"] = seconds
    rates = {
        "request_throughput": "requests_per_s",
        "output_token_throughput": "output_tokens_per_s",
    }
    for theirs, ours in rates.items():
        if isinstance(d.get(theirs), dict):
            figures[ours] = _positive(path, d[theirs], "avg", f"{theirs}.")
    if "ttft_mean_seconds" not in figures or "tpot_mean_seconds" not in figures:
        raise SpecError(path, "inter_token_latency is missing: the run did not stream")
    config = d.get("input_config", {})
    concurrency, rate = _loading(
        path, _anywhere(config, "concurrency"), _anywhere(config, "request_rate"), stated
    )
    if concurrency is None and rate is None:
        raise SpecError(path, "input_config has neither concurrency nor request_rate: state one")
    count = d.get("request_count")
    prompts = stated.get("prompts", count.get("avg") if isinstance(count, dict) else None)
    return ObservedRun(
        path=str(path),
        tool="AIPerf" if "aiperf_version" in d or "schema_version" in d else "GenAI-Perf",
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=None if prompts is None else float(prompts),
        lengths=_lengths(
            np.asarray([_of_block(path, d, stated, "prompt", "input_sequence_length")]),
            np.asarray([_of_block(path, d, stated, "output", "output_sequence_length")]),
        ),
        figures=figures,
    )


def _of_block(
    path: Path, d: dict[str, Any], stated: dict[str, float], name: str, field: str
) -> float:
    if name in stated:
        return float(stated[name])
    block = d.get(field)
    if not isinstance(block, dict):
        raise SpecError(path, f"{field} is missing: state {name}")
    return _positive(path, block, "avg", f"{field}.")


def _anywhere(config: Any, key: str) -> Any:
    """The first value of a key in nested tables: versions place it differently."""
    if isinstance(config, dict):
        if isinstance(config.get(key), int | float) and not isinstance(config.get(key), bool):
            return config[key]
        config = list(config.values())
    for entry in config if isinstance(config, list) else ():
        found = _anywhere(entry, key)
        if found is not None:
            return found
    return None


Reader = Callable[[Path, dict[str, Any], dict[str, float]], ObservedRun]
READERS: tuple[tuple[frozenset[str], Reader], ...] = (
    (frozenset({"num_prompts", "mean_ttft_ms", "completed"}), _vllm_serve),
    (frozenset({"mean_ttft_ms", "completed", "duration"}), _sglang),
    (frozenset({"avg_latency", "latencies"}), _vllm_latency),
    (frozenset({"elapsed_time", "num_requests", "requests_per_second"}), _vllm_throughput),
    (frozenset({"time_to_first_token", "request_throughput"}), _nvidia),
)
"""Fields that tell a tool, most telling first."""


def _lengths(prompt: Array, output: Array) -> Lengths:
    size = max(prompt.size, output.size, 64)
    return Lengths(
        prompt=np.maximum(np.rint(np.resize(np.sort(prompt.astype(np.float64)), size)), 1.0),
        output=np.maximum(np.rint(np.resize(output.astype(np.float64), size)), 1.0),
    )


def _needed(
    path: Path, d: dict[str, Any], stated: dict[str, float], name: str, field: str
) -> float:
    if name in stated:
        return _checked(path, name, stated[name])
    if field in d:
        return _positive(path, d, field)
    raise SpecError(path, f"does not say {field}: state {name}")


def _list(path: Path, d: dict[str, Any], field: str) -> list[float]:
    values = d.get(field) or []
    if not isinstance(values, list):
        raise SpecError(path, f"{field} is no list")
    return [_checked(path, f"{field}[{i}]", value) for i, value in enumerate(values) if value]


def _positive(path: Path, d: dict[str, Any], field: str, prefix: str = "") -> float:
    if field not in d:
        raise SpecError(path, f"{prefix}{field} is missing: another version of the tool?")
    return _checked(path, prefix + field, d[field])


def _number(path: Path, d: dict[str, Any], field: str, prefix: str = "") -> float:
    return _checked(path, prefix + field, d[field], low=0.0)


def _checked(path: Path, field: str, value: Any, low: float = 1e-12) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= 1e15:
        raise SpecError(path, f"{field} is {value!r}, expected a positive number")
    return float(value)
