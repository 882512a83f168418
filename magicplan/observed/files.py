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
from magicplan.observed.lengths import lengths_of
from magicplan.observed.nvidia import nvidia
from magicplan.observed.run import STATABLE, ObservedRun, agree, checked, named, needed, positive
from magicplan.observed.vllm_sglang import sglang, vllm_serve


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


def read_observed(path: Path, stated: Mapping[str, float] | None = None) -> ObservedRun:
    """Recognise the tool by its fields. `stated` adds what a file leaves out (`STATABLE`).

    Raises SpecError naming the file and the field: another tool, another version, bad numbers,
    fields that contradict each other.
    """
    document = _load(path)
    known = _stated(path, stated or {})
    for mark, read, takes in READERS:
        if mark <= set(document):
            if useless := sorted(set(known) - set(takes)):
                raise SpecError(
                    path, f"--stated {', '.join(useless)} says nothing of such a run; it takes "
                    f"{', '.join(takes)}"
                )  # fmt: skip
            return read(path, document, known)
    holds = f"has fields {', '.join(sorted(document)[:8])}" if document else "holds no fields"
    raise SpecError(
        path,
        f"{holds}: no result of vllm bench serve, latency or throughput, of sglang.bench_serving, "
        "of AIPerf or of GenAI-Perf",
    )


def _stated(path: Path, stated: Mapping[str, float]) -> dict[str, float]:
    if unknown := sorted(set(stated) - set(STATABLE)):
        raise SpecError(path, f"{', '.join(unknown)} cannot be stated; {', '.join(STATABLE)} can")
    known = {name: checked(path, f"--stated {name}", value) for name, value in stated.items()}
    if known.get("prefix_hit_rate", 0.0) > 1:
        raise SpecError(path, "--stated prefix_hit_rate is a share of prompt tokens, at most 1")
    return known


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


Reader = Callable[[Path, dict[str, Any], dict[str, float]], ObservedRun]


READERS: tuple[tuple[frozenset[str], Reader, tuple[str, ...]], ...] = (
    (frozenset({"num_prompts", "mean_ttft_ms", "completed"}), vllm_serve, STATABLE),
    (frozenset({"mean_ttft_ms", "completed", "duration"}), sglang, STATABLE),
    (frozenset({"avg_latency", "latencies"}), vllm_latency, ("concurrency", "prompt", "output")),
    (
        frozenset({"elapsed_time", "num_requests", "requests_per_second"}),
        vllm_throughput,
        ("concurrency", "prompt", "output", "prefix_hit_rate"),
    ),
    (frozenset({"time_to_first_token", "request_throughput"}), nvidia, STATABLE),
)
"""Fields that tell a tool, most telling first, its reader, and what may be stated beside it."""
