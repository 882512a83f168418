"""Published measurements, from rows of CSV files to questions that `predict` can answer.

Four layouts are known by their columns: plain decoding, speculation, MagicDec and TriForce
(rounds with their parts), and serving runs. A row that states too little, or repeats another, and
every row of another layout is skipped, with why.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magicplan import hardware_specs, model_specs
from magicplan.errors import SpecError, UsageError
from magicplan.replay.launch_lines import launched
from magicplan.roofline.acceptance import alpha_from_tokens_per_round

Row = dict[str, str]
ENGINES = (("vllm", "vllm"), ("sglang", "sglang"), ("tensorrt-llm", "trtllm"), ("trtllm", "trtllm"))
OTHER_ENGINE = "vllm"
"""Engines without a calibration of their own are predicted by its kernels, without its host."""
WEIGHTS = {
    "bf16": "bf16", "fp16": "bf16", "f16": "bf16", "half": "bf16", "fp8": "fp8", "nvfp4": "fp4",
    "fp4": "fp4", "mxfp4": "fp4", "int4-g32": "int4", "int4": "int4", "w4a16": "int4",
    "awq": "int4", "gptq": "int4",
    "not": "bf16", "": "bf16", "checkpoint": "bf16",
}  # fmt: skip
NODE_GPUS = 8
"""GPUs of one server of the published runs."""
STEP_METRICS = ("decode throughput", "per-user throughput", "output throughput")
TIME_METRICS = ("tpot", "itl")
METHODS = {
    r"eagle-3|eagle3|eagle.*reduced vocab": "eagle3", "eagle": "eagle", "mtp": "mtp",
    "n-?gram": "ngram",
}  # fmt: skip
"""How a published method begins, and the draft that it is. EAGLE's head knows the whole vocabulary,
unless its source says that it was reduced, as EAGLE-3's is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRun:
    """A load test of one server: what was sent, and what its load generator reported."""

    prompt_tokens: float
    output_tokens: float
    concurrency: float
    """Requests kept in flight."""
    measured: dict[str, float]
    """Means by kind: `tpot`, `ttft` and `itl` in seconds, `rate` in requests a second."""
    requests: float | None = None
    """All of them, where a row says so."""
    batched_tokens: float | None = None
    max_sequences: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published row as a question, and what was measured."""

    id: str
    source: str
    engine: str
    grade: str
    ask: dict[str, Any]
    """Keyword arguments of `predict`."""
    step_seconds: float | None = None
    speedup: float | None = None
    draft_seconds: float | None = None
    """Measured seconds of one draft step, where a row states a round's parts; else None."""
    verify_seconds: float | None = None
    prompt_tokens: float = 0.0
    """Length of the prompts that neighbours in the batch prefill meanwhile; 0 where none do."""
    prefill_tokens: float = 0.0
    """Prompt tokens prefilled in the time of one decode step, by neighbours in the batch."""
    sweep: tuple[str, ...] = ()
    """Rows of one sweep differ only in draft length."""
    dense: bool = True
    version: str = ""
    """The engine's version, where a row states it apart from the engine's name."""
    run: ServedRun | None = None
    """A load test, whose `step_seconds` is its time per token, prompts of neighbours included."""

    @property
    def served(self) -> bool:
        """Whether the engine schedules requests between steps; gpt-fast and llama.cpp loop."""
        return self.engine == "MagicDec" or engine_stack(self.engine) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A row that cannot be predicted, and why."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Unusable(Exception):
    reason: str


@dataclass(slots=True)
class Published:
    """What a set of files holds."""

    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def read(paths: list[Path]) -> Published:
    """Every row of the files. Raises SpecError for a file that is no CSV."""
    found = Published()
    seen: set[tuple[str, str]] = set()
    for path in paths:
        rows = list(_rows(path))
        if not rows:
            found.skipped.append(Skipped(id=path.name, source=path.stem, reason="holds no row"))
        for number, row in enumerate(rows, start=1):
            name, source = row.get("id") or f"row {number}", _source(path, row)
            # without an id, only the same file repeats itself
            key = (path.name if row.get("id") else str(path.resolve()), name)
            try:
                if key in seen:
                    raise _Unusable(f"a row of {path.name} has the same id and counts already")
                seen.add(key)
                found.cases.append(_layout(path, row)(name, source, row))
            except _Unusable as problem:
                found.skipped.append(Skipped(id=name, source=source, reason=problem.reason))
            except KeyError as missing:
                if missing.args[0] in row:
                    raise
                reason = f"{path.name} has no column {missing.args[0]}"
                found.skipped.append(Skipped(id=name, source=source, reason=reason))
            except UsageError as problem:
                found.skipped.append(Skipped(id=name, source=source, reason=str(problem)))
    return found


def _rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {k: (v or "").strip() for k, v in row.items() if k is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise SpecError(path, f"cannot be read as CSV ({problem})") from None


def _layout(path: Path, row: Row) -> Any:
    for needed, layout in (
        ({"tpot_ms", "system", "model_path", "batch_size"}, _serving),
        ({"command", "requests", "tpot_mean_ms", "prompt_tokens"}, _bench),
        ({"t_target_ms", "omega", "gamma", "prefix_len", "draft_type"}, _round),
        ({"baseline_value", "spec_value", "accept_len", "method"}, _speculation),
        ({"metric", "value", "unit", "batch_or_concurrency"}, _plain),
    ):
        if needed <= set(row):
            return layout
    raise _Unusable(
        f"{path.name} has none of the known layouts (plain decoding: metric, value, unit, "
        "batch_or_concurrency; speculation: baseline_value, spec_value, accept_len, method; "
        "rounds: t_target_ms, omega, gamma, prefix_len, draft_type; serving: tpot_ms, system, "
        "model_path, batch_size; load tests: command, requests, tpot_mean_ms, prompt_tokens)"
    )


def _source(path: Path, row: Row) -> str:
    if "backend" in row:
        return f"{path.stem}: {row['backend']}"
    text = row.get("source", "")
    return f"{path.stem}: {text[:40]}" if text else path.stem


def _plain(name: str, source: str, row: Row) -> Case:
    metric, unit = row["metric"].lower(), row["unit"]
    batch = _whole(row["batch_or_concurrency"], "batch")
    ctx = _tokens(row["input_len"], default=128) + _tokens(row["output_len"], default=0) / 2
    value = _number(row["value"], "value")
    fitted = any(word in metric for word in ("slope", "intercept", "fixed", "overhead", "per "))
    if fitted and "per-user" not in metric:
        raise _Unusable(f"{metric} is no step of a whole deployment")
    if metric == "batch latency":
        seconds = value / max(_tokens(row["output_len"], default=0), 1)
    elif unit == "tok/s" and metric.startswith(STEP_METRICS):
        seconds = (1 if metric.startswith("per-user") else batch) / value
    elif unit == "ms" and any(word in metric for word in TIME_METRICS):
        seconds = value / 1e3
    else:
        raise _Unusable(f"no decode step can be read off {row['metric']} in {unit}")
    return Case(
        id=name, source=source, engine=row["engine_version"] or "?", grade=row.get("grade", ""),
        ask=_ask(row, row["model"], batch, ctx), step_seconds=seconds, dense=_dense(row["model"]),
    )  # fmt: skip


def _speculation(name: str, source: str, row: Row) -> Case:
    batch = _whole(row["batch_or_concurrency"], "batch")
    gamma = re.search(r"chain (?:k=)?(\d+)", row["gamma_tree"].lower())
    if gamma is None:
        raise _Unusable(f"draft {row['gamma_tree'] or 'length not stated'} is not a chain")
    method = row["method"].lower()
    draft = next((d for start, d in METHODS.items() if re.match(start, method)), None)
    if draft is None:
        raise _Unusable(f"draft method {row['method']} is not modelled")
    length = int(gamma[1])
    ctx = _tokens(row["input_len"], default=512) + _tokens(row["output_len"], default=512) / 2
    ask = _ask(row, row["model"], batch, ctx) | {
        "draft": draft, "gamma": length, "max_gamma": length,
        "acceptance": _acceptance(length, _number(row["accept_len"], "accept length")),
    }  # fmt: skip
    per_sequence = row["metric"].upper().startswith("TPOT")
    return Case(
        id=name, source=source, engine=row["engine_version"] or "?", grade=row.get("grade", ""),
        ask=ask, dense=_dense(row["model"]), speedup=_number(row["speedup"], "speedup"),
        step_seconds=_number(row["baseline_value"], "baseline") / 1e3 if per_sequence else None,
        sweep=(row["source"], row["gpu"], row["model"], row["method"], row["dataset"], str(batch),
               row["draft"]),
    )  # fmt: skip


def _round(name: str, source: str, row: Row) -> Case:
    if row.get("kind", "measured") != "measured":
        raise _Unusable(f"the row is {row['kind']}, not measured")
    if row["draft_type"] not in ("self", "standalone"):
        raise _Unusable(
            f"draft type {row['draft_type'] or 'not stated'} is not modelled as a chain"
        )
    batch, gamma = _whole(row["batch"], "batch"), _whole(row["gamma"], "gamma")
    tokens = row["omega"] or ""
    if not tokens and not row["alpha"]:
        raise _Unusable("neither accept length nor acceptance rate is stated")
    if tokens:
        acceptance = _acceptance(gamma, _number(tokens, "accept length omega"))
    else:
        acceptance = f"{_number(row['alpha'], 'acceptance rate alpha'):.6f}"
    budget = _whole(row["kv_budget"], "budget") if row["kv_budget"] else 2049
    self_draft = row["draft_type"] == "self"
    draft = "self" if self_draft else _model(row["draft"])
    view = "snapkv" if "snap" in row["kv_method"].lower() else "streaming"
    full = row["kv_method"].lower() in ("full", "none", "")
    dense = row | {"engine_version": "magicdec", "parallelism": f"TP{row['tp'] or row['n_gpu']}"}
    ask = _ask(dense, row["target"], batch, _length(row["prefix_len"], "prefix_len")) | {
        "draft": draft, "gamma": gamma, "max_gamma": gamma, "acceptance": acceptance,
        "draft_kv": None if full and not self_draft else f"{view}:{budget}",
    }  # fmt: skip
    return Case(
        id=name, source=source, engine="MagicDec", grade="A", ask=ask,
        step_seconds=_milliseconds(row, "t_target_ms"),
        speedup=_number(row["speedup"], "speedup") if row["speedup"] else None,
        draft_seconds=_milliseconds(row, "t_draft_total_ms", gamma),
        verify_seconds=_milliseconds(row, "t_verify_ms"),
        sweep=tuple(row[k] for k in ("source", "gpu", "n_gpu", "target", "draft", "kv_method",
                                     "kv_budget", "dataset", "batch", "prefix_len")),
    )  # fmt: skip


def _milliseconds(row: Row, column: str, steps: int = 1) -> float | None:
    return _number(row[column], column) / steps / 1e3 if row.get(column) else None


def _serving(name: str, source: str, row: Row) -> Case:
    out = _length(row["output_tokens"], "output_tokens")
    waited = _number(row["ttft_ms"], "ttft_ms") if row.get("ttft_ms") else 0.0
    if waited > out * _number(row["tpot_ms"], "tpot"):
        raise _Unusable("requests waited longer than they ran: fewer ran than the row states")
    prompt = _length(row["input_tokens"], "input_tokens")
    tp, dp, ep = _serving_layout(row)
    batch = _whole(row["batch_size"], "batch") * dp
    if row.get("concurrency"):  # no more sequences run than clients ask
        batch = min(batch, _whole(row["concurrency"], "concurrency"))
    pp = _whole(row["pp_size"] or "1", "pp")
    merged = row | {
        "gpu": row["system"], "engine_version": row["backend"], "parallelism": f"TP{tp}",
        "weight_dtype": row["precision"], "kv_dtype": _serving_kv(row),
    }  # fmt: skip
    ask = _ask(merged, row["model_path"], batch, prompt + out / 2) | {
        "ep": ep, "attention_dp": dp, "pp": pp, "gpus": tp * dp * pp,
    }  # fmt: skip
    return Case(
        id=name, source=source, engine=row["backend"], grade="B", ask=ask,
        step_seconds=_number(row["tpot_ms"], "tpot") / 1e3, prompt_tokens=prompt,
        prefill_tokens=batch * prompt / max(out, 1), dense=_dense(row["model_path"]),
        version=row.get("backend_version", ""),
        run=ServedRun(
            prompt_tokens=prompt, output_tokens=out, concurrency=batch,
            measured=_means(row, {"tpot": ("tpot_ms", 1e-3), "ttft": ("ttft_ms", 1e-3)}),
        ),
    )  # fmt: skip


BENCH = {
    "tpot": ("tpot_mean_ms", 1e-3), "ttft": ("ttft_mean_ms", 1e-3),
    "itl": ("itl_mean_ms", 1e-3), "rate": ("request_per_s", 1.0),
}  # fmt: skip
"""Columns of a load generator's output, and what one of their units is in seconds or 1/s."""


def _means(row: Row, columns: dict[str, tuple[str, float]]) -> dict[str, float]:
    return {
        kind: _number(row[column], column) * unit
        for kind, (column, unit) in columns.items()
        if row.get(column)
    }


def _bench(name: str, source: str, row: Row) -> Case:
    """A whole output of a load generator that sent all requests at once to one server."""
    stack = engine_stack(row["engine"])
    if stack is None:
        raise _Unusable(f"engine {row['engine']!r} is none of {', '.join(dict(ENGINES))}")
    gpu = _gpu(row["gpu"])
    server = launched(row["command"], stack, hardware_specs.load(gpu))
    if server.replicas > 1:
        raise _Unusable(f"{server.replicas} replicas behind one port are not modelled")
    stated = server.quantisation or "checkpoint"
    model = server.model or row["model"]
    if stated == "checkpoint" and "gpt-oss" in model.lower():
        stated = "mxfp4"
    prompt = _length(row["prompt_tokens"], "prompt_tokens")
    out, requests = _length(row["output_tokens"], "output_tokens"), _whole(row["requests"], "n")
    merged = row | {
        "engine_version": row["engine"], "parallelism": f"TP{server.tp}", "weight_dtype": stated,
        "kv_dtype": server.kv,
    }  # fmt: skip
    ask = _ask(merged, model, requests, prompt + out / 2) | {
        "ep": server.ep, "pp": server.pp, "attention_dp": server.attention_dp,
        "gpus": server.tp * server.pp * server.attention_dp,
    }  # fmt: skip
    return Case(
        id=name, source=source, engine=row["engine"], grade="B", ask=ask, dense=_dense(model),
        version=row.get("engine_version", ""),
        run=ServedRun(
            prompt_tokens=prompt, output_tokens=out, concurrency=requests, requests=requests,
            measured=_means(row, BENCH), batched_tokens=server.batched_tokens,
            max_sequences=server.max_sequences,
        ),
    )  # fmt: skip


def _serving_layout(row: Row) -> tuple[int, int, int]:
    """Degrees of tensor, attention-data and expert parallelism of one replica.

    Where experts are spread over the GPUs of one node, some rows list the product of both degrees
    as the first: 37 runs stand twice in the collection, as TP4 EP4 and as TP16 EP4 for example.
    """
    tp, dp = _whole(row["tp_size"], "tp"), _whole(row["attention_dp_size"] or "1", "dp")
    ep = _whole(row["moe_ep_size"] or "1", "ep")
    if ep > 1 and tp * dp > NODE_GPUS:
        tp, dp = (tp // ep, dp) if tp % ep == 0 else (tp, max(dp // ep, 1))
    return tp, dp, ep


def _serving_kv(row: Row) -> str:
    """The cache's format, which the rows do not state: TensorRT-LLM takes it from a quantised
    checkpoint, and the collection's vLLM runs on Blackwell ask for it."""
    quantised = row["precision"].lower() in ("fp8", "fp4", "nvfp4")
    blackwell = row["system"].startswith(("b2", "b3", "gb2", "gb3"))
    follows = row["backend"] == "trtllm" or (row["backend"] == "vllm" and blackwell)
    return "fp8" if quantised and follows else ""


def _ask(row: Row, model: str, batch: int, ctx: float) -> dict[str, Any]:
    engine = row["engine_version"].lower()
    stack = engine_stack(engine) or OTHER_ENGINE
    gpu = _gpu(row["gpu"])
    return _degrees(row) | {
        "gpu": gpu, "model": _model(model), "batch": batch, "ctx": max(1, round(ctx)),
        "dtype": _runs_as(_format(row.get("weight_dtype", ""), model), gpu),
        "kv_dtype": _kv(row.get("kv_dtype", "")),
        "stack": "magicdec" if engine == "magicdec" else stack, "draft": "none",
        "memory_fraction": 1.0,
    }  # fmt: skip


def engine_stack(engine: str) -> str | None:
    """The serving stack that an engine's published name means, if it is one."""
    return next((s for key, s in ENGINES if engine.lower().startswith(key)), None)


def _format(text: str, model: str) -> str | None:
    """A format of `predict`; a checkpoint's default is 16 bits unless its name says otherwise."""
    if text.lower().startswith("checkpoint") and "gpt-oss" in model.lower():
        raise _Unusable(f"{model} ships in a mixed 4-bit format that is not modelled")
    named = next((f for f in ("nvfp4", "fp8", "awq", "gptq") if f in model.lower()), "")
    text = named if text.lower().startswith(("checkpoint", "not stated")) and named else text
    word = re.split(r"[\s(]", text.lower())[0]
    if word not in WEIGHTS:
        raise _Unusable(f"weight format {text!r} is not modelled")
    return None if WEIGHTS[word] == "bf16" else WEIGHTS[word]


def _runs_as(dtype: str | None, gpu: str) -> str | None:
    """4-bit floats on a part that does not multiply them are 4-bit weights alone (Marlin)."""
    multiplied = hardware_specs.load(gpu).dense_flops_per_s
    return "int4" if dtype == "fp4" and "fp4" not in multiplied else dtype


def _degrees(row: Row) -> dict[str, int]:
    """Degrees of one replica as `predict` takes them, from "TP8", "TP8 + EP" or "TP8 + attention
    DP"; from "1 GPU for 8B" beside a model of that size. TensorRT-LLM's attention DP runs on the
    GPUs that its TP counts."""
    text = row.get("parallelism", "")
    stated = re.fullmatch(r"TP(\d+)(?:\.0)?((?: \+ (?:EP|attention DP))*)", text)
    if stated:
        gpus = int(stated[1])
        found = {"tp": gpus, "gpus": gpus}
        if "EP" in stated[2]:
            found["ep"] = gpus
        return found | ({"tp": 1, "attention_dp": gpus} if "attention DP" in stated[2] else {})
    one = re.search(r"\(1 GPU for (\d+)B", text)
    size = re.search(r"(\d+(?:\.\d+)?)B\b", row.get("model", ""), re.IGNORECASE)
    if one and size and float(size[1]) <= float(one[1]):
        return {"tp": 1, "gpus": 1}
    if not text and row.get("n_gpu", "") in ("", "1", "1.0"):
        return {"tp": 1, "gpus": 1}
    raise _Unusable(f"parallelism {text!r} does not say on how many GPUs a replica runs")


def _kv(text: str) -> str | None:
    """The cache's format: None where nothing or 16 bits are stated. Of two the first, as the row
    leaves it open."""
    word = re.split(r" or | \(", text.lower())[0]
    if word in ("", "not stated", "bf16", "fp16", "f16", "auto"):
        return None
    if word == "fp8" and "skip" not in text.lower():
        return "fp8"
    raise _Unusable(f"KV cache {text!r} is not modelled")


def _gpu(text: str) -> str:
    if not re.sub(r"\(.*?\)", "", text).strip():
        raise _Unusable("no GPU is stated")
    try:
        return hardware_specs.load(text).name
    except UsageError:
        raise _Unusable(f"GPU {text!r} has no datasheet here") from None


def _model(text: str) -> str:
    plain = re.sub(r"\(.*?\)", "", text).strip().lower().split("/")[-1]
    plain = re.sub(r"-(?:2507|awq|gptq)(?=-|$)", "", plain)
    for suffix in ("", "-instruct", "-fp8", "-instruct-fp8", "-nvfp4", "-hf"):
        name = plain.removesuffix(suffix) if suffix else plain
        try:
            return model_specs.load(name).name
        except UsageError:
            continue
    raise _Unusable(f"model {text!r} has no preset")


def _dense(text: str) -> bool:
    return model_specs.load(_model(text)).experts is None


def _acceptance(gamma: int, tokens: float) -> str:
    """The i.i.d. rate that emits that many tokens a round; nothing else is stated of a row."""
    if not 1 <= tokens <= gamma + 1:
        raise _Unusable(f"accept length {tokens:g} is not between 1 and gamma + 1 = {gamma + 1}")
    return f"{float(alpha_from_tokens_per_round(np.asarray(gamma), np.asarray(tokens))):.6f}"


def _number(text: str, what: str) -> float:
    if not text:
        raise _Unusable(f"{what} is not stated")
    try:
        value = float(text.lstrip("~"))
    except ValueError:
        raise _Unusable(f"{what} {text!r} is not a number") from None
    if not 0 < value < 1e12:
        raise _Unusable(f"{what} {text!r} is not a positive number")
    return value


def _whole(text: str, what: str) -> int:
    value = _number(text, what)
    if value != int(value):
        raise _Unusable(f"{what} {text!r} is not a whole number")
    return int(value)


def _tokens(text: str, default: float) -> float:
    """A length: "8192", "~200", "64K", "~20000 (+-15%)", "<=2048 (EOS)"; the default where a row
    states none, or names a data set instead."""
    found = re.fullmatch(r"[~<=]*(\d+(?:\.\d+)?)(k?)(?: \(.*\))?", text.lower())
    if found:
        return float(found[1]) * (1024 if found[2] else 1)
    if re.search(r"\d", text):
        raise _Unusable(f"length {text!r} is not a number of tokens")
    return default


def _length(text: str, what: str) -> float:
    """A length in tokens that a row must state as a number. Raises `_Unusable` if it does not."""
    value = _tokens(text, default=0)
    return value or _number(text, what)
