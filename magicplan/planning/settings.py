"""Plans as settings that engines read: what to paste, and what an engine cannot express.

Where it cannot, the nearest plan that it can run is given instead, with what that costs. Option
names stand here; which version knows which is in `engines/*.toml`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.candidates import small_models
from magicplan.planning.engine_table import Engine, engines, load
from magicplan.planning.predict import answer
from magicplan.planning.prediction import Prediction
from magicplan.planning.request import resolve
from magicplan.planning.schedule import (
    TOLERANCE,
    Threshold,
    edges,
    losses,
    schedule,
    segments,
)
from magicplan.roofline.drafts import Draft

__all__ = [
    "ENGINES", "TOLERANCE", "Settings", "Threshold", "losses", "schedule", "segments", "settings",
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


def settings(p: Prediction, engine: str) -> Settings:
    """Settings of an engine, `vllm`, `sglang@0.5.9`, for a grid. Raises UsageError for an unknown
    engine, or where it can run no draft at all."""
    known = load(engine)
    if p.resolved.draft is None:
        raise UsageError("--settings needs a draft; --draft none has nothing to set")
    p, nearest = _expressible(p, known)
    draft = p.resolved.draft
    if draft is None:
        raise UsageError(f"{known.asked} can run no draft that is known for this model")
    found = (_vllm if known.name == "vllm" else _sglang)(p, draft, known)
    return replace(found, notes=(*nearest, *found.notes, f"{known.asked}: {known.can.source}"))


def _expressible(p: Prediction, engine: Engine) -> tuple[Prediction, list[str]]:
    """The plan itself, or the fastest one that the engine can run, and what that costs."""
    draft = p.resolved.draft
    if draft is None or _cannot(draft, engine) == "":
        return p, []
    options = []
    for name in _other_drafts(p, draft, engine):
        ask = replace(p.resolved.request, draft=name, draft_kv=None, draft_dtype=None)
        if name != p.resolved.request.draft:
            ask = replace(ask, acceptance="auto")
        try:
            options.append(answer(resolve(ask)))
        except UsageError:
            continue
    if not options:
        raise UsageError(f"{engine.asked} {_cannot(draft, engine)}, and no other draft is known")
    best = max(options, key=lambda option: float(_lost(p, option).mean() * -1))
    lost = _lost(p, best)
    other = best.resolved.draft.name if best.resolved.draft else "none"
    cost = f"{np.median(lost):.1%} of throughput in the median cell, {lost.max():.1%} at worst"
    if lost.max() <= 0:
        cost = f"nothing: it is {-np.median(lost):.1%} faster in the median cell"
    return best, [f"{engine.asked} {_cannot(draft, engine)}; nearest: {other}, which costs {cost}"]


def _cannot(draft: Draft, engine: Engine) -> str:
    """Why the engine cannot draft so; empty where it can."""
    if draft.method not in engine.methods or draft.middle is not None:
        return f"cannot draft with {draft.name}"
    if draft.method == "model" and draft.budget_tokens is not None:
        return f"cannot keep a window of a draft model's cache, as {draft.name} does"
    return ""


def _other_drafts(p: Prediction, draft: Draft, engine: Engine) -> list[str]:
    """The same model over its whole cache, or whatever the engine can run for this target."""
    if draft.method == "model" and draft.shape is not None:
        return [p.resolved.request.draft]
    names = [name for name in engine.methods if name != "model"]
    shapes, _ = small_models(p.resolved.model)
    return [*names, *(shape.name for shape in shapes)]


def _lost(plan: Prediction, other: Prediction) -> Any:
    """Throughput lost against the plan in every cell that holds both."""
    fits = np.logical_and(plan.placement.fits, other.placement.fits)
    shape = fits.shape
    ours = np.broadcast_to(plan.rounds.tokens_per_s.max(axis=-1), shape)
    theirs = np.broadcast_to(other.rounds.tokens_per_s.max(axis=-1), shape)
    return (1 - theirs / ours)[fits] if fits.any() else np.ones(1)


def _vllm(p: Prediction, draft: Draft, engine: Engine) -> Settings:
    """`--speculative-config`: a draft length, by batch size where the version has it."""
    full, lost = schedule(p), losses(p)
    batches = edges(p.resolved.batch[:, 0])
    runs = segments(lost.max(axis=1))
    steps = _merged([[batches[a][0], batches[b][1], gamma] for a, b, gamma, _ in runs])
    loss, notes = max(run[3] for run in runs), []
    if engine.can.context_schedule:
        steps = [[t.batch_lo, t.batch_hi, t.ctx_lo, t.ctx_hi, t.gamma] for t in full]
        loss = max(t.loss for t in full)
    elif p.resolved.ctx.shape[1] > 1:
        notes.append("this version reads no context: each k is the best compromise over contexts")
    if not engine.can.batch_schedule and len(steps) > 1:
        worst = lost.max(axis=(0, 1))
        steps, loss = [[1, batches[-1][1], int(worst.argmin())]], float(worst.min())
        notes.append("this version has one draft length for every batch")
    longest = max(step[-1] for step in steps)
    if longest == 0:
        notes = ["no cell gains from this draft: leave speculation off"]
        return Settings(engine=engine.asked, text="", schedule=full, notes=tuple(notes))
    config = vllm_draft(draft, engine) | {"num_speculative_tokens": longest}
    if len(steps) > 1:
        config["num_speculative_tokens_per_batch_size"] = steps
    notes.insert(0, f"largest loss against the best draft length: {loss:.1%}")
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


def vllm_draft(draft: Draft, engine: Engine) -> dict[str, Any]:
    """The part of vLLM's speculative config that names the draft."""
    config: dict[str, Any] = {"method": engine.methods[draft.method]}
    if draft.method in ("eagle", "eagle3", "medusa"):
        config["model"] = f"PATH_OF_{draft.method}_HEAD"
    if draft.method == "ngram":
        config["prompt_lookup_max"] = 4
    if draft.method == "model" and draft.shape is not None:
        config["model"] = draft.shape.name
    return config


def _sglang(p: Prediction, draft: Draft, engine: Engine) -> Settings:
    """SGLang's flags name one number of steps; newer versions move between a few at run time."""
    full = schedule(p)
    worst = losses(p).max(axis=(0, 1))
    gamma = int(worst.argmin())
    lengths = sorted({t.gamma for t in full if t.gamma} | ({gamma} if gamma else set()))
    if gamma == 0:
        off = "no draft length does better over the whole grid: leave speculation off"
        return Settings(engine=engine.asked, text="", schedule=full, notes=(off,))
    flags = [*sglang_draft(draft, engine), *chain_flags(gamma)]
    notes = [f"one draft length for the whole grid loses up to {worst[gamma]:.1%} against the best"]
    if len(lengths) == 1 or draft.method not in engine.can.adaptive:
        return Settings(
            engine=engine.asked, text=" ".join(flags), schedule=full, notes=tuple(notes)
        )
    flags.append(f"--speculative-adaptive --speculative-adaptive-config {ADAPTIVE_FILE}")
    notes.append(
        "SGLang moves between candidate_steps by the accept length it sees, not by batch and "
        "context: the candidates are those of the schedule"
    )
    return Settings(
        engine=engine.asked,
        text=" ".join(flags),
        schedule=full,
        notes=tuple(notes),
        file_name=ADAPTIVE_FILE,
        file_text=json.dumps({"candidate_steps": lengths}),
    )


def sglang_draft(draft: Draft, engine: Engine) -> list[str]:
    """The flags that name the draft."""
    flags = [f"--speculative-algorithm {engine.methods[draft.method]}"]
    if draft.method in ("eagle", "eagle3"):
        flags.append(f"--speculative-draft-model-path PATH_OF_{draft.method}_HEAD")
    if draft.method == "model" and draft.shape is not None:
        flags.append(f"--speculative-draft-model-path {draft.shape.name}")
    return flags


def chain_flags(gamma: int) -> list[str]:
    """A chain of gamma drafted tokens; SGLang's draft tokens count the root."""
    return [
        f"--speculative-num-steps {gamma} --speculative-eagle-topk 1",
        f"--speculative-num-draft-tokens {gamma + 1}",
    ]
