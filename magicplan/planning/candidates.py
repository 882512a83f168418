"""Every draft worth trying on a target: methods times KV budgets, and why some are left out."""

from __future__ import annotations

from dataclasses import dataclass

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.drafts import (
    DRAFTS,
    Draft,
    DraftRequest,
    model_draft,
    quantised,
    quest,
    self_draft,
    snapkv,
    streaming,
)
from magicplan.roofline.traffic import FULL

BUDGETS = (256, 512, 1024, 2048, 4096)
SMALL_MODELS = {
    # a draft must share its target's vocabulary; by vocabulary size of the family
    128256: ("llama-3.2-1b", "llama-3.2-3b"),
    32000: ("llama-68m", "tinyllama-1.1b"),
    151936: ("qwen3-0.6b", "qwen3-1.7b"),
    152064: ("qwen2.5-0.5b", "qwen2.5-1.5b"),
}
"""Qwen2.5's larger models pad the vocabulary of the smaller ones, which otherwise agrees."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeftOut:
    """A method that does not apply, and the reason."""

    method: str
    reason: str


def candidate_drafts(
    target: ModelShape, *, own_pool: bool = False, budgets: tuple[int, ...] = BUDGETS
) -> tuple[list[Draft], list[LeftOut]]:
    """All drafts of the catalogue on this target."""
    ask = DraftRequest(target=target, own_pool=own_pool)
    views = [kind(float(b)) for kind in (streaming, snapkv, quest) for b in budgets]
    drafts = [
        self_draft(DraftRequest(target=target, view=view, own_pool=own_pool))
        for view in (*views, quantised(4))
    ]
    drafts.append(self_draft(DraftRequest(target=target, view=FULL, weight_dtype="int4")))
    small, left_out = _small_models(target)
    for shape in small:
        for view in (FULL, streaming(512)):
            drafts.append(model_draft(DraftRequest(target=target, small=shape, view=view)))
    for name in ("eagle3", "mtp", "medusa", "ngram"):
        try:
            drafts.append(DRAFTS[name](ask))
        except UsageError as problem:
            left_out.append(LeftOut(method=name, reason=str(problem)))
    if small:
        request = DraftRequest(target=target, small=small[0])
        drafts.append(DRAFTS["triforce"](request))
    return drafts, left_out


def family_drafts(model: str) -> list[dict[str, str | None]]:
    """One drafter for each way a draft's KV cache grows: constant, with the context, not at all."""
    found: list[dict[str, str | None]] = [{"draft": "self", "draft_kv": "streaming:512"}]
    small, _ = _small_models(model_specs.load(model))
    if small:
        found.append({"draft": small[0].name, "draft_kv": "full"})
    return [*found, {"draft": "ngram", "draft_kv": None}]


def _small_models(target: ModelShape) -> tuple[list[ModelShape], list[LeftOut]]:
    """Presets of the same vocabulary that are at most a third of the target."""
    shapes = [model_specs.load(name) for name in SMALL_MODELS.get(target.vocab, ())]
    small = [shape for shape in shapes if 3 * shape.parameters <= target.parameters]
    if small:
        return small, []
    reason = f"no shipped smaller model shares the {target.vocab}-token vocabulary of {target.name}"
    return [], [LeftOut(method="smaller model", reason=reason)]
