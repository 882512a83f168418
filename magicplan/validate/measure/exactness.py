"""The gate before any timing: speculative output equals plain decoding, token for token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from magicplan.kernels.backend import Backend
from magicplan.model_specs.shape import ModelShape
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.llama_config import LlamaConfig
from magicplan.validate.decoder.tensor_parallel import ALONE, RankGroup
from magicplan.validate.decoder.transformer import Transformer

SHAPE = ModelShape(
    name="gate", layers=2, hidden=64, q_heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=97,
    max_ctx_tokens=512, norm_parameters=5 * 64,
)  # fmt: skip
LENGTHS = (7, 33, 60)
"""Ragged prompts, one longer than the drafts' window."""
NEW_TOKENS = 40
PLANS = {
    "chain": DraftPlan(parents=(-1, 0, 1, 2, 3), budget=24),
    "tree": DraftPlan(parents=(-1, 0, 0, 1, 1, 2, 3), budget=24),
    "ngram": DraftPlan(kind="ngram", parents=(-1, 0, 1, 2)),
}
BUDGET = 40
"""Tokens of the cache that sparse drafts read in the gate: more than SnapKV observes, less than the
longest prompt."""


def exactness_gate(
    backend: Backend, device: str, seed: int = 0, ranks: RankGroup = ALONE, asked: str = "self"
) -> dict[str, Any]:
    """Greedy decoding of three ragged sequences, with every draft against without; of a model that
    ranks share, against one process too.

    asked: the kind of `DraftPlan` that is going to be timed, which is checked as chain and tree.
    """
    shape = SHAPE if ranks.count == 1 else _divisible(ranks.count)
    with torch.inference_mode():
        config = LlamaConfig(shape=shape)
        alone = Transformer.random(config, device=device, seed=seed)
        shared = Transformer.random(config, device=device, seed=seed, ranks=ranks)
        generator = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(shape.vocab, (n,), generator=generator).tolist() for n in LENGTHS]

        def tokens(plan: DraftPlan | None, model: Transformer = shared) -> list[list[int]]:
            room = max(LENGTHS) + NEW_TOKENS + 8
            # the model drafts for itself on a short ring: some of its tokens are accepted, some not
            small = shared if plan and plan.kind == "model" else None
            decoder = build_decoder(
                model, backend, batch=len(prompts), tokens=room, plan=plan, small=small
            )
            return decoder.generate(prompts, NEW_TOKENS, speculative=plan is not None)

        plain = tokens(None, alone)
        equal = {} if ranks.count == 1 else {f"{ranks.count} ranks": tokens(None) == plain}
        equal |= {name: tokens(plan) == plain for name, plan in _plans(asked).items()}
    return {
        "greedy_equal": all(equal.values()),
        "drafts": equal,
        "sequences": len(prompts),
        "tokens": NEW_TOKENS,
        "dtype": "fp32",
        "backend": backend.name,
    }


def _plans(asked: str) -> dict[str, DraftPlan]:
    """The plans that are always checked, and a chain and a tree of the kind asked for."""
    if asked in {plan.kind for plan in PLANS.values()}:
        return PLANS
    return PLANS | {
        f"{asked} {name}": replace(PLANS[name], kind=asked, budget=BUDGET)
        for name in ("chain", "tree")
    }


def _divisible(ranks: int) -> ModelShape:
    """The gate's shape with heads, widths and a vocabulary that divide over ranks."""
    return replace(
        SHAPE, q_heads=2 * ranks, kv_heads=ranks, hidden=32 * ranks, ffn=48 * ranks,
        vocab=48 * ranks, norm_parameters=5 * 32 * ranks,
    )  # fmt: skip
