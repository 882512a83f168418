"""The words of an engine's command line for a replica of a plan, and for what routes between two
kinds of them. An engine's own option names stand in one place each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from magicplan import hardware_specs, model_specs
from magicplan.planning.engine_table import Engine
from magicplan.planning.plan_request import PlanRequest
from magicplan.planning.plan_result import Candidate
from magicplan.planning.settings import model_id

CHECKPOINTS = {"fp8": "fp8", "mxfp4": "fp4"}
"""What a published checkpoint's quantisation is called here."""
WRITTEN_OUT = 4
"""Hosts that a router's command names one by one; more are counted through by the shell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """Words, an option and its value one after the other, and what they could not express."""

    words: list[str]
    notes: list[str]
    before: str = ""
    """Variables that stand before the command."""


def vllm(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, role: str, engine: Engine, *, drafts: bool
) -> Command:
    """`vllm serve`, for all of a replica's work or as one half of a disaggregated fleet."""
    checkpoint, notes = _checkpoint(ask, best)
    words = ["vllm", "serve", checkpoint, "--tensor-parallel-size", str(best.tp)]
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
    words += _formats(ask, best, engine)
    if best.kv_dtype.startswith("int"):
        words += ["--attention-backend", "TRITON_ATTN"]
        notes.append(engine.cite(f"kv_{best.kv_dtype}"))
    if (nodes := _nodes(best)) > 1:
        notes.append(
            f"a replica spans {nodes} hosts: start it on them as vLLM's documentation of serving "
            "on several nodes says, with Ray or --nnodes"
        )
    if role == "serve":
        return Command(words=words, notes=notes)
    kind = "kv_producer" if role == "prefill" else "kv_consumer"
    config = f'{{"kv_connector": "NixlConnector", "kv_role": "{kind}"}}'
    words += ["--port", "8000", "--kv-transfer-config", config]
    notes.append(
        "needs pip install nixl; HOST_ADDRESS is the host's own, as the router reaches it. Two "
        "replicas on one host need other GPUs, --port and VLLM_NIXL_SIDE_CHANNEL_PORT"
    )
    if best.kv_dtype.startswith("int"):
        notes.append(
            f"not sure: vLLM moves quantised caches whose scales lie beside them; try {kind} with "
            f"{best.kv_dtype} before you rely on it"
        )
    where = "VLLM_NIXL_SIDE_CHANNEL_HOST=HOST_ADDRESS VLLM_NIXL_SIDE_CHANNEL_PORT=5600"
    return Command(words=words, notes=notes, before=where)


def sglang(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, role: str, engine: Engine, *, drafts: bool
) -> Command:
    """`sglang.launch_server`, for all of a replica's work or as one half."""
    checkpoint, notes = _checkpoint(ask, best)
    words = ["python", "-m", "sglang.launch_server", "--model-path", checkpoint]
    words += ["--tp-size", str(best.tp * best.attention_dp)]
    if best.pp > 1:
        words += ["--pp-size", str(best.pp)]
    if best.attention_dp > 1:
        words += ["--enable-dp-attention", "--dp-size", str(best.attention_dp)]
        if model_specs.load(ask.model).latent is None:
            notes.append("--enable-dp-attention runs some families of models only: check yours")
    if best.ep > 1:
        words += ["--ep-size", str(best.ep)]
    words += ["--context-length", str(ctx_tokens)]
    words += ["--max-running-requests", str(_sequences(ask, best))]
    words += ["--chunked-prefill-size", str(ask.batched_tokens)]
    words += ["--mem-fraction-static", f"{min(ask.memory_fraction, 0.9):g}"]
    if role == "serve" and not drafts:
        words += ["--enable-mixed-chunk"]
        notes.append("chunks ride along with decoding only with --enable-mixed-chunk")
    elif role == "serve":
        notes.append(
            "SGLang mixes no prompt chunks into decoding while it speculates: prompts interrupt "
            "decoding, where the plan has them ride along"
        )
    words += _formats(ask, best, engine)
    if (nodes := _nodes(best)) > 1:
        words += ["--nnodes", str(nodes), "--node-rank", "NODE_RANK"]
        words += ["--dist-init-addr", "FIRST_HOST:5000"]
        notes.append(f"a replica spans {nodes} hosts: start it on each, NODE_RANK 0 on the first")
    words += ["--host", "0.0.0.0"]
    if role != "serve":
        words += ["--port", "30000", "--disaggregation-mode", role]
        words += ["--disaggregation-transfer-backend", "nixl"]
        notes.append("needs pip install nixl; Mooncake is the other transfer backend")
    return Command(words=words, notes=notes)


def vllm_router(best: Candidate) -> tuple[str, list[str]]:
    """The proxy of vLLM's documentation before both kinds of replicas."""
    lines = ["python tests/v1/kv_connector/nixl_integration/toy_proxy_server.py", "--port 8192"]
    for kind, count in (("prefill", best.prefill_replicas), ("decode", best.replicas)):
        hosts = _hosts(f"{kind}-%d", count)
        lines += [f"--{kind}er-hosts {hosts}" if kind == "prefill" else f"--decoder-hosts {hosts}"]
        ports = _hosts("8000", count)
        lines += [f"--{kind}er-ports {ports}" if kind == "prefill" else f"--decoder-ports {ports}"]
    return " \\\n  ".join(lines), [
        "the proxy of vLLM's documentation, to be run in a checkout of its repository. It calls "
        "itself a toy: for production, put a router with pools of both kinds in its place",
        _names(best),
    ]


def sglang_router(best: Candidate) -> tuple[str, list[str]]:
    """SGLang's router before both kinds of replicas."""
    lines = ["python -m sglang_router.launch_router --pd-disaggregation"]
    for kind, count in (("prefill", best.prefill_replicas), ("decode", best.replicas)):
        lines.append(_hosts(f"--{kind} http://{kind}-%d:30000", count))
    lines.append("--host 0.0.0.0 --port 8000")
    return " \\\n  ".join(lines), ["needs pip install sglang-router", _names(best)]


Writer = Callable[..., Command]
COMMANDS: dict[str, tuple[Writer, Callable[[Candidate], tuple[str, list[str]]]]] = {
    "vllm": (vllm, vllm_router),
    "sglang": (sglang, sglang_router),
}


def _names(best: Candidate) -> str:
    counted = max(best.prefill_replicas, best.replicas) > WRITTEN_OUT
    return "prefill-1, decode-1 and so on stand for the replicas' hosts" + (
        ", which bash counts through" if counted else ""
    )


def _hosts(form: str, count: int) -> str:
    """A word for every replica, %d being its number from 1."""
    if count <= WRITTEN_OUT:
        return " ".join(form.replace("%d", str(n + 1)) for n in range(count))
    form = form if "%d" in form else form + "%.0s"
    return f"$(printf -- '{form} ' {{1..{count}}})"


def _checkpoint(ask: PlanRequest, best: Candidate) -> tuple[str, list[str]]:
    """What to serve: the model's own checkpoint where it is in the format, or can be cast to it
    as it loads; else one to be found."""
    quantised = model_specs.load(ask.model).quantised
    own = CHECKPOINTS.get(quantised, quantised) or "bf16"
    if best.dtype == own or (best.dtype in ("bf16", "fp16", "fp8") and not quantised):
        cast = best.dtype == "fp8" and not quantised
        note = "16-bit weights are cast to fp8 as they load; an fp8 checkpoint needs no flag"
        return model_id(ask.model), [note] if cast else []
    note = f"PATH_OF_{best.dtype}_CHECKPOINT: weights in {best.dtype}, which its config.json names"
    return f"PATH_OF_{best.dtype}_CHECKPOINT", [note]


def _formats(ask: PlanRequest, best: Candidate, engine: Engine) -> list[str]:
    words = []
    if best.dtype == "fp16":
        words += ["--dtype", "float16"]
    if best.dtype == "fp8" and not model_specs.load(ask.model).quantised:
        words += ["--quantization", "fp8"]
    entry = engine.has(f"kv_{best.kv_dtype}")
    if entry:
        words += ["--kv-cache-dtype", entry.option]
    return words


def _nodes(best: Candidate) -> int:
    """Hosts that a replica needs."""
    gpus = best.tp * best.pp * best.attention_dp
    return math.ceil(gpus / hardware_specs.load(best.gpu).node_size)


def _sequences(ask: PlanRequest, best: Candidate) -> int:
    """Requests a replica may run: what the plan counted on, not more than it holds safely."""
    return max(1, min(ask.max_sequences, best.max_batch_per_replica))
