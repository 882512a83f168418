"""Result files of `vllm bench serve` and of SGLang's `bench_serving`, which grew out of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.observed.lengths import Tokens, lengths_of, listed, uniform
from magicplan.observed.run import (
    ObservedRun,
    agree,
    checked,
    loading,
    named,
    number,
    positive,
    rate_doubts,
    refuse_overfull,
    text_of,
)

LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e", "e2e_latency": "e2e"}
"""Metric names of vLLM and SGLang, by ours."""
STATISTICS = {"mean": "mean", "median": "p50", "p95": "p95", "p99": "p99"}
ACCEPTED = ("accept_length", "spec_decode_acceptance_length")
"""SGLang's and vLLM's name for the tokens that a round of speculation emits."""
PROTOCOLS = ("openai", "vllm")
"""Clients of vLLM's benchmark that speak to any server with an OpenAI-compatible API."""
STACKS = {"trt": "trtllm", "tensorrt-llm": "trtllm", "vllm-chat": "vllm"}
"""Stacks by a benchmark's name for its backend, where it is another."""


def vllm_serve(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench serve --save-result`: milliseconds, totals, and lists with --save-detailed."""
    if strategy := text_of(path, d, "ramp_up_strategy"):
        raise SpecError(
            path,
            f"ramp_up_strategy is {strategy}: the load rose all the time, so that no steady state "
            "compares; run at one --request-rate",
        )
    backend = text_of(path, d, "backend") or text_of(path, d, "endpoint_type")
    count, completed = positive(path, d, "num_prompts"), positive(path, d, "completed")
    if completed > count:
        raise SpecError(path, f"completed is {completed:g}, more than num_prompts, {count:g}")
    run = _served(path, d, stated, tool="vllm bench serve", prompts=count)
    smooth = d.get("burstiness")
    return replace(
        run,
        arrival_cv2=1.0 if smooth is None else _variation(path, smooth),
        engine="" if backend.startswith(PROTOCOLS) else STACKS.get(backend, backend),
        backend=backend,
        failed=max(run.failed, count - completed),
    )


def _variation(path: Path, burstiness: Any) -> float:
    """Of gaps drawn from a gamma distribution of that shape; none for an infinite one."""
    if burstiness in ("inf", math.inf):
        return 0.0
    return 1 / checked(path, "burstiness", burstiness)


def sglang(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`python -m sglang.bench_serving --output-file`: one JSON a line."""
    backend = text_of(path, d, "backend")
    name = "sglang" if backend.startswith("sglang") else STACKS.get(backend, backend)
    prompts = positive(path, d, "completed")
    run = _served(path, d, stated, tool="sglang.bench_serving", prompts=prompts)
    return replace(run, engine=name, backend=backend, doubts=(*run.doubts, *_shared(path, d, run)))


def _shared(path: Path, d: dict[str, Any], run: ObservedRun) -> Iterator[str]:
    dataset = text_of(path, d, "dataset_name")
    if ("prefix" in dataset or dataset.startswith("gsp")) and not run.prefix_hit_rate:
        yield (
            f"dataset_name is {dataset}, whose prompts share prefixes that a cache may find: state "
            "the share of prompt tokens with --stated prefix_hit_rate=0.5"
        )


def _served(
    path: Path, d: dict[str, Any], stated: dict[str, float], *, tool: str, prompts: float
) -> ObservedRun:
    names = ("max_concurrency", "request_rate")
    concurrency, rate = loading(path, d.get(names[0]), d.get(names[1]), stated, names)
    prompts = stated.get("prompts", prompts)
    if concurrency is None and rate is None:
        concurrency = prompts  # everything was sent at once
    accepted = next((key for key in ACCEPTED if d.get(key)), "")
    errors = d.get("errors")
    run = ObservedRun(
        path=str(path),
        tool=tool,
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=prompts,
        lengths=lengths_of(path, *_tokens(path, d, stated)),
        figures=_figures(path, d),
        prefix_hit_rate=stated.get("prefix_hit_rate", 0.0),
        tokens_per_round=checked(path, accepted, d[accepted]) if accepted else None,
        round_field=accepted,
        model=text_of(path, d, "model_id"),
        model_field="model_id",
        failed=number(path, d, "failed")
        if d.get("failed") is not None
        else float(sum(map(bool, errors)) if isinstance(errors, list) else 0),
    )
    refuse_overfull(path, run, (names[0], "request_throughput", "the mean end-to-end latency"))
    return replace(run, doubts=rate_doubts(run, ("request_throughput", names[1])))


def _tokens(path: Path, d: dict[str, Any], stated: dict[str, float]) -> tuple[Tokens, Tokens]:
    """Prompts and outputs: listed, or around their mean as SGLang's random data set draws them."""
    pairs = listed(path, d, stated)
    if pairs is not None:
        return pairs
    completed = positive(path, d, "completed")
    ratio = 1.0
    if str(d.get("dataset_name")).startswith("random") and "random_range_ratio" in d:
        ratio = min(number(path, d, "random_range_ratio"), 1.0)

    def of(name: str, field: str) -> Tokens:
        if name in stated:
            return np.asarray([stated[name]]), named(stated, name, field)
        mean = positive(path, d, field) / completed
        spread = uniform(mean, ratio) if ratio < 1 else np.asarray([mean])
        return spread, f"{field} over completed"

    return of("prompt", "total_input_tokens"), of("output", "total_output_tokens")


def _figures(path: Path, d: dict[str, Any]) -> dict[str, float]:
    """Rates and latencies in SI units. Raises SpecError where they contradict the totals."""
    figures = {
        "requests_per_s": positive(path, d, "request_throughput"),
        "output_tokens_per_s": positive(path, d, "output_throughput"),
    }
    if d.get("duration") is not None:
        seconds = positive(path, d, "duration")
        for field, total, name in (
            ("request_throughput", "completed", "requests_per_s"),
            ("output_throughput", "total_output_tokens", "output_tokens_per_s"),
        ):
            follows = positive(path, d, total) / seconds
            agree(path, field, figures[name], f"{total} over duration", follows)
    for theirs, ours in LATENCIES.items():
        for word, statistic in STATISTICS.items():
            key = f"{word}_{theirs}_ms"
            if d.get(key) is not None:
                figures[f"{ours}_{statistic}_seconds"] = number(path, d, key) * 1e-3
    for field, name in (("mean_ttft_ms", "ttft"), ("mean_tpot_ms", "tpot")):
        if not figures.get(f"{name}_mean_seconds"):
            raise SpecError(
                path,
                f"{field} is missing or 0: the run did not stream, or no output had two tokens",
            )
    return figures
