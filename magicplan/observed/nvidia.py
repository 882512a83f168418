"""Result files of NVIDIA's AIPerf and GenAI-Perf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from magicplan.errors import SpecError
from magicplan.fields import Table
from magicplan.observed.lengths import Tokens, lengths_of, spread
from magicplan.observed.run import (
    ObservedRun,
    agree,
    example,
    from_zero,
    loading,
    named,
    positive,
    rate_doubts,
    refuse_overfull,
)

NVIDIA = {
    "time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e",
}  # fmt: skip
"""Our metrics by theirs, whose inter-token latency is one request's mean: our TPOT."""
RATES = {"request_throughput": "requests_per_s", "output_token_throughput": "output_tokens_per_s"}
AIPERF_SCHEMAS = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5")
"""What each added to the one before is listed in AIPerf's docs/reference/json-export-schema.md;
none touches what is read here."""
MODEL_KEYS = ("model", "models", "model_names")
UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}
UNSTEADY = ("fixed_schedule", "user_centric_rate", "request_rate_series", "rate_series")
"""Settings that replay arrivals or turns of users."""
DOUBTED = {
    "concurrency_ramp_duration": "the load rose during the run",
    "concurrency_ramp": "the load rose during the run",
    "request_rate_ramp_duration": "the load rose during the run",
    "rate_ramp": "the load rose during the run",
    "prefill_concurrency": "prompts were held back until others had their first token",
    "request_cancellation_rate": "requests were cancelled on the way",
    "cancellation": "requests were cancelled on the way",
}
SHARING = (
    "num_prefix_prompts", "prefix_prompt", "prefix_prompts", "shared_system_prompt_length",
)  # fmt: skip
"""Settings that make prompts share prefixes, which a cache may find."""


def nvidia(doc: Table, stated: dict[str, float]) -> ObservedRun:
    """AIPerf and GenAI-Perf: a block of statistics and a unit for every metric."""
    version = doc.data.get("schema_version", AIPERF_SCHEMAS[0])
    if version not in AIPERF_SCHEMAS:
        raise SpecError(
            doc.file, f"schema_version is {version!r}, expected one of {', '.join(AIPERF_SCHEMAS)}"
        )
    figures = _figures(doc)
    config = doc.data.get("input_config", {})
    load = _measured_phase(doc.file, config)
    names = ("input_config's concurrency", "input_config's request_rate")
    pace = _anywhere(config, "request_rate") if load is config else load.get("rate")
    concurrency, rate = loading(doc, _anywhere(load, "concurrency"), pace, stated, names)
    if concurrency is None and rate is None:
        raise SpecError(
            doc.file,
            "input_config has neither concurrency nor request_rate: add --stated "
            "concurrency=8 or --stated requests_per_s=2",
        )
    failed = _single(doc, "error_request_count") or 0.0
    done = _single(doc, "request_count")
    backend = _text(config, "backend") if _text(config, "service_kind") == "triton" else ""
    run = ObservedRun(
        path=doc.file,
        tool="AIPerf" if {"aiperf_version", "schema_version"} & set(doc.data) else "GenAI-Perf",
        concurrency=concurrency,
        requests_per_s=rate,
        prompts=stated.get("prompts", None if done is None else done + failed),
        lengths=lengths_of(
            doc.file,
            _of_block(doc, stated, "prompt", "input_sequence_length"),
            _of_block(doc, stated, "output", "output_sequence_length"),
        ),
        figures=figures,
        arrival_cv2=_variation(doc, load),
        prefix_hit_rate=stated.get("prefix_hit_rate", 0.0),
        model=_model_of(config),
        model_field="input_config",
        engine="trtllm" if backend == "tensorrtllm" else backend,
        backend=backend,
        failed=failed,
    )
    refuse_overfull(doc.file, run, (names[0], "request_throughput", "request_latency"))
    doubts = (*rate_doubts(run, ("request_throughput", names[1])), *_doubts(doc, load, run))
    return replace(run, doubts=doubts)


def _figures(doc: Table) -> dict[str, float]:
    """Rates and latencies in SI units. Raises SpecError where rates contradict each other."""
    figures = {}
    for theirs, ours in NVIDIA.items():
        block = doc.data.get(theirs)
        if not isinstance(block, dict):
            continue
        unit = block.get("unit")
        if unit not in tuple(UNITS):
            raise SpecError(
                doc.file, f"{theirs}.unit is {unit!r}, expected one of {', '.join(UNITS)}"
            )
        for word, statistic in (("avg", "mean"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99")):
            if word in block:
                seconds = from_zero(doc.table(theirs), word) * UNITS[unit]
                figures[f"{ours}_{statistic}_seconds"] = seconds
    if not figures.get("ttft_mean_seconds"):
        raise SpecError(doc.file, "time_to_first_token has no avg: the run did not stream")
    for theirs, ours in RATES.items():
        value = _single(doc, theirs)
        if value is not None:
            figures[ours] = _positive(doc, theirs, value)
    _agree(doc, figures)
    return figures


def _agree(doc: Table, figures: dict[str, float]) -> None:
    rate, tokens = figures.get("requests_per_s"), figures.get("output_tokens_per_s")
    count, seconds = _single(doc, "request_count"), _single(doc, "benchmark_duration")
    if rate and count and seconds:
        unit = doc.data["benchmark_duration"].get("unit", "sec")
        of = "request_count over benchmark_duration"
        agree(doc.file, "request_throughput", rate, of, count / seconds / UNITS.get(unit, 1.0))
    block = doc.data.get("output_sequence_length")
    if rate and tokens and isinstance(block, dict) and block.get("avg"):
        follows = rate * positive(doc.table("output_sequence_length"), "avg")
        of = "request_throughput times output_sequence_length"
        agree(doc.file, "output_token_throughput", tokens, of, follows)


def _measured_phase(path: str, config: Any) -> Any:
    """What says how requests were sent: since AIPerf 0.8 one of `phases`, before, anything.

    Raises SpecError for loads that are not steady.
    """
    phases = config.get("phases") if isinstance(config, dict) else None
    if isinstance(phases, dict):
        phases = [{"name": name, **part} for name, part in phases.items() if isinstance(part, dict)]
    load = config
    if isinstance(phases, list) and phases:
        measured = [p for p in phases if isinstance(p, dict) and not _warms_up(p)]
        if len(measured) != 1:
            raise SpecError(
                path,
                f"input_config.phases has {len(measured)} phases that are measured, expected one: "
                "a mean over several loads cannot be compared with one load",
            )
        load = measured[0]
    kind = _text(load, "type") if load is not config else ""
    set_ = next((k for k, v in _walk(load) if k in UNSTEADY and _given(v)), "")
    if set_ or kind in ("fixed_schedule", "user_centric"):
        raise SpecError(
            path,
            f"input_config has {set_ or kind}: no steady load to compare; run with --concurrency "
            "or --request-rate",
        )
    return load


def _warms_up(phase: dict[str, Any]) -> bool:
    return "warmup" in (phase.get("name"), phase.get("kind")) or bool(
        phase.get("exclude_from_results")
    )


def _variation(doc: Table, load: Any) -> float:
    """Squared variation of the gaps between arrivals, which are random where nothing is said."""
    patterns = ("arrival_pattern", "request_rate_mode", "type")
    pattern = next((found for key in patterns if (found := _text(load, key))), "")
    smooth = _anywhere(load, "smoothness")
    smooth = _anywhere(load, "arrival_smoothness") if smooth is None else smooth
    if pattern == "constant":
        return 0.0
    return 1.0 if smooth is None else 1 / _positive(doc, "smoothness of arrivals", smooth)


def _doubts(doc: Table, load: Any, run: ObservedRun) -> Iterator[str]:
    """Settings of the run that no prediction models, a sentence each."""
    if doc.data.get("was_cancelled"):
        yield "the run was cancelled before its end (was_cancelled)"
    given = {key: value for key, value in _walk(load) if _given(value)}
    for key in DOUBTED:
        if key in given:
            yield f"{key} is set: {DOUBTED[key]}, which no prediction here models"
    config = dict(_walk(doc.data.get("input_config")))
    if not run.prefix_hit_rate and any(_given(config.get(key)) for key in SHARING):
        yield (
            "prompts share prefixes that a cache may find: state the share of prompt tokens with "
            "--stated prefix_hit_rate=0.5"
        )


def _positive(doc: Table, name: str, value: Any) -> float:
    """A number above zero that stands elsewhere in the file. Raises SpecError."""
    return positive(replace(doc, data={name: value}), name)


def _given(value: Any) -> bool:
    """Whether a setting is on: tables are where any of their values is."""
    return any(map(_given, value.values())) if isinstance(value, dict) else bool(value)


def _single(doc: Table, field: str) -> float | None:
    """A metric of one value: `avg` of its block, or the plain number; None where left out."""
    block = doc.data.get(field)
    if block is None:
        return None
    if isinstance(block, dict) and "avg" in block:
        return from_zero(doc.table(field), "avg")
    if _is_number(block):
        return from_zero(doc, field)
    raise SpecError(doc.file, f"{field} is {block!r}, expected its number as avg")


def _of_block(doc: Table, stated: dict[str, float], name: str, field: str) -> Tokens:
    if name in stated:
        return np.asarray([stated[name]]), named(stated, name, field)
    block = doc.data.get(field)
    if not isinstance(block, dict):
        raise SpecError(doc.file, f"{field} is missing: add {example(name)}")
    return spread(doc, field)


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


def _walk(part: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested tables, outer ones first: versions place them differently."""
    if isinstance(part, dict):
        yield from part.items()
        part = list(part.values())
    for entry in part if isinstance(part, list) else ():
        yield from _walk(entry)


def _anywhere(config: Any, key: str) -> Any:
    """The first number of that name."""
    return next((v for k, v in _walk(config) if k == key and _is_number(v)), None)


def _text(config: Any, key: str) -> str:
    """The first text of that name, "" where there is none."""
    return next((v for k, v in _walk(config) if k == key and isinstance(v, str)), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
