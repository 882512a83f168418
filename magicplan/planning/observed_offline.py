"""Result files of vLLM's benchmarks without a server: latency and throughput of its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.planning.observed_fields import (
    ObservedRun,
    agree,
    checked,
    named,
    needed,
    positive,
)
from magicplan.planning.observed_lengths import lengths_of


def vllm_latency(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench latency --output-json`: seconds of whole batches, nothing about their size."""
    batch = needed(path, d, stated, "concurrency", "batch_size")
    prompt = needed(path, d, stated, "prompt", "input_len")
    output = needed(path, d, stated, "output", "output_len")
    seconds = positive(path, d, "avg_latency")
    each = d["latencies"]
    if not isinstance(each, list):
        raise SpecError(path, "latencies is no list")
    if each:
        mean = np.mean([checked(path, f"latencies[{i}]", x) for i, x in enumerate(each)])
        agree(path, "avg_latency", seconds, "latencies", float(mean))
    return ObservedRun(
        path=str(path),
        tool="vllm bench latency",
        concurrency=batch,
        requests_per_s=None,
        prompts=batch,
        lengths=lengths_of(
            path,
            (np.asarray([prompt]), named(stated, "prompt", "input_len")),
            (np.asarray([output]), named(stated, "output", "output_len")),
        ),
        figures={
            "e2e_mean_seconds": seconds,
            "requests_per_s": batch / seconds,
            "output_tokens_per_s": batch * output / seconds,
        },
        engine="vllm",
    )


def vllm_throughput(path: Path, d: dict[str, Any], stated: dict[str, float]) -> ObservedRun:
    """`vllm bench throughput --output-json`: everything at once, and how long it took."""
    count, tokens = positive(path, d, "num_requests"), positive(path, d, "total_num_tokens")
    output = needed(path, d, stated, "output", "output_len")
    prompt = stated.get("prompt", tokens / count - output)
    if prompt < 1:
        raise SpecError(
            path, f"total_num_tokens leaves no prompts beside outputs of {output:g} tokens"
        )
    rate, seconds = positive(path, d, "requests_per_second"), positive(path, d, "elapsed_time")
    agree(path, "requests_per_second", rate, "num_requests over elapsed_time", count / seconds)
    if "prompt" in stated:
        agree(
            path, "--stated prompt and output", prompt + output,
            "total_num_tokens over num_requests", tokens / count,
        )  # fmt: skip
    return ObservedRun(
        path=str(path),
        tool="vllm bench throughput",
        concurrency=stated.get("concurrency", count),
        requests_per_s=None,
        prompts=count,
        lengths=lengths_of(
            path,
            (np.asarray([prompt]), named(stated, "prompt", "total_num_tokens")),
            (np.asarray([output]), named(stated, "output", "output_len")),
        ),
        figures={"requests_per_s": rate, "output_tokens_per_s": rate * output},
        prefix_hit_rate=stated.get("prefix_hit_rate", 0.0),
        engine="vllm",
    )
