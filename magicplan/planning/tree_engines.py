"""Which engines run trees of which drafts, and how they expand them."""

from __future__ import annotations

from magicplan.errors import UsageError
from magicplan.planning.engine_table import Engine, load
from magicplan.planning.settings import ENGINES, cannot
from magicplan.planning.tree_rounds import TreeKind
from magicplan.roofline.drafts import Draft

KINDS: dict[str, TreeKind] = {"dynamic_tree": "beam", "token_tree": "levels"}
"""Capabilities in `engines/*.toml`: a size that the engine fills itself, or a topology given."""


def engine_of(stack: str) -> Engine | None:
    """The engine of a stack's name and version; None where no table speaks of it."""
    if stack.partition("@")[0] not in ENGINES:
        return None
    try:
        return load(stack)
    except UsageError:  # calibrated, but older than the table
        return None


def tree_kind(stack: str, draft: Draft | None, wanted: bool | None) -> TreeKind:
    """How the engine of a stack expands trees of a draft; "" where it runs none, or none are
    `wanted`. A stack without an engine's table expands whole levels, where trees are asked for."""
    if draft is None or not draft.grows_trees or wanted is False:
        return ""
    engine = engine_of(stack)
    if engine is None:
        return "levels" if wanted else ""
    if cannot(draft, engine):
        return ""
    return next((kind for what, kind in KINDS.items() if engine.has(what, draft.method)), "")


def refuse_trees(stack: str) -> None:
    """Raises UsageError for an engine that runs no tree of any draft."""
    engine = engine_of(stack)
    if engine and not any(engine.has(what, name) for what in KINDS for name in engine.methods):
        elsewhere = engine.lacks("token_tree", "eagle3")
        raise UsageError(f"trees true: {stack} runs no tree{elsewhere}; stack sglang does")


def running_trees(draft: Draft) -> tuple[str, ...]:
    """The engines, by their newest version, that run trees of a draft."""
    return tuple(name for name in ENGINES if tree_kind(name, draft, wanted=None))
