"""Whether a draft can be launched: its stack runs it, and it exists for its target."""

from __future__ import annotations

from dataclasses import dataclass, replace

from magicplan.acceptance_specs.choose import measured_on
from magicplan.acceptance_specs.heads import heads_for
from magicplan.engine_specs.capabilities import tree_kind
from magicplan.engine_specs.drafting import runners, runs
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.drafts import DRAFTS, Draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a draft is to a stack and a target.

    `exists_for_model`: it needs no head, or one was published for this target, whose Hugging Face
    id is `head`. `ranks_trees`: of trees, that the stack drafts its own, whose shape it ranks in
    every round. `measured`: its acceptance was stated, or measured with this very target.
    """

    runs_on_stack: bool
    exists_for_model: bool
    head: str | None
    measured: bool
    ranks_trees: bool = False

    @property
    def launchable(self) -> bool:
        """Whether it can be started here and now."""
        return self.runs_on_stack and self.exists_for_model


def standing(draft: Draft, target: ModelShape, stack: str, *, stated: bool) -> Standing:
    """The standing of a draft in chains; `stated` says that the user gave its acceptance."""
    trained = draft.method in DRAFTS and DRAFTS[draft.method].head
    heads = heads_for(target.name, draft.method) if trained else ()
    return Standing(
        runs_on_stack=runs(stack, draft),
        exists_for_model=bool(heads) or not trained,
        head=heads[0].id if heads else None,
        measured=stated or measured_on(draft.method, target.name),
    )


def as_tree(found: Standing, draft: Draft, stack: str) -> Standing:
    """The standing of trees of the same draft."""
    ranks = tree_kind(stack, draft, wanted=None) == "beam"
    return replace(found, runs_on_stack=runs(stack, draft, tree=True), ranks_trees=ranks)


def who_runs(draft: Draft, *, tree: bool = False) -> str:
    """Which stacks run a draft, as a clause."""
    found = runners(draft, tree=tree)
    return f"{' and '.join(found)} can" if found else "no serving engine known can"
