"""Result files of `vllm bench serve` and of SGLang's `bench_serving`, which grew out of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from magicplan.errors import SpecError
from magicplan.fields import Table
from magicplan.observed.lengths import Tokens, lengths_of, listed, uniform
from magicplan.observed.run import (
    ObservedRun,
    agree,
    from_zero,
    loading,
    named,
    positive,
    rate_doubts,
    refuse_overfull,
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


def vllm_serve(doc: Table, stated: dict[str, float]) -> ObservedRun:
    """`vllm bench serve --save-result`: milliseconds, totals, and lists with --save-detailed."""
    if strategy := doc.get("ramp_up_strategy", str, ""):
        raise SpecError(
            doc.file,
            f"ramp_up_strategy is {strategy}: the load rose all the time, so that no steady state "
            "compares; run at one --request-rate",
        )
    backend = doc.get("backend", str, "") or doc.get("endpoint_type", str, "")
    count, completed = positive(doc, "num_prompts"), positive(doc, "completed")
    if completed > count:
        raise SpecError(doc.file, f"completed is {completed:g}, more than num_prompts, {count:g}")
    run = _served(doc, stated, tool="vllm bench serve", prompts=count)
    return replace(
        run,
        arrival_cv2=_variation(doc),
        engine="" if backend.startswith(PROTOCOLS) else STACKS.get(backend, backend),
        backend=backend,
        failed=max(run.failed, count - completed),
    )


def _variation(doc: Table) -> float:
    """Squared variation of gaps drawn from a gamma distribution whose shape is `burstiness`: 1
    where it is left out, and 0 where it is infinite."""
    if doc.data.get("burstiness") is None:
        return 1.0
    return 0.0 if doc.data["burstiness"] in ("inf", math.inf) else 1 / positive(doc, "burstiness")


def sglang(doc: Table, stated: dict[str, float]) -> ObservedRun:
    """`python -m sglang.bench_serving --output-file`: one JSON a line."""
    backend = doc.get("backend", str, "")
    name = "sglang" if backend.startswith("sglang") else STACKS.get(backend, backend)
    prompts = positive(doc, "completed")
    run = _served(doc, stated, tool="sglang.bench_serving", prompts=prompts)
    return replace(run, engine=name, backend=backend, doubts=(*run.doubts, *_shared(doc, run)))


def _shared(doc: Table, run: ObservedRun) -> Iterator[str]:
    dataset = doc.get("dataset_name", str, "")
    if ("prefix" in dataset or dataset.startswith("gsp")) and not run.prefix_hit_rate:
        yield (
            f"dataset_name is {dataset}, whose prompts share prefixes that a cache may find: state "
            "the share of prompt tokens with --stated prefix_hit_rate=0.5"
        )


def _served(doc: Table, stated: dict[str, float], *, tool: str, prompts: float) -> ObservedRun:
    names = ("max_concurrency", "request_rate")
    concurrency, rate = loading(doc, doc.data.get(names[0]), doc.data.get(names[1]), stated, names)
    prompts = stated.get("prompts", prompts)
    if concurrency is None and rate is None:
        concurrency = prompts  # everything was sent at once
    accepted = next((key for key in ACCEPTED if doc.data.get(key)), "")
    errors = doc.data.get("errors")
    run = ObservedRun(
        path=doc.file,
        tool=tool,
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=prompts,
        lengths=lengths_of(doc.file, *_tokens(doc, stated)),
        figures=_figures(doc),
        prefix_hit_rate=stated.get("prefix_hit_rate", 0.0),
        tokens_per_round=positive(doc, accepted) if accepted else None,
        round_field=accepted,
        model=doc.get("model_id", str, ""),
        model_field="model_id",
        failed=from_zero(doc, "failed")
        if doc.data.get("failed") is not None
        else float(sum(map(bool, errors)) if isinstance(errors, list) else 0),
    )
    refuse_overfull(doc.file, run, (names[0], "request_throughput", "the mean end-to-end latency"))
    return replace(run, doubts=rate_doubts(run, ("request_throughput", names[1])))


def _tokens(doc: Table, stated: dict[str, float]) -> tuple[Tokens, Tokens]:
    """Prompts and outputs: listed, or around their mean as SGLang's random data set draws them."""
    pairs = listed(doc, stated)
    if pairs is not None:
        return pairs
    completed = positive(doc, "completed")
    ratio = 1.0
    if str(doc.data.get("dataset_name")).startswith("random") and "random_range_ratio" in doc.data:
        ratio = min(from_zero(doc, "random_range_ratio"), 1.0)

    def of(name: str, field: str) -> Tokens:
        if name in stated:
            return np.asarray([stated[name]]), named(stated, name, field)
        mean = positive(doc, field) / completed
        spread = uniform(mean, ratio) if ratio < 1 else np.asarray([mean])
        return spread, f"{field} over completed"

    return of("prompt", "total_input_tokens"), of("output", "total_output_tokens")


def _figures(doc: Table) -> dict[str, float]:
    """Rates and latencies in SI units. Raises SpecError where they contradict the totals."""
    figures = {
        "requests_per_s": positive(doc, "request_throughput"),
        "output_tokens_per_s": positive(doc, "output_throughput"),
    }
    if doc.data.get("duration") is not None:
        seconds = positive(doc, "duration")
        for field, total, name in (
            ("request_throughput", "completed", "requests_per_s"),
            ("output_throughput", "total_output_tokens", "output_tokens_per_s"),
        ):
            follows = positive(doc, total) / seconds
            agree(doc.file, field, figures[name], f"{total} over duration", follows)
    for theirs, ours in LATENCIES.items():
        for word, statistic in STATISTICS.items():
            key = f"{word}_{theirs}_ms"
            if doc.data.get(key) is not None:
                figures[f"{ours}_{statistic}_seconds"] = from_zero(doc, key) * 1e-3
    for field, name in (("mean_ttft_ms", "ttft"), ("mean_tpot_ms", "tpot")):
        if not figures.get(f"{name}_mean_seconds"):
            raise SpecError(
                doc.file,
                f"{field} is missing or 0: the run did not stream, or no output had two tokens",
            )
    return figures
