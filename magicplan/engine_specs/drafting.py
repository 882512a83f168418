"""Which stacks run a draft, as a chain or as a tree of a given shape."""

from __future__ import annotations

from magicplan.engine_specs.capabilities import ENGINES, cannot, engine_of, tree_kind
from magicplan.roofline.drafts import Draft

WITHOUT_TABLE = {
    "trtllm": ("eagle3", "mtp", "ngram", "model"),
    "magicdec": ("streaming", "snapkv", "model"),
}
"""Methods of stacks that no table of versions speaks of: TensorRT-LLM's documentation
(features/speculative-decoding, 1.x: Draft/Target, EAGLE 3, NGram, MTP), MagicDec's released code
(self-speculation over StreamingLLM and SnapKV caches, and standalone drafts; arXiv 2408.11049)."""


def runs(stack: str, draft: Draft, *, tree: bool = False) -> bool:
    """Whether a stack, `vllm`, `vllm@0.19.0`, can draft so; for a tree, whether it takes one of a
    given shape.

    A stack that is nobody's engine, `ideal` or a calibration of one's own, runs every chain.
    """
    name = stack.partition("@")[0]
    engine = engine_of(stack)
    if tree:
        return engine is not None and tree_kind(stack, draft, wanted=None) == "levels"
    if engine is not None:
        return not cannot(draft, engine)
    methods = WITHOUT_TABLE.get(name)
    return methods is None or (draft.method in methods and draft.middle is None)


def runners(draft: Draft, *, tree: bool = False) -> tuple[str, ...]:
    """The stacks whose newest versions run a draft; for a tree, those that draft trees with it,
    of a given shape or of one they rank themselves."""
    if tree:
        return tuple(name for name in ENGINES if tree_kind(name, draft, wanted=None))
    return tuple(name for name in (*ENGINES, *WITHOUT_TABLE) if runs(name, draft))
