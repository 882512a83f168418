"""SGLang's words: its settings of speculation, its server and its router."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np

from magicplan import model_specs
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
from magicplan.prediction.placement import place, scene_of
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.result import Prediction
from magicplan.prediction.thresholds import (
    Planned,
    losses,
    schedule,
)
from magicplan.roofline.tree import Tree
from magicplan.roofline.tree_speculation import tree_times

ADAPTIVE_FILE = "adaptive_spec.json"


def sglang_chain(p: Prediction, engine: EngineVersion, planned: Planned | None) -> Settings:
    """SGLang's flags name one number of steps; newer versions move between a few at run time, but
    not where a plan counts on one of them."""
    method = drafted(p.resolved).method
    full, lost = schedule(p, planned), losses(p, planned)
    worst = lost.max(axis=(0, 1))
    gamma = int(worst.argmin())
    if gamma == 0:
        off = off_notes(full, lost, where="batch and context")
        return Settings(engine=engine.asked, text="", schedule=full, notes=off)
    flags = [*sglang_draft(p.resolved, engine), *chain_flags(gamma, ngram=method == "ngram")]
    where = "the whole grid" if planned is None else "every load"
    notes = [f"one draft length for {where} loses up to {worst[gamma]:.1%} against the best"]
    lengths = sorted({t.gamma for t in full if t.gamma} | {gamma})
    adaptive = len(lengths) > 1 and engine.has("adaptive", method) is not None
    if adaptive and planned is not None:
        adaptive = False
        notes.append(
            "--speculative-adaptive is left off: it moves between candidate_steps "
            f"{', '.join(map(str, lengths))} by the accept length it sees, not by load as planned"
        )
    if adaptive:
        flags.append(f"--speculative-adaptive --speculative-adaptive-config {ADAPTIVE_FILE}")
        notes.append(
            "SGLang moves between candidate_steps by the accept length it sees, not by batch and "
            "context: the candidates are those of the schedule"
        )
    notes.append(engine.cite(method, *(["adaptive"] if adaptive else [])))
    return Settings(
        engine=engine.asked,
        text=" ".join(flags),
        schedule=full,
        notes=tuple(notes),
        file_name=ADAPTIVE_FILE if adaptive else "",
        file_text=json.dumps({"candidate_steps": lengths}) if adaptive else "",
    )


def sglang_draft(resolved: Resolved, engine: EngineVersion) -> list[str]:
    """The flags that name the draft."""
    draft = drafted(resolved)
    flags = [f"--speculative-algorithm {engine.methods[draft.method]}"]
    if draft.method in ("eagle", "eagle3"):
        head = head_of(resolved.model.name, draft.method)
        flags.append(f"--speculative-draft-model-path {head}")
    if draft.method == "model":
        path = shlex.quote(model_id(resolved.request.draft))
        flags.append(f"--speculative-draft-model-path {path}")
    return flags


def chain_flags(gamma: int, *, ngram: bool = False) -> list[str]:
    """A chain of gamma drafted tokens; SGLang's draft tokens count the root. NGRAM has no steps,
    and a breadth of its own in place of topk."""
    shape = f"--speculative-num-steps {gamma} --speculative-eagle-topk 1"
    if ngram:
        shape = "--speculative-ngram-max-bfs-breadth 1"
    return [shape, f"--speculative-num-draft-tokens {gamma + 1}"]


def sglang_size(resolved: Resolved, tree: Tree, engine: EngineVersion) -> Settings:
    """SGLang's steps below the root, the nodes it expands at each, and the nodes it keeps."""
    flags = [
        *sglang_draft(resolved, engine),
        f"--speculative-num-steps {tree.depth - 1} --speculative-eagle-topk {tree.beam}",
        f"--speculative-num-draft-tokens {tree.size}",
    ]
    notes = (
        f"SGLang expands {tree.beam} nodes a level and keeps the {tree.size} it ranks highest: the "
        "size is this plan's, the shape is SGLang's choice",
        "with topk above 1, SGLang speculates without overlapping host and GPU work (Spec V2)",
        engine.cite(drafted(resolved).method, "dynamic_tree"),
    )
    return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=notes)


def sglang_tree(plan: TreePlan, point: TreePoint, engine: EngineVersion) -> Settings:
    """Steps below the root, the widest fan-out and the nodes; SGLang ranks the shape itself."""
    if point.tree.beam == 1:
        flags = sglang_draft(plan.resolved, engine) + chain_flags(point.size - 1)
        cited = (engine.cite(drafted(plan.resolved).method),)
        return Settings(engine=engine.asked, text=" ".join(flags), schedule=(), notes=cited)
    slower = cost(np.array([_wide_cost(plan, point)]))
    found = sglang_size(plan.resolved, point.tree, engine)
    wider = f"nearest: the same size, {slower} for its wider draft passes if it accepts as much"
    return replace(found, notes=(found.notes[0], wider, *found.notes[1:]))


def _wide_cost(plan: TreePlan, point: TreePoint) -> float:
    """Throughput lost to draft passes over `Tree.beam` nodes at every level below the root."""
    scene = scene_of(plan.resolved, place(plan.resolved))
    beam = point.tree.beam
    times = tree_times(scene, drafted(plan.resolved), max(point.size, beam))
    passes = times.pass_seconds[0, 0]
    theirs = float(passes[1] + (point.depth - 2) * passes[beam])
    ours = float(passes[list(point.tree.level_widths[:-1])].sum())
    at = int((times.sizes >= point.size).argmax())
    rest = float(times.verify_seconds[0, 0, at]) + float(np.max(times.round_seconds))
    return max(0.0, float(1 - (ours + rest) / (theirs + rest)))


def sglang_command(server: Server, engine: EngineVersion) -> Command:
    """The `sglang.launch_server` command of a replica, whole or half of a disaggregated one."""
    path, notes = checkpoint(server)
    words = ["python", "-m", "sglang.launch_server", "--model-path", path]
    words += ["--tp-size", str(server.tp * server.attention_dp)]
    if server.pp > 1:
        words += ["--pp-size", str(server.pp)]
    if server.attention_dp > 1:
        words += ["--enable-dp-attention", "--dp-size", str(server.attention_dp)]
        if model_specs.load(server.model).latent is None:
            notes.append("--enable-dp-attention runs some families of models only: check yours")
    if server.ep > 1:
        words += ["--ep-size", str(server.ep)]
    words += ["--context-length", str(server.ctx_tokens)]
    words += ["--max-running-requests", str(server.sequences)]
    words += ["--chunked-prefill-size", str(server.batched_tokens)]
    words += ["--mem-fraction-static", f"{min(server.memory_fraction, 0.9):g}"]
    if server.role == "serve" and not server.drafts:
        words += ["--enable-mixed-chunk"]
        notes.append("chunks ride along with decoding only with --enable-mixed-chunk")
    elif server.role == "serve":
        notes.append(
            "SGLang mixes no prompt chunks into decoding while it speculates: prompts interrupt "
            "decoding, where the plan has them ride along"
        )
    words += format_words(server, engine)
    if server.nodes > 1:
        words += ["--nnodes", str(server.nodes), "--node-rank", "NODE_RANK"]
        words += ["--dist-init-addr", "FIRST_HOST:5000"]
        notes.append(
            f"a replica spans {server.nodes} hosts: start it on each, NODE_RANK 0 on the first"
        )
    words += ["--host", "0.0.0.0"]
    if server.role != "serve":
        words += ["--port", "30000", "--disaggregation-mode", server.role]
        words += ["--disaggregation-transfer-backend", "nixl"]
        notes.append("needs pip install nixl; Mooncake is the other transfer backend")
    return Command(words=words, notes=notes)


def sglang_router(prefill_replicas: int, decode_replicas: int) -> tuple[str, list[str]]:
    """SGLang's router before both kinds of replicas."""
    lines = ["python -m sglang_router.launch_router --pd-disaggregation"]
    for kind, count in (("prefill", prefill_replicas), ("decode", decode_replicas)):
        lines.append(hosts(f"--{kind} http://{kind}-%d:30000", count))
    lines.append("--host 0.0.0.0 --port 8000")
    note = host_note(prefill_replicas, decode_replicas)
    return " \\\n  ".join(lines), ["needs pip install sglang-router", note]
