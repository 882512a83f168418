"""Draft heads that are published: for which target, by which method, and how long their context."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ENDINGS = ("instruct", "chat", "hf", "it", "fp8", "nvfp4", "mxfp4", "bf16", "2507")
"""Last words of a checkpoint's name that a head does not care about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A published draft head.

    `id` is its Hugging Face id, `target` the model it was trained for, `method` how it drafts.
    `trained_tokens` is the context it was trained on, `window_tokens` what its draft attends to,
    `block` the positions it drafts at once; 0 where its source does not say.
    """

    id: str
    target: str
    method: str
    source: str
    url: str
    seen: str
    trained_tokens: int = 0
    window_tokens: int = 0
    block: int = 0


@cache
def heads() -> tuple[Head, ...]:
    """Every published head, those whose acceptance was measured first for each target."""
    text = (Path(__file__).parent / "heads.toml").read_text(encoding="utf-8")
    return tuple(Head(**row) for row in tomllib.loads(text)["heads"])


def heads_for(model: str, method: str | None = None) -> tuple[Head, ...]:
    """The heads published for a model, by its preset's name or its Hugging Face id, in the order in
    which they are tried; of one method where it is named. None is an empty tuple."""
    name = plain_name(model)
    return tuple(
        head
        for head in heads()
        if plain_name(head.target) == name and method in (None, head.method)
    )


def head_of(model: str, method: str) -> str:
    """The Hugging Face id of the head that is tried first, or a name to put one's own in for."""
    found = heads_for(model, method)
    return found[0].id if found else f"PATH_OF_{method}_HEAD"


def plain_name(model: str) -> str:
    """A model's name without its owner, its case, and the endings that a head does not care about:
    `Qwen/Qwen3-8B-FP8` is `qwen3-8b`."""
    name = model.strip().lower().replace("_", "-").split("/")[-1]
    while (parts := name.rpartition("-"))[0] and parts[2] in ENDINGS:
        name = parts[0]
    return name.removeprefix("meta-")
