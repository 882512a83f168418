"""Commands that start a plan's servers. An engine's own option names stand in one place each."""

from __future__ import annotations

import shlex
from dataclasses import replace

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import Candidate, Launch
from magicplan.planning.prediction import Prediction
from magicplan.planning.settings import Planned, Settings, model_id, settings
from magicplan.planning.tree_settings import planned_tree
from magicplan.roofline.tree import Tree


def launch_commands(
    ask: PlanRequest,
    best: Candidate,
    ctx_tokens: int,
    grid: Prediction | None,
    planned: Planned | None,
) -> tuple[Launch, ...]:
    """One command for each engine and role. `ctx_tokens` is the longest request; `grid` carries
    the speculation settings, `planned` what they have to leave as it is."""
    roles = ("serve",) if best.layout == "mixed" else ("prefill", "decode")
    found = []
    for engine, write in (("vllm", _vllm), ("sglang", _sglang)):
        asked = ask.stack if ask.stack.partition("@")[0] == engine else engine
        drafted = _speculation(asked, best, grid, planned)
        for role in roles:
            words, more = write(ask, best, ctx_tokens, role)
            spoken = drafted.text if role != "prefill" else ""
            command = " \\\n  ".join([shlex.join(words[:3]), *_pairs(words[3:])])
            if spoken:
                command += " \\\n  " + spoken
            found.append(
                Launch(
                    engine=engine, role=role, command=command,
                    notes=(
                        *_replica_notes(best, role), *_length_notes(ask, ctx_tokens), *more,
                        *drafted.notes,
                    ),
                    file_name=drafted.file_name if spoken else "",
                    file_text=drafted.file_text if spoken else "",
                )
            )  # fmt: skip
    return tuple(found)


def _pairs(words: list[str]) -> list[str]:
    """An option and its value on one line."""
    lines: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append([word])
        else:
            lines[-1].append(word)
    return [shlex.join(line) for line in lines]


def _replica_notes(best: Candidate, role: str) -> tuple[str, ...]:
    count = best.prefill_replicas if role == "prefill" else best.replicas
    if count == 1:
        return ()
    return (f"start {count} of these behind a load balancer that sends a session to one of them",)


def _length_notes(ask: PlanRequest, ctx_tokens: int) -> tuple[str, ...]:
    most = model_specs.load(ask.model).max_ctx_tokens
    if ctx_tokens <= most:
        return ()
    return (f"{ctx_tokens} tokens exceed the {most} of this model: it needs RoPE scaling",)


def _speculation(
    engine: str, best: Candidate, grid: Prediction | None, planned: Planned | None
) -> Settings:
    none = Settings(engine=engine, text="", schedule=(), notes=())
    if best.draft == "none" or grid is None:
        return none
    try:
        if best.tree:
            tree = planned_tree(grid.resolved, Tree(parents=best.tree.parents), engine)
            if tree:
                return tree
        return settings(grid, engine, planned)
    except UsageError as problem:
        return replace(none, notes=(str(problem),))


def _vllm(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, role: str
) -> tuple[list[str], list[str]]:
    words = ["vllm", "serve", model_id(ask.model), "--tensor-parallel-size", str(best.tp)]
    if best.pp > 1:
        words += ["--pipeline-parallel-size", str(best.pp)]
    if best.attention_dp > 1:
        words += ["--data-parallel-size", str(best.attention_dp)]
    if best.ep > 1:
        words += ["--enable-expert-parallel"]
    rank = best.attention_dp  # whose scheduler counts for itself
    sequences, tokens = (-(-n // rank) for n in (_sequences(ask, best), ask.batched_tokens))
    words += ["--max-model-len", str(ctx_tokens), "--max-num-seqs", str(sequences)]
    words += ["--max-num-batched-tokens", str(tokens)]
    words += ["--gpu-memory-utilization", f"{ask.memory_fraction:g}"]
    notes = []
    if best.dtype not in ("bf16", "fp16"):
        words += ["--quantization", best.dtype] if best.dtype == "fp8" else []
        notes.append(f"weights in {best.dtype}: serve a checkpoint in that format")
    if best.kv_dtype in ("fp8", "int8"):
        words += ["--kv-cache-dtype", "fp8"]
    if role != "serve":
        kind = "kv_producer" if role == "prefill" else "kv_consumer"
        config = f'{{"kv_connector": "NixlConnector", "kv_role": "{kind}"}}'
        words += ["--kv-transfer-config", config]
        notes.append("connector names change between versions: check yours")
    return words, notes


def _sglang(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, role: str
) -> tuple[list[str], list[str]]:
    words = ["python", "-m", "sglang.launch_server", "--model-path", model_id(ask.model)]
    words += ["--tp-size", str(best.tp * best.attention_dp)]
    if best.pp > 1:
        words += ["--pp-size", str(best.pp)]
    if best.attention_dp > 1:
        words += ["--enable-dp-attention", "--dp-size", str(best.attention_dp)]
    if best.ep > 1:
        words += ["--ep-size", str(best.ep)]
    words += ["--context-length", str(ctx_tokens)]
    words += ["--max-running-requests", str(_sequences(ask, best))]
    words += ["--chunked-prefill-size", str(ask.batched_tokens)]
    words += ["--mem-fraction-static", f"{min(ask.memory_fraction, 0.9):g}"]
    notes = ["chunks ride along with decoding only with --enable-mixed-chunk"]
    words += ["--enable-mixed-chunk"]
    if best.dtype == "fp8":
        words += ["--quantization", "fp8"]
    elif best.dtype not in ("bf16", "fp16"):
        notes.append(f"weights in {best.dtype}: serve a checkpoint in that format")
    if best.kv_dtype in ("fp8", "int8"):
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    if role != "serve":
        words += ["--disaggregation-mode", role]
    return words, notes


def _sequences(ask: PlanRequest, best: Candidate) -> int:
    """Requests a replica may run: what the plan counted on, not more than it holds safely."""
    return max(1, min(ask.max_sequences, best.max_batch_per_replica))
