"""Plans as settings that engines read: what to paste, and what an engine cannot express.

Where it cannot, the nearest plan that it can run is given instead, with what that costs. Option
names stand here; which version knows which is in `engines/*.toml`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.model_specs.load import preset_info
from magicplan.planning.candidates import small_models
from magicplan.planning.engine_table import Engine, engines, load
from magicplan.planning.predict import answer
from magicplan.planning.prediction import Prediction
from magicplan.planning.request import Request, Resolved, resolve
from magicplan.planning.schedule import (
    TOLERANCE,
    Planned,
    Threshold,
    edges,
    losses,
    schedule,
    segments,
)
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft

__all__ = [
    "ENGINES", "TOLERANCE", "Planned", "Settings", "Threshold", "losses", "schedule", "segments",
    "settings",
]  # fmt: skip
ENGINES = engines()
ADAPTIVE_FILE = "adaptive_spec.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settings:
    """What to paste, the file it names, the full schedule, and what could not be expressed."""

    engine: str
    text: str
    schedule: tuple[Threshold, ...]
    notes: tuple[str, ...]
    file_name: str = ""
    file_text: str = ""


def settings(p: Prediction, engine: str, planned: Planned | None = None) -> Settings:
    """Settings of an engine, `vllm`, `sglang@0.5.9`, for a grid. Raises UsageError for an unknown
    engine, a grid that does not fit, or where the engine can run no draft at all.

    What a plan decided for its load stays; a note says what the engine gives there against it.
    """
    known = load(engine)
    if p.resolved.draft is None:
        raise UsageError("--settings needs a draft; --draft none has nothing to set")
    if not p.placement.fits.any():
        raise UsageError("--settings: no cell of this grid fits; ask for more --gpus")
    own = p
    p, nearest = _expressible(p, p.resolved.draft, known)
    if planned is not None:
        planned = planned if p is own else _instead(own, p, planned)
        nearest = [_against_plan(planned), *nearest]
    found = (_vllm if known.name == "vllm" else _sglang)(p, known, planned)
    return replace(found, notes=(*nearest, *found.notes, accepted(p.resolved)))


def _expressible(p: Prediction, draft: Draft, engine: Engine) -> tuple[Prediction, list[str]]:
    """The plan itself, or the fastest one that the engine can run, and what that costs."""
    why = cannot(draft, engine)
    if not why:
        return p, []
    options = predictions(other_requests(p.resolved, engine))
    if not options:
        raise UsageError(f"{engine.asked} {why}, and no other draft is known")
    best = min(options, key=lambda option: float(_lost(p, option).mean()))
    other = drafted(best.resolved).name
    note = f"{engine.asked} {why}; nearest: {other}, which is {cost(_lost(p, best))}"
    return best, [note, accepted(p.resolved)]


def _instead(own: Prediction, other: Prediction, planned: Planned) -> Planned:
    """The best draft length of another draft at the planned load, and what it gives there."""
    rows, column = planned.cells(own.resolved.batch[:, 0], own.workload.ctx_tokens[0])
    ours, theirs = (
        np.broadcast_to(p.rounds.tokens_per_s, (*p.placement.fits.shape, p.rounds.gammas.size))[
            rows[0], column
        ]
        for p in (own, other)
    )
    gamma = int(theirs.argmax())
    share = float(theirs[gamma] / ours[planned.gamma]) * planned.share
    return replace(planned, gamma=gamma, share=share, same=False)


def _against_plan(planned: Planned) -> str:
    """What an engine gives against the plan that it is launched for, in one line."""
    chain = f"a chain of {planned.gamma}" if planned.gamma else "no draft"
    if planned.same and planned.share == 1.0:
        return f"at the planned load this drafts what the plan counts on: {chain}"
    return (
        f"at the planned load this gives {planned.share:.2f} times the plan's decode throughput, "
        f"with {chain}"
    )


def cannot(draft: Draft, engine: Engine) -> str:
    """Why the engine cannot draft so; empty where it can."""
    if draft.method not in engine.methods or draft.middle is not None:
        return f"cannot draft with {draft.name}{engine.lacks(draft.method)}"
    if draft.method == "model" and draft.budget_tokens is not None:
        return f"cannot keep a window of a draft model's cache, as {draft.name} does"
    return ""


def other_requests(resolved: Resolved, engine: Engine) -> list[Request]:
    """The same question with the draft model over its whole cache, or with whatever else the
    engine can run for this target."""
    request, draft = resolved.request, resolved.draft
    if draft is not None and draft.method == "model" and "model" in engine.methods:
        return [replace(request, draft_kv=None, draft_dtype=None)]
    names = [name for name in engine.methods if name != "model"]
    if "model" in engine.methods:
        names += [shape.name for shape in small_models(resolved.model)[0]]
    plain = replace(request, draft_kv=None, draft_dtype=None, acceptance="auto")
    return [replace(plain, draft=name) for name in names]


def predictions(requests: Iterable[Request]) -> list[Prediction]:
    """Predictions of the drafts that apply to their target and for which acceptance is known."""
    found = []
    for request in requests:
        try:
            found.append(answer(resolve(request)))
        except UsageError:
            continue
    return found


def drafted(resolved: Resolved) -> Draft:
    """The draft of a question that has one."""
    assert resolved.draft is not None
    return resolved.draft


def accepted(resolved: Resolved) -> str:
    """Where the acceptance of the draft is from, as a note."""
    return f"acceptance of {drafted(resolved).name}: {resolved.acceptance.origin}"


def _lost(plan: Prediction, other: Prediction) -> Array:
    """Throughput lost against the plan in every cell that holds both."""
    fits = np.logical_and(plan.placement.fits, other.placement.fits)
    shape = fits.shape
    ours = np.broadcast_to(plan.rounds.tokens_per_s.max(axis=-1), shape)
    theirs = np.broadcast_to(other.rounds.tokens_per_s.max(axis=-1), shape)
    return (1 - theirs / ours)[fits] if fits.any() else np.ones(1)


def cost(lost: Array) -> str:
    """Shares of throughput lost, negative where there is a gain, in words."""
    median, worst = float(np.median(lost)), float(lost.max())
    if lost.size == 1:
        return _change(worst)
    if worst <= 0:
        return f"{_change(median)} in the median cell and slower in none"
    return f"{_change(median)} in the median cell, {_change(worst)} in the worst"


def _change(lost: float) -> str:
    if abs(lost) < 0.0005:
        return "as fast"
    return f"{abs(lost):.1%} {'slower' if lost > 0 else 'faster'}"


def _off(full: tuple[Threshold, ...], lost: Array, *, where: str) -> tuple[str, ...]:
    """Why speculation stays off: nothing gains, or no draft length gains `where` it has to hold."""
    if not any(t.gamma for t in full):
        return ("no cell gains from this draft: leave speculation off",)
    return (
        f"no draft length helps at every {where}: leave speculation off, which loses up to "
        f"{lost[..., 0].max():.1%} against the best draft length of a cell",
    )


def _vllm(p: Prediction, engine: Engine, planned: Planned | None) -> Settings:
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
        off = _off(full, lost, where=where)
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


def model_id(name: str) -> str:
    """The Hugging Face id of a preset; a path, or an id that is no preset's, stays what it is."""
    try:
        return preset_info(name).id
    except UsageError:
        return name


def vllm_draft(resolved: Resolved, engine: Engine) -> dict[str, Any]:
    """The part of vLLM's speculative config that names the draft."""
    draft = drafted(resolved)
    config: dict[str, Any] = {"method": engine.methods[draft.method]}
    if draft.method in ("eagle", "eagle3", "medusa"):
        config["model"] = f"PATH_OF_{draft.method}_HEAD"
    if draft.method == "ngram":
        config["prompt_lookup_max"] = 4
    if draft.method == "model":
        config["model"] = model_id(resolved.request.draft)
    return config


def _sglang(p: Prediction, engine: Engine, planned: Planned | None) -> Settings:
    """SGLang's flags name one number of steps; newer versions move between a few at run time, but
    not where a plan counts on one of them."""
    method = drafted(p.resolved).method
    full, lost = schedule(p, planned), losses(p, planned)
    worst = lost.max(axis=(0, 1))
    gamma = int(worst.argmin())
    if gamma == 0:
        off = _off(full, lost, where="batch and context")
        return Settings(engine=engine.asked, text="", schedule=full, notes=off)
    flags = [*sglang_draft(p.resolved, engine), *chain_flags(gamma, ngram=method == "ngram")]
    where = "the whole grid" if planned is None else "every load"
    notes = [f"one draft length for {where} loses up to {worst[gamma]:.1%} against the best"]
    lengths = sorted({t.gamma for t in full if t.gamma} | {gamma})
    adaptive = len(lengths) > 1 and engine.has("adaptive", method) is not None
    if adaptive and planned is not None:
        adaptive = False
        notes.append(
            "--speculative-adaptive would move between candidate_steps "
            f"{', '.join(map(str, lengths))} by the accept length it sees: not what is planned"
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


def sglang_draft(resolved: Resolved, engine: Engine) -> list[str]:
    """The flags that name the draft."""
    draft = drafted(resolved)
    flags = [f"--speculative-algorithm {engine.methods[draft.method]}"]
    if draft.method in ("eagle", "eagle3"):
        flags.append(f"--speculative-draft-model-path PATH_OF_{draft.method}_HEAD")
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
