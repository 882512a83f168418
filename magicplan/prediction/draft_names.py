"""The draft of a question: its name looked up, its cache view read, its acceptance found."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from magicplan import model_specs
from magicplan.acceptance_specs.choose import Wanted, choose, choose_both
from magicplan.errors import FieldError, UnknownName
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.acceptance import Acceptance, Iid
from magicplan.roofline.deployment import BYTES_PER_WEIGHT, Array
from magicplan.roofline.drafts import (
    BUDGETS,
    DRAFTS,
    ENGINE_NAMES,
    VIEWS,
    Draft,
    DraftRequest,
    model_draft,
)
from magicplan.roofline.traffic import FULL, KvView

if TYPE_CHECKING:
    from magicplan.prediction.request import Request

MAX_VIEW_TOKENS = 2**30
WITHOUT_MODEL = ("ngram", "ngram-mod", "suffix")
WITHOUT_CACHE = (*WITHOUT_MODEL, "medusa")
LEAST_TOKENS = {
    "snapkv": (32, "the window of last queries that picks and is kept"),
    "topk": (16, "a page"),
}
"""The fewest tokens of a view that can be, and of what."""


def every_budget(text: str) -> tuple[str, ...]:
    """A draft of a plan with every budget worth comparing where its view names none: "self
    streaming" is "self streaming:256" and on."""
    name, _, kind = text.partition(" ")
    if kind not in VIEWS:
        return (text,)
    numbers = (4, 8) if kind == "quant" else BUDGETS
    return tuple(f"{name} {kind}:{number}" for number in numbers)


def parse_view(text: str) -> KvView:
    """`full`, or a kind and its number as in `streaming:512`. Raises UsageError."""
    kind, _, number = text.partition(":")
    if text == "full":
        return FULL
    if kind not in VIEWS or not number.isdigit() or not 1 <= int(number) <= MAX_VIEW_TOKENS:
        shapes = ", ".join(f"{name}:N" for name in VIEWS)
        raise FieldError("draft_kv", f"{text!r}: expected full or one of {shapes}")
    least, of_what = LEAST_TOKENS.get(kind, (1, ""))
    if int(number) < least:
        raise FieldError(
            "draft_kv", f"{text}: {of_what} has {least} tokens; expected {least} or more"
        )
    return VIEWS[kind](float(number))


def draft_of(ask: Request, model: ModelShape) -> Draft | None:
    """The draft that was named, over the view and in the format asked for. Raises UsageError."""
    if ask.draft == "none":
        return None
    name, rest = split_name(ask.draft)
    if name == "auto":
        raise FieldError("draft", "auto: this question takes a draft by name, or none")
    small, _, inner = rest.partition(":")
    if not name.strip():
        raise FieldError(
            "draft", f"is empty; expected auto, none, {', '.join(DRAFTS)} or a smaller model"
        )
    view = parse_view(ask.draft_kv) if ask.draft_kv else None
    _refuse_formats(ask, name, view)
    question = DraftRequest(
        target=model,
        view=view,
        weight_dtype=ask.draft_dtype,
        small=_small(ask, name, small),
        inner_gamma=_inner_gamma(ask, inner),
        own_pool=ask.stack.split("@")[0] == "magicdec",
    )
    _refuse_vocabulary(ask, question)
    return DRAFTS[name].make(question) if name in DRAFTS else model_draft(question)


PADDING = 512
"""Tokens by which vocabularies of one tokenizer may differ: sizes are padded for the hardware."""


def _refuse_vocabulary(ask: Request, question: DraftRequest) -> None:
    """Raises FieldError for a smaller model that knows other tokens than its target."""
    small, target = question.small, question.target
    if small is not None and abs(small.vocab - target.vocab) > PADDING:
        raise FieldError(
            "draft",
            f"{ask.draft}: {small.name} has a vocabulary of {small.vocab} tokens, {target.name} of "
            f"{target.vocab}; expected a draft with its target's tokens",
        )


def split_name(text: str) -> tuple[str, str]:
    """Our name of a draft, whatever an engine or a source calls it, and what follows its colon."""
    name, _, rest = text.partition(":")
    plain = name.strip().lower()
    return ENGINE_NAMES.get(plain, plain if plain in DRAFTS else name), rest


def _refuse_formats(ask: Request, name: str, view: KvView | None) -> None:
    """A KV view or a weight format that the draft cannot have."""
    sinks = 16 if ask.stack.split("@")[0] == "magicdec" else 4
    if view and view.name.startswith("streaming") and (view.budget_tokens or 0) <= sinks:
        raise FieldError(
            "draft_kv", f"{ask.draft_kv}: the budget counts {sinks} sinks; expected more than that"
        )
    if view and name in WITHOUT_CACHE:
        raise FieldError("draft_kv", f"{ask.draft_kv}: drafting by {name} reads no KV cache")
    if ask.draft_dtype is not None and name in WITHOUT_MODEL:
        raise FieldError("draft_dtype", f"{ask.draft_dtype}: drafting by {name} has no weights")
    if ask.draft_dtype is not None and ask.draft_dtype not in BYTES_PER_WEIGHT:
        raise FieldError(
            "draft_dtype", f"{ask.draft_dtype}: expected one of {', '.join(BYTES_PER_WEIGHT)}"
        )


def _inner_gamma(ask: Request, text: str) -> int:
    if text and not (text.isdigit() and 1 <= int(text) <= 16):
        raise FieldError("draft", f"{ask.draft}: expected 1 to 16 inner tokens after the model")
    return int(text or 2)


def _small(ask: Request, name: str, small: str) -> ModelShape | None:
    if name not in DRAFTS:
        try:
            return model_specs.load(ask.draft)
        except UnknownName:
            hint = (
                f"a draft is auto, none, {', '.join(DRAFTS)}, a model or a path to its config.json"
            )
            known = ("auto", "none", *DRAFTS, *model_specs.names())
            raise UnknownName("draft", ask.draft, known, hint) from None
    if small and not (DRAFTS[name].small or DRAFTS[name].takes_small):
        raise FieldError("draft", f"{ask.draft}: {name} takes no smaller model")
    small = small or DRAFTS[name].small
    return model_specs.load(small) if small else None


def acceptance_for(
    text: str, model: ModelShape, draft: Draft, ctx: Array, task: str | None = None
) -> Acceptance:
    """The acceptance model of a draft: as stated, or the nearest published one for `auto`.

    A self-draft that keeps the whole cache accepts everything, and the origin then says so. Raises
    UsageError.
    """
    if text != "auto":
        from magicplan.acceptance_specs.files import parse_acceptance

        found = parse_acceptance(text)
    else:
        found = _published(model, draft, ctx, task)
    if not draft.same_model:
        return found
    same = found.of_self_draft()
    return replace(same, origin=found.origin + _boundary(draft, ctx))


def _published(model: ModelShape, draft: Draft, ctx: Array, task: str | None) -> Acceptance:
    """The nearest published rates; of cache and weights both, where a target drafts for itself
    with narrow weights over a part of its cache."""
    wanted = Wanted(
        method=draft.method,
        target=model.name,
        family=model.family,
        draft=draft.shape.name if draft.shape else "",
        task=task,
        ctx=(float(ctx.min()), float(ctx.max())),
        budget=draft.budget_tokens,
    )
    if draft.method != "quant-weights" or draft.budget_tokens is None:
        return choose(wanted)
    return choose_both(replace(wanted, method=draft.view.name.partition(":")[0]), wanted)


def _boundary(draft: Draft, ctx: Array) -> str:
    """A note for contexts that the draft attends to as its target does, where all is accepted."""
    if draft.budget_tokens is None:
        return ", but 1 here: the draft reads the whole cache of its own model"
    held = float((ctx <= draft.budget_tokens).mean())
    if not held:
        return ""
    where = "here" if held == 1 else f"up to {draft.budget_tokens:.0f} tokens of context"
    return (
        f", but 1 {where}: the budget of {draft.budget_tokens:.0f} tokens holds the whole context"
    )


NOTHING = Iid(alpha=0.0, origin="no draft")


def acceptance_of(ask: Request, model: ModelShape, draft: Draft | None, ctx: Array) -> Acceptance:
    """The acceptance of the draft asked for; nothing is accepted without one."""
    if draft is None:
        return NOTHING
    return acceptance_for(ask.acceptance, model, draft, ctx, ask.task)


def draft_notes(
    ask: Request, model: ModelShape, draft: Draft | None, ctx: Array, output: float
) -> list[str]:
    """What a user may not expect of the draft, and how finished sequences are treated."""
    notes: list[str] = []
    if draft is None:
        return notes
    if draft.shape is not None and draft.shape.parameters > model.parameters:
        notes.append(
            f"warning: the draft {draft.shape.name} is larger than {model.name}, its target"
        )
    if draft.method in DRAFTS and DRAFTS[draft.method].head:
        notes.append(f"{draft.name} needs a head trained for {model.name}")
    if draft.note:
        notes.append(draft.note)
    budget = draft.budget_tokens or math.inf
    if draft.same_model and (ctx < budget).any() and (ctx + output > budget).any():
        notes.append(
            "trees take acceptance at the middle of the output, where it passes the budget"
        )
    if ask.batching == "static":
        notes.append(
            f"static batching: a batch lasts until its slowest sequence has {output:.0f} tokens"
        )
    return notes
