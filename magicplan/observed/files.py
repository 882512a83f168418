"""Result files of load generators: vLLM bench, SGLang bench_serving, NVIDIA AIPerf and GenAI-Perf.

Each becomes the same facts in SI units: how the server was loaded, and what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.fields import Table, parse_json, read_text
from magicplan.observed.lengths import lengths_of
from magicplan.observed.nvidia import nvidia
from magicplan.observed.run import STATABLE, ObservedRun, agree, named, needed, numbers, positive
from magicplan.observed.vllm_sglang import sglang, vllm_serve


def vllm_latency(doc: Table, stated: dict[str, float]) -> ObservedRun:
    """`vllm bench latency --output-json`: seconds of whole batches, nothing about their size."""
    batch = needed(doc, stated, "concurrency", "batch_size")
    prompt = needed(doc, stated, "prompt", "input_len")
    output = needed(doc, stated, "output", "output_len")
    seconds = positive(doc, "avg_latency")
    if each := numbers(doc, "latencies"):
        agree(doc.file, "avg_latency", seconds, "latencies", float(np.mean(each)))
    return ObservedRun(
        path=doc.file,
        tool="vllm bench latency",
        concurrency=batch,
        requests_per_s=None,
        prompts=batch,
        lengths=lengths_of(
            doc.file,
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


def vllm_throughput(doc: Table, stated: dict[str, float]) -> ObservedRun:
    """`vllm bench throughput --output-json`: everything at once, and how long it took."""
    count, tokens = positive(doc, "num_requests"), positive(doc, "total_num_tokens")
    output = needed(doc, stated, "output", "output_len")
    prompt = stated.get("prompt", tokens / count - output)
    if prompt < 1:
        raise SpecError(
            doc.file, f"total_num_tokens leaves no prompts beside outputs of {output:g} tokens"
        )
    rate, seconds = positive(doc, "requests_per_second"), positive(doc, "elapsed_time")
    agree(doc.file, "requests_per_second", rate, "num_requests over elapsed_time", count / seconds)
    if "prompt" in stated:
        agree(
            doc.file, "--stated prompt and output", prompt + output,
            "total_num_tokens over num_requests", tokens / count,
        )  # fmt: skip
    return ObservedRun(
        path=doc.file,
        tool="vllm bench throughput",
        concurrency=stated.get("concurrency", count),
        requests_per_s=None,
        prompts=count,
        lengths=lengths_of(
            doc.file,
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
            return read(Table(data=document, file=str(path)), known)
    holds = f"has fields {', '.join(sorted(document)[:8])}" if document else "holds no fields"
    raise SpecError(
        path,
        f"{holds}: no result of vllm bench serve, latency or throughput, of sglang.bench_serving, "
        "of AIPerf or of GenAI-Perf",
    )


def _stated(path: Path, stated: Mapping[str, float]) -> dict[str, float]:
    if unknown := sorted(set(stated) - set(STATABLE)):
        raise SpecError(path, f"{', '.join(unknown)} cannot be stated; {', '.join(STATABLE)} can")
    told = Table(data={f"--stated {k}": v for k, v in stated.items()}, file=str(path))
    known = {name: positive(told, f"--stated {name}") for name in stated}
    if known.get("prefix_hit_rate", 0.0) > 1:
        raise SpecError(path, "--stated prefix_hit_rate is a share of prompt tokens, at most 1")
    return known


def _load(path: Path) -> dict[str, Any]:
    """One JSON object, or the last line of a file with one a line (SGLang appends)."""
    text = read_text(path)
    try:
        document = parse_json(text, path)
    except SpecError:
        lines = [line for line in text.splitlines() if line.strip()]
        document = parse_json(lines[-1], f"{path}, line {len(lines)}") if lines else None
    if not isinstance(document, dict):
        raise SpecError(path, "holds no JSON object: expected one result, or one a line")
    return document


Reader = Callable[[Table, dict[str, float]], ObservedRun]


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
