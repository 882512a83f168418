"""Every draft worth trying on a target: methods times KV budgets, and why some are left out."""

from __future__ import annotations

from dataclasses import dataclass

from magicplan import model_specs
from magicplan.acceptance_specs.choose import measured_on
from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.drafts import (
    BUDGETS,
    DRAFTS,
    Draft,
    DraftRequest,
    model_draft,
    streaming,
)
from magicplan.roofline.traffic import FULL

__all__ = ["BUDGETS", "LeftOut", "candidate_drafts", "family_drafts", "small_models"]
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


Named = tuple[str, str | None, str | None]
"""A draft as a question names it: `draft`, `draft_kv`, `draft_dtype`."""
WITHOUT_STATED = ("ngram", "ngram-mod", "suffix")
"""Drafts by looking up text: a rate stated for a drafter that is not named is none of theirs."""


def candidate_drafts(
    target: ModelShape, *, own_pool: bool = False, stated: bool = False
) -> tuple[dict[Named, Draft], list[LeftOut]]:
    """All drafts of the catalogue on this target, in all variants, by what names them; `stated`
    says that the user gave one acceptance for whatever drafts."""
    small, left_out = small_models(target)
    ask = DraftRequest(target=target, own_pool=own_pool, small=small[0] if small else None)
    drafts: dict[Named, Draft] = {
        (shape.name, view.name, None): model_draft(
            DraftRequest(target=target, small=shape, view=view)
        )
        for shape in small
        for view in (FULL, streaming(512))
    }
    for name, way in DRAFTS.items():
        if not comparable(name, target.name):
            reason = f"no rates of {name} on {target.name} were published; name it to compare it"
            left_out.append(LeftOut(method=name, reason=reason))
            continue
        if stated and name in WITHOUT_STATED:
            reason = "the acceptance stated is that of a drafter; name this one to compare it"
            left_out.append(LeftOut(method=name, reason=reason))
            continue
        named = f"{name}:{small[0].name}" if small and (way.small or way.takes_small) else name
        try:
            for variant in way.variants(ask):
                view = variant.view.name if variant.view else None
                drafts[named, view, variant.weight_dtype] = way.make(variant)
        except UsageError as problem:
            left_out.append(LeftOut(method=name, reason=str(problem)))
    return drafts, left_out


def comparable(name: str, target: str) -> bool:
    """Whether a way to draft is worth comparing on a target without being named: rates enough were
    published, or the target's own."""
    return name not in DRAFTS or not DRAFTS[name].thin or measured_on(name, target)


def family_drafts(model: str) -> list[dict[str, str | None]]:
    """One drafter for each way a draft's KV cache grows: constant, hardly (a head keeps one layer
    of many), with the context, not at all."""
    target = model_specs.load(model)
    head = "mtp" if target.mtp_layers else "eagle3"
    found: list[dict[str, str | None]] = [
        {"draft": "self", "draft_kv": "streaming:512"},
        {"draft": head, "draft_kv": None},
    ]
    small, _ = small_models(target)
    if small:
        found.append({"draft": small[0].name, "draft_kv": "full"})
    return [*found, {"draft": "ngram", "draft_kv": None}]


def small_models(target: ModelShape) -> tuple[list[ModelShape], list[LeftOut]]:
    """Presets of the same vocabulary that are at most a third of the target."""
    shapes = [model_specs.load(name) for name in SMALL_MODELS.get(target.vocab, ())]
    small = [shape for shape in shapes if 3 * shape.parameters <= target.parameters]
    if small:
        return small, []
    reason = f"no shipped smaller model shares the {target.vocab}-token vocabulary of {target.name}"
    return [], [LeftOut(method="smaller model", reason=reason)]
