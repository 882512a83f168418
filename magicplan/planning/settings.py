"""A grid of draft lengths as few thresholds, and as settings that engines read.

Every threshold costs an engine a set of captured graphs, so neighbouring cells share a draft length
as long as it loses less than a tolerance. An engine's own option names stand in one place each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from magicplan.errors import UsageError
from magicplan.planning.prediction import Prediction
from magicplan.roofline.deployment import Array
from magicplan.roofline.drafts import Draft

TOLERANCE = 0.02
"""Throughput that sharing a draft length may lose in any cell it covers."""
ENGINES = ("vllm", "sglang")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Threshold:
    """One draft length for a range of batches and contexts, both ends included."""

    batch_lo: int
    batch_hi: int
    ctx_lo: int
    ctx_hi: int
    gamma: int
    loss: float
    """Largest share of throughput lost against the best draft length, over the cells covered."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settings:
    """What to paste, the full schedule, and what the engine could not express."""

    engine: str
    text: str
    schedule: tuple[Threshold, ...]
    notes: tuple[str, ...]


def losses(p: Prediction) -> Array:
    """Throughput lost by every draft length against the best, [batch, ctx, gamma]; 0 where a cell
    does not fit, so that it decides nothing."""
    shape = (*p.placement.fits.shape, p.rounds.gammas.size)
    rate = np.broadcast_to(p.rounds.tokens_per_s, shape)
    lost = 1 - rate / rate.max(axis=-1, keepdims=True)
    return np.where(p.placement.fits[..., None], lost, 0.0)


def segments(lost: Array) -> list[tuple[int, int, int, float]]:
    """Fewest runs of rows [row, gamma] that share a draft length within the tolerance.

    Each is (first row, last row, gamma, loss); a row that nothing serves within the tolerance
    stands alone. Extending greedily is optimal, for a part of a run that works works as well.
    """
    found: list[tuple[int, int, int, float]] = []
    first = 0
    while first < len(lost):
        last, worst = first, lost[first]
        while last + 1 < len(lost) and np.maximum(worst, lost[last + 1]).min() <= TOLERANCE:
            last += 1
            worst = np.maximum(worst, lost[last])
        gamma = int(worst.argmin())
        found.append((first, last, gamma, float(worst[gamma])))
        first = last + 1
    return found


def schedule(p: Prediction) -> tuple[Threshold, ...]:
    """The form that reads batch and context: [batch_lo, batch_hi, ctx_lo, ctx_hi, gamma]."""
    batches, contexts = _edges(p.resolved.batch[:, 0]), _edges(p.resolved.ctx[0])
    lost = losses(p)
    return tuple(
        Threshold(
            batch_lo=batches[first][0],
            batch_hi=batches[last][1],
            ctx_lo=contexts[column][0],
            ctx_hi=contexts[column][1],
            gamma=gamma,
            loss=loss,
        )
        for column in range(lost.shape[1])
        for first, last, gamma, loss in segments(lost[:, column])
    )


def _edges(values: Array) -> list[tuple[int, int]]:
    """Each grid value speaks for itself and what follows up to the next; the first from 1 on."""
    if (np.diff(values) <= 0).any():
        raise UsageError("settings need batches and contexts in rising order")
    starts = [1, *(int(value) for value in values[1:])]
    ends = [*(int(value) - 1 for value in values[1:]), int(values[-1])]
    return list(zip(starts, ends, strict=True))


def settings(p: Prediction, engine: str) -> Settings:
    """Settings of an engine for a grid. Raises UsageError where it cannot run the draft at all."""
    draft = p.resolved.draft
    if engine not in ENGINES:
        raise UsageError(f"--settings {engine}: expected one of {', '.join(ENGINES)}")
    if draft is None:
        raise UsageError("--settings needs a draft; --draft none has nothing to set")
    text, notes = (_vllm if engine == "vllm" else _sglang)(p, draft)
    return Settings(engine=engine, text=text, schedule=schedule(p), notes=tuple(notes))


def _vllm(p: Prediction, draft: Draft) -> tuple[str, list[str]]:
    """`--speculative-config`: a list of inclusive [start, end, k] over batch sizes."""
    batches = _edges(p.resolved.batch[:, 0])
    runs = segments(losses(p).max(axis=1))
    steps: list[list[int]] = []
    for first, last, gamma, _ in runs:
        if steps and steps[-1][2] == gamma:
            steps[-1][1] = batches[last][1]
        else:
            steps.append([batches[first][0], batches[last][1], gamma])
    longest = max(gamma for _, _, gamma, _ in runs)
    if longest == 0:
        return "", ["no cell gains from this draft: leave speculation off"]
    config: dict[str, Any] = _vllm_draft(draft) | {"num_speculative_tokens": longest}
    if len(steps) > 1:
        config["num_speculative_tokens_per_batch_size"] = steps
    notes = [f"largest loss against the best draft length: {max(r[3] for r in runs):.1%}"]
    if p.resolved.ctx.shape[1] > 1:
        notes.append("vLLM reads batch sizes only: each k is the best compromise over contexts")
    if len(steps) > 1:
        notes.append("num_speculative_tokens_per_batch_size is not in older versions")
    return f"--speculative-config '{json.dumps(config)}'", notes


def _vllm_draft(draft: Draft) -> dict[str, Any]:
    if draft.method in ("eagle3", "mtp", "medusa"):
        names: dict[str, Any] = {"method": draft.method}
        return names if draft.method == "mtp" else names | {"model": f"PATH_OF_{draft.method}_HEAD"}
    if draft.method == "ngram":
        return {"method": "ngram", "prompt_lookup_max": 4}
    if draft.method == "model" and draft.shape is not None:
        return {"method": "draft_model", "model": draft.shape.name}
    raise UsageError(_cannot("vLLM", draft))


def _sglang(p: Prediction, draft: Draft) -> tuple[str, list[str]]:
    """One chain for all cells: SGLang's flags name a single number of steps."""
    worst = losses(p).max(axis=(0, 1))
    gamma = int(worst.argmin())
    if gamma == 0:
        return "", ["no draft length does better over the whole grid: leave speculation off"]
    algorithms = {"eagle3": "EAGLE3", "mtp": "EAGLE", "ngram": "NGRAM", "model": "STANDALONE"}
    if draft.method not in algorithms:
        raise UsageError(_cannot("SGLang", draft))
    flags = [f"--speculative-algorithm {algorithms[draft.method]}"]
    if draft.method == "eagle3":
        flags.append("--speculative-draft-model-path PATH_OF_eagle3_HEAD")
    if draft.method == "model" and draft.shape is not None:
        flags.append(f"--speculative-draft-model-path {draft.shape.name}")
    flags.append(f"--speculative-num-steps {gamma} --speculative-eagle-topk 1")
    flags.append(f"--speculative-num-draft-tokens {gamma + 1}")
    return " ".join(flags), [
        f"one draft length for the whole grid loses up to {worst[gamma]:.1%} against the best"
    ]


def _cannot(engine: str, draft: Draft) -> str:
    return (
        f"{engine} cannot draft with {draft.name}; it can with --draft eagle3, mtp, ngram or a "
        "smaller model"
    )
