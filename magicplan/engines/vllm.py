"""vLLM's words: its settings of speculation, its server and its router."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from magicplan.acceptance_specs.heads import head_of
from magicplan.engine_specs.capabilities import EngineVersion
from magicplan.engines.serve_commands import (
    Command,
    Server,
    checkpoint,
    format_words,
    host_note,
    hosts,
)
from magicplan.engines.settings import Settings, cost, drafted, model_id, off_notes
from magicplan.prediction.adaptive_trees import TreePlan, TreePoint
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.result import Prediction
from magicplan.prediction.thresholds import (
    Planned,
    edges,
    losses,
    schedule,
    segments,
)
from magicplan.roofline.tree import Tree


def vllm_chain(p: Prediction, engine: EngineVersion, planned: Planned | None) -> Settings:
    """`--speculative-config`: a draft length, by batch size where the version has it."""
    draft, full, lost = drafted(p.resolved), schedule(p, planned), losses(p, planned)
    batches = edges(p.resolved.batch[:, 0])
    runs = segments(lost.max(axis=1))
    steps = _merged([[batches[a][0], batches[b][1], gamma] for a, b, gamma, _ in runs])
    loss, notes, where = max(run[3] for run in runs), [], "context"
    by_context, by_batch = engine.has("context_schedule"), engine.has("batch_schedule")
    if p.resolved.layout.attention_dp > 1:
        by_context = by_batch = None  # vLLM ignores schedules under data parallelism
    if by_context:
        steps = [[t.batch_lo, t.batch_hi, t.ctx_lo, t.ctx_hi, t.gamma] for t in full]
        loss = max(t.loss for t in full)
    elif p.resolved.ctx.shape[1] > 1:
        notes.append("this version reads no context: each k is the best compromise over contexts")
    if not by_batch and len(steps) > 1:
        worst, where = lost.max(axis=(0, 1)), "batch and context"
        steps, loss = [[1, batches[-1][1], int(worst.argmin())]], float(worst.min())
        notes.append("this version, or data parallelism, has one draft length for every batch")
    longest = max(step[-1] for step in steps)
    if longest == 0:
        off = off_notes(full, lost, where=where)
        return Settings(engine=engine.asked, text="", schedule=full, notes=off)
    config = vllm_draft(p.resolved, engine) | {"num_speculative_tokens": longest}
    used = [draft.method]
    if len(steps) > 1:
        config["num_speculative_tokens_per_batch_size"] = steps
        used.append("context_schedule" if by_context else "batch_schedule")
    notes.insert(0, f"largest loss against the best draft length: {loss:.1%}")
    notes.append(engine.cite(*used))
    text = f"--speculative-config '{json.dumps(config)}'"
    return Settings(engine=engine.asked, text=text, schedule=full, notes=tuple(notes))


def _merged(steps: list[list[int]]) -> list[list[int]]:
    """Neighbours with the same draft length as one."""
    found: list[list[int]] = []
    for step in steps:
        if found and found[-1][2] == step[2]:
            found[-1][1] = step[1]
        else:
            found.append(step)
    return found


def vllm_draft(resolved: Resolved, engine: EngineVersion) -> dict[str, Any]:
    """The part of vLLM's speculative config that names the draft."""
    draft = drafted(resolved)
    config: dict[str, Any] = {"method": engine.methods[draft.method]}
    if draft.method in ("eagle", "eagle3", "medusa"):
        config["model"] = head_of(resolved.model.name, draft.method)
    if draft.method == "ngram":
        config["prompt_lookup_max"] = 4
    if draft.method == "model":
        config["model"] = model_id(resolved.request.draft)
    return config


def vllm_topology(resolved: Resolved, tree: Tree, engine: EngineVersion) -> Settings | None:
    """Every path of a tree, for versions of vLLM with tree attention; None for others."""
    method = drafted(resolved).method
    if not engine.has("token_tree", method):
        return None
    paths = "[" + ", ".join(_path(path) for path in tree.paths) + "]"
    config = vllm_draft(resolved, engine)
    config |= {"num_speculative_tokens": tree.size - 1, "speculative_token_tree": paths}
    return Settings(
        engine=engine.asked,
        text=f"--speculative-config '{json.dumps(config)}'",
        schedule=(),
        notes=(
            "the tree runs under the TREE_ATTN attention backend, one shape for every batch",
            engine.cite(method, "token_tree"),
        ),
    )


def vllm_tree(plan: TreePlan, point: TreePoint, engine: EngineVersion) -> Settings:
    """Versions with tree attention take every path of an EAGLE tree; others take a chain."""
    found = vllm_topology(plan.resolved, point.tree, engine)
    if found:
        return found
    method = drafted(plan.resolved).method
    config = vllm_draft(plan.resolved, engine) | {"num_speculative_tokens": point.chain_gamma}
    notes = (_chain_note(engine, method, point), engine.cite(method))
    text = f"--speculative-config '{json.dumps(config)}'" if point.chain_gamma else ""
    return Settings(engine=engine.asked, text=text, schedule=(), notes=notes)


def _path(path: tuple[int, ...]) -> str:
    """A path as vLLM writes it: (0,) and (0,1)."""
    return "(" + ",".join(map(str, path)) + ("," if len(path) == 1 else "") + ")"


def _chain_note(engine: EngineVersion, method: str, point: TreePoint) -> str:
    lost = 1 - point.chain_speedup / point.speedup
    nearest = f"the best chain, {point.chain_gamma} tokens"
    if not point.chain_gamma:
        nearest = "no speculation, for no chain gains"
    return (
        f"{engine.asked} cannot express a tree of this draft{engine.lacks('token_tree', method)}; "
        f"nearest: {nearest}, which is {cost(np.array([lost]))} "
        f"({point.chain_speedup:.2f}x instead of {point.speedup:.2f}x)"
    )


def vllm_command(server: Server, engine: EngineVersion) -> Command:
    """The `vllm serve` command of a replica, whole or half of a disaggregated one."""
    path, notes = checkpoint(server)
    words = ["vllm", "serve", path, "--tensor-parallel-size", str(server.tp)]
    if server.pp > 1:
        words += ["--pipeline-parallel-size", str(server.pp)]
    if server.attention_dp > 1:
        words += ["--data-parallel-size", str(server.attention_dp)]
    if server.ep > 1:
        words += ["--enable-expert-parallel"]
    rank = server.attention_dp  # whose scheduler counts for itself
    sequences, tokens = (-(-n // rank) for n in (server.sequences, server.batched_tokens))
    words += ["--max-model-len", str(server.ctx_tokens), "--max-num-seqs", str(sequences)]
    words += ["--max-num-batched-tokens", str(tokens)]
    words += ["--gpu-memory-utilization", f"{server.memory_fraction:g}"]
    words += format_words(server, engine)
    if server.kv_dtype.startswith("int"):
        words += ["--attention-backend", "TRITON_ATTN"]
        notes.append(engine.cite(f"kv_{server.kv_dtype}"))
    if server.nodes > 1:
        notes.append(
            f"a replica spans {server.nodes} hosts: start it on them as vLLM's documentation of "
            "serving on several nodes says, with Ray or --nnodes"
        )
    if server.role == "serve":
        return Command(words=words, notes=notes)
    kind = "kv_producer" if server.role == "prefill" else "kv_consumer"
    config = f'{{"kv_connector": "NixlConnector", "kv_role": "{kind}"}}'
    words += ["--port", "8000", "--kv-transfer-config", config]
    notes.append(
        "needs pip install nixl; HOST_ADDRESS is the host's own, as the router reaches it. Two "
        "replicas on one host need other GPUs, --port and VLLM_NIXL_SIDE_CHANNEL_PORT"
    )
    if server.kv_dtype.startswith("int"):
        notes.append(
            "not confirmed: whether vLLM transfers the scales of a quantised KV cache with it; try "
            f"{kind} with {server.kv_dtype} before you rely on it"
        )
    where = "VLLM_NIXL_SIDE_CHANNEL_HOST=HOST_ADDRESS VLLM_NIXL_SIDE_CHANNEL_PORT=5600"
    return Command(words=words, notes=notes, before=where)


def vllm_router(prefill_replicas: int, decode_replicas: int) -> tuple[str, list[str]]:
    """The proxy of vLLM's documentation before both kinds of replicas."""
    lines = ["python tests/v1/kv_connector/nixl_integration/toy_proxy_server.py", "--port 8192"]
    for kind, count in (("prefill", prefill_replicas), ("decode", decode_replicas)):
        names = hosts(f"{kind}-%d", count)
        lines += [f"--{kind}er-hosts {names}" if kind == "prefill" else f"--decoder-hosts {names}"]
        ports = hosts("8000", count)
        lines += [f"--{kind}er-ports {ports}" if kind == "prefill" else f"--decoder-ports {ports}"]
    return " \\\n  ".join(lines), [
        "the proxy of vLLM's documentation, to be run in a checkout of its repository. It calls "
        "itself a toy: for production, put a router with pools of both kinds in its place",
        host_note(prefill_replicas, decode_replicas),
    ]
