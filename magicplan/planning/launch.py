"""Commands that start a plan's servers, or why an engine cannot start them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from magicplan import hardware_specs, model_specs
from magicplan.engine_specs.capabilities import (
    EngineVersion,
    ReplicaKind,
    cannot,
    crowded,
    engine_of,
    load,
    refusal,
)
from magicplan.engines.nearest import Planned, settings
from magicplan.engines.serve_commands import Command, Server
from magicplan.engines.settings import Settings, accepted, drafted
from magicplan.engines.sglang import sglang_command, sglang_router
from magicplan.engines.tree_settings import planned_tree
from magicplan.engines.vllm import vllm_command, vllm_router
from magicplan.errors import UsageError
from magicplan.planning.choose import chosen
from magicplan.planning.question import CapacityQuestion
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Candidate, Launch
from magicplan.planning.schedule import grid_prediction, planned_of
from magicplan.planning.search import fleet
from magicplan.prediction.result import Prediction
from magicplan.roofline.tree import Tree


def launch_commands(
    ask: PlanRequest,
    best: Candidate,
    ctx_tokens: int,
    grid: Prediction | None,
    planned: Planned | None,
) -> tuple[Launch, ...]:
    """One command for each engine and role, the stack's own engine first; of an engine that cannot
    run the plan, why. `ctx_tokens` is the longest request; `grid` carries the speculation settings,
    `planned` what they have to leave as it is."""
    own = ask.engine.stack.partition("@")[0]
    found: list[Launch] = []
    for name in sorted(COMMANDS, key=lambda name: name != own):
        engine = (engine_of(ask.engine.stack) if name == own else None) or load(name)
        wanted = _wanted(ask, best, grid)
        why = refusal(engine, wanted)
        if why:
            found.append(Launch(engine=name, role="serve", command="", notes=(), refused=why))
            continue
        drafting = _speculation(engine, best, grid, planned, wanted)
        found += _of_engine(ask, best, ctx_tokens, engine, drafting)
    return tuple(found)


def _wanted(ask: PlanRequest, best: Candidate, grid: Prediction | None) -> ReplicaKind:
    return ReplicaKind(
        model=model_specs.load(ask.model), kv_dtype=best.kv_dtype, pp=best.pp, tp=best.tp,
        ep=best.ep, attention_dp=best.attention_dp, split=best.prefill_replicas > 0,
        draft=grid.resolved.draft if grid is not None and best.draft != "none" else None,
    )  # fmt: skip


def _of_engine(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, engine: EngineVersion, drafting: Settings
) -> list[Launch]:
    """The commands of every role of a plan in one engine.

    Both kinds of replicas of a disaggregated fleet get the draft, whose cache is written by prompts
    and moves with the target's.
    """
    write, route = COMMANDS[engine.name]
    roles = ("serve",) if not best.prefill_replicas else ("prefill", "decode")
    found = []
    for role in roles:
        server = _server(ask, best, ctx_tokens, role, drafts=bool(drafting.text))
        command = write(server, engine)
        found.append(
            Launch(
                engine=engine.name,
                role=role,
                command=_text(command, drafting.text),
                notes=(
                    *_replica_notes(best, role), *_length_notes(ask, ctx_tokens), *command.notes,
                    *(drafting.notes if role != "prefill" else ()),
                ),
                file_name=drafting.file_name,
                file_text=drafting.file_text,
            )
        )  # fmt: skip
    if best.prefill_replicas:
        text, notes = route(best.prefill_replicas, best.replicas)
        notes.append(engine.cite("disaggregation"))
        found.append(Launch(engine=engine.name, role="router", command=text, notes=tuple(notes)))
    return found


def _server(
    ask: PlanRequest, best: Candidate, ctx_tokens: int, role: str, *, drafts: bool
) -> Server:
    """One replica of the plan; it runs what the plan counted on, not more than it holds safely."""
    return Server(
        model=ask.model, gpu=best.gpu, dtype=best.dtype, kv_dtype=best.kv_dtype, tp=best.tp,
        pp=best.pp, ep=best.ep, attention_dp=best.attention_dp, ctx_tokens=ctx_tokens,
        sequences=max(1, min(ask.engine.max_sequences, best.max_batch_per_replica)),
        batched_tokens=ask.engine.batched_tokens, memory_fraction=ask.engine.memory_fraction,
        role=role, drafts=drafts,
    )  # fmt: skip


def _text(command: Command, drafting: str) -> str:
    """A command with an option and its value a line."""
    lines = [shlex.join(command.words[:3]), *_pairs(command.words[3:])]
    if command.before:
        lines[0] = f"{command.before} \\\n{lines[0]}"
    lines += _pairs(shlex.split(drafting))
    return " \\\n  ".join(lines)


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
    if role != "serve":
        return (f"start {count} of these",)
    return (
        f"start {count} of these behind a load balancer that keeps a session on one of them, "
        "where its prefix is cached",
    )


def _length_notes(ask: PlanRequest, ctx_tokens: int) -> tuple[str, ...]:
    most = model_specs.load(ask.model).max_ctx_tokens
    if ctx_tokens <= most:
        return ()
    return (f"{ctx_tokens} tokens exceed the {most} of this model: it needs RoPE scaling",)


def _speculation(
    engine: EngineVersion,
    best: Candidate,
    grid: Prediction | None,
    planned: Planned | None,
    wanted: ReplicaKind,
) -> Settings:
    """Settings of the draft, or of another where the engine cannot run it; where the acceptance
    is from is written once, in the plan."""
    none = Settings(engine=engine.asked, text="", schedule=(), notes=())
    if best.draft == "none" or grid is None:
        return none
    if cannot(drafted(grid.resolved), engine) and crowded(engine, wanted, ""):
        why = f"{engine.asked} {cannot(drafted(grid.resolved), engine)}"
        return replace(none, notes=(f"{why}; no other draft is looked for beside this layout",))
    try:
        found = None
        if best.tree:
            tree = Tree(parents=best.tree.parents)
            found = planned_tree(grid.resolved, tree, engine.asked)
        found = found or settings(grid, engine.asked, planned)
    except UsageError as problem:
        return replace(none, notes=(str(problem),))
    basis = accepted(grid.resolved)
    return replace(found, notes=tuple(note for note in found.notes if note != basis))


Writer = Callable[[Server, EngineVersion], Command]
Router = Callable[[int, int], tuple[str, list[str]]]
"""What writes a router's command and notes for numbers of replicas that prefill and decode."""
COMMANDS: dict[str, tuple[Writer, Router]] = {
    "vllm": (vllm_command, vllm_router),
    "sglang": (sglang_command, sglang_router),
}


def launch_of(question: CapacityQuestion, one: Candidate, replicas: int) -> tuple[Launch, ...]:
    """One command for each engine; the candidate is a mixed one of the answer to `question`."""
    asked = question.request
    own = replace(
        asked,
        choices=replace(
            asked.choices,
            gpus=tuple(n for n in asked.choices.gpus if hardware_specs.load(n).name == one.gpu),
            tp=(one.tp,), pp=one.pp, ep=one.ep, attention_dp=one.attention_dp, dtypes=(one.dtype,),
            kv_dtypes=(one.kv_dtype,), drafts=(one.draft,), disaggregation="off",
        ),
        money=replace(asked.money, available=None),
    )  # fmt: skip
    load = question.load
    found = fleet(own, load)
    choice = chosen(replace(question, request=own, stock=None), found, Counter())[0]
    planned = planned_of(choice, one)
    grid = grid_prediction(own, choice, one, planned)
    longest = int((load.lengths.prompt + load.lengths.output).max())
    bears = one.capacity_requests_per_s / one.replicas
    note = (
        f"start {replicas} of these on {one.gpu}, behind a load balancer that gives each kind of "
        f"replica requests by what it bears: {bears:.3g} a second each of these"
    )
    return tuple(
        replace(found, notes=() if found.refused else (note, *found.notes))
        for found in launch_commands(own, replace(one, replicas=1), longest, grid, planned)
    )
