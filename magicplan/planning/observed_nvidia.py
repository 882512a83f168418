"""Result files of NVIDIA's AIPerf and GenAI-Perf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.observed_fields import (
    ObservedRun,
    example,
    lengths_of,
    loading,
    number,
    positive,
)

NVIDIA = {
    "time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e",
}  # fmt: skip
"""The same for NVIDIA's tools, whose inter-token latency is one request's mean: our TPOT."""
AIPERF_SCHEMAS = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5")
"""What each added to the one before is listed in AIPerf's docs/reference/json-export-schema.md;
none touches what is read here."""
MODEL_KEYS = ("model", "models", "model_names")
UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}


def nvidia(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """AIPerf and GenAI-Perf: a block of statistics and a unit for every metric."""
    version = d.get("schema_version", AIPERF_SCHEMAS[0])
    if version not in AIPERF_SCHEMAS:
        raise SpecError(
            path, f"schema_version is {version!r}, expected one of {', '.join(AIPERF_SCHEMAS)}"
        )
    figures = {}
    for theirs, ours in NVIDIA.items():
        block = d.get(theirs)
        if not isinstance(block, dict):
            continue
        unit = block.get("unit")
        if unit not in tuple(UNITS):
            raise SpecError(path, f"{theirs}.unit is {unit!r}, expected one of {', '.join(UNITS)}")
        for word, statistic in (("avg", "mean"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99")):
            if word in block:
                seconds = number(path, block, word, f"{theirs}.") * UNITS[unit]
                figures[f"{ours}_{statistic}_seconds"] = seconds
    rates = {
        "request_throughput": "requests_per_s",
        "output_token_throughput": "output_tokens_per_s",
    }
    for theirs, ours in rates.items():
        if isinstance(d.get(theirs), dict):
            figures[ours] = positive(path, d[theirs], "avg", f"{theirs}.")
    if "ttft_mean_seconds" not in figures or "tpot_mean_seconds" not in figures:
        raise SpecError(path, "inter_token_latency is missing: the run did not stream")
    config = d.get("input_config", {})
    concurrency, rate = loading(
        path, _anywhere(config, "concurrency"), _anywhere(config, "request_rate"), stated
    )
    if concurrency is None and rate is None:
        raise SpecError(
            path,
            "input_config has neither concurrency nor request_rate: add --stated "
            "concurrency=8 or --stated requests_per_s=2",
        )
    model = _model_of(config)
    return ObservedRun(
        path=str(path),
        tool="AIPerf" if "aiperf_version" in d or "schema_version" in d else "GenAI-Perf",
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=stated.get("prompts", _count(path, d, "request_count")),
        lengths=lengths_of(
            np.asarray([_of_block(path, d, stated, "prompt", "input_sequence_length")]),
            np.asarray([_of_block(path, d, stated, "output", "output_sequence_length")]),
        ),
        figures=figures,
        model=model,
        model_field="input_config",
        failed=_count(path, d, "error_request_count") or 0.0,
    )


def _count(path: Path, d: dict[str, Any], field: str) -> float | None:
    """A number of requests, None where it is left out."""
    block = d.get(field)
    if block is None:
        return None
    if not isinstance(block, dict) or "avg" not in block:
        raise SpecError(path, f"{field} is {block!r}, expected its number as avg")
    return number(path, block, "avg", f"{field}.")


def _model_of(config: Any) -> str:
    """The one model of a configuration, wherever versions name it; "" where they are several."""
    names: set[str] = set()

    def walk(part: Any, *, named: bool) -> None:
        if isinstance(part, str) and named:
            names.add(part)
        elif isinstance(part, dict):
            for key, value in part.items():
                walk(value, named=key in MODEL_KEYS or (named and key in ("items", "name")))
        elif isinstance(part, list):
            for value in part:
                walk(value, named=named)

    walk(config, named=False)
    return names.pop() if len(names) == 1 else ""


def _of_block(
    path: Path, d: dict[str, Any], stated: dict[str, float], name: str, field: str
) -> float:
    if name in stated:
        return stated[name]
    block = d.get(field)
    if not isinstance(block, dict):
        raise SpecError(path, f"{field} is missing: add {example(name)}")
    return positive(path, block, "avg", f"{field}.")


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
