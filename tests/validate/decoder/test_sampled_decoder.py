"""The whole decoder samples the target's joint law, with every draft: a chi-square test.

Exact laws are proven in `test_sampled_laws`; this sees whether the decoder feeds the rules right:
drafts with the laws they were drawn from, fresh noise every round, paths in order.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from magicplan.kernels.backend import Accepted, Noise
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.drafts import Proposal, Text
from magicplan.validate.decoder.kv_cache import KVCache
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.transformer import Block
from tests.validate.decoder import tiny

VOCAB, NEW, BATCH = 3, 3, 500
SHAPE = {"vocab": VOCAB, "layers": 1, "kv_heads": 1, "q_heads": 2}
MODEL = tiny.model(seed=5, **SHAPE)
OTHER = tiny.model(seed=6, **SHAPE)
SAMPLING = Sampling(temperature=0.8, top_p=0.95, seed=11)
PROMPT = [0, 1, 2, 1, 0, 2, 2, 1, 0, 1] * 4
"""Longer than the budgets below, and of a kind that an n-gram finds itself in."""
PLANS = {
    "self": DraftPlan.chain(2, budget=6),
    "model": DraftPlan.chain(3, kind="model", budget=6),
    "ngram": DraftPlan.chain(2, kind="ngram"),
    "tree": DraftPlan(parents=(-1, 0, 0, 1, 1, 2), budget=6),
    "snapkv": DraftPlan.chain(2, kind="snapkv", budget=33),
    "triforce": DraftPlan.chain(3, kind="triforce", budget=6, inner_gamma=1, inner_rounds=2),
}


def exact() -> dict[tuple[int, ...], float]:
    """The joint law of the next tokens, from plain passes."""
    law = {}
    for text in itertools.product(range(VOCAB), repeat=NEW):
        tokens = torch.tensor([[*PROMPT, *text]])
        cache = KVCache.full(
            MODEL.shard, 1, tokens.shape[1], device=MODEL.device, dtype=MODEL.dtype
        )
        depths = torch.arange(tokens.shape[1], dtype=torch.int32)
        block = Block(lengths=torch.zeros(1, dtype=torch.int32), depths=depths)
        logits = MODEL.forward(tokens, cache, block, tiny.backend())[0]
        p = SAMPLING.law(logits).softmax(-1)[len(PROMPT) - 1 : -1]
        law[text] = float(p[range(NEW), text].prod())
    return law


LAW = exact()


def p_value(rows: list[list[int]]) -> float:
    """Of a chi-square test of the rows' joint law; rare cells are one."""
    counts = Counter(tuple(row) for row in rows)
    assert all(LAW[text] > 0 for text in counts), "an excluded token was drawn"
    statistic, cells, rare, seen_rare = 0.0, 0, 0.0, 0
    for text, probability in LAW.items():
        expected = probability * len(rows)
        if expected < 5:
            rare, seen_rare = rare + expected, seen_rare + counts[text]
            continue
        statistic += (counts[text] - expected) ** 2 / expected
        cells += 1
    if rare > 0:
        statistic += (seen_rare - rare) ** 2 / max(rare, 1)
        cells += 1
    return float(chi2.sf(statistic, cells - 1))


def sampled(plan: DraftPlan | None) -> Decoder:
    return build_decoder(
        MODEL, tiny.backend(), batch=BATCH, tokens=64, plan=plan, small=OTHER, sampling=SAMPLING
    )


@pytest.mark.parametrize("name", ["plain", *PLANS])
def test_the_decoder_draws_from_the_target_s_joint_law(name: str) -> None:
    plan = PLANS.get(name)
    rows = sampled(plan).generate([PROMPT] * BATCH, NEW, speculative=plan is not None)
    assert p_value(rows) > 1e-3


def test_noise_that_does_not_advance_is_seen() -> None:
    """A control: the same decoder with one step's noise for all of them."""
    broken = sampled(None)
    commit = broken.commit

    def forgetful(path: Tensor, accepted: Accepted, *, drafted: int) -> None:
        commit(path, accepted, drafted=drafted)
        broken.noise.step.zero_()

    broken.commit = forgetful  # type: ignore[method-assign]
    rows = broken.generate([PROMPT] * BATCH, NEW, speculative=False)
    assert p_value(rows) < 1e-6


def test_a_draft_s_wrong_law_is_seen() -> None:
    """A control: drafts said to come from another law than they did."""
    broken = sampled(PLANS["model"])
    assert broken.draft is not None
    propose = broken.draft.propose

    def misstated(text: Text, noise: Noise) -> Proposal:
        right = propose(text, noise)
        assert right.law is not None
        return Proposal(tokens=right.tokens, law=torch.zeros_like(right.law))

    broken.draft.propose = misstated  # type: ignore[method-assign]
    assert p_value(broken.generate([PROMPT] * BATCH, NEW)) < 1e-6
