"""Drafts ranked on one workload, and trees that follow batch and context."""

from __future__ import annotations

import numpy as np
import pytest

from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import adaptive_trees
from magicplan.prediction.compare_drafts import compare
from magicplan.prediction.predict import predict
from magicplan.prediction.request import Request

SEQUOIA_LIKE = "0.63"


def test_plans_come_best_first_and_say_what_was_left_out() -> None:
    found = compare(Request(gpu="h100", batch=32, ctx=32768))
    first = [plan.launchable for plan in found.plans]
    assert first == sorted(first, reverse=True)
    assert {True, False} <= set(first)
    for group in (
        [plan for plan in found.plans if not plan.launchable],
        [p for p in found.plans if p.launchable and not (p.measured and p.speedup > 1)],
        [p for p in found.plans if p.launchable and p.measured and p.speedup > 1],
    ):
        speedups = [plan.speedup for plan in group]
        assert speedups == sorted(speedups, reverse=True)
    assert {plan.kv_growth for plan in found.plans} >= {"constant", "none"}
    reasons = {entry.method: entry.reason for entry in found.left_out}
    assert "multi-token-prediction" in reasons["mtp"]
    methods = {plan.draft.split()[0] for plan in found.plans}
    assert methods >= {"self", "eagle", "eagle3", "medusa", "ngram", "triforce", "llama-3.2-1b"}
    views = {plan.draft for plan in found.plans}
    assert views >= {"self quant:4", "self full int4 weights", "self topk:1024", "self snapkv:2048"}
    for plan in found.plans:
        assert plan.speedup_low <= plan.speedup <= plan.speedup_high
        assert plan.tokens_per_round <= plan.tree.size


def test_a_chain_is_what_predict_finds() -> None:
    options = {"gpu": "h100", "batch": 32, "ctx": 32768, "gpus": 4, "acceptance": "0.8"}
    found = compare(Request(**options), max_size=8)  # type: ignore[arg-type]
    chain = next(p for p in found.plans if p.draft == "self streaming:512" and p.kind == "chain")
    alone = predict(**options, draft="self")  # type: ignore[arg-type]
    assert chain.tree.size - 1 == alone.best.gamma
    assert chain.speedup == pytest.approx(alone.best.speedup, rel=1e-12)


def test_a_tree_beats_its_chain_or_is_not_listed() -> None:
    found = compare(Request(gpu="a100", batch=8, ctx=16384, acceptance=SEQUOIA_LIKE))
    chains = {p.draft: p.speedup for p in found.plans if p.kind == "chain"}
    trees = [p for p in found.plans if p.kind == "tree"]
    assert trees
    for plan in trees:
        assert plan.speedup > chains[plan.draft]


def test_nothing_pays_where_nothing_is_accepted() -> None:
    found = compare(Request(gpu="h100", batch=8, ctx=8192, acceptance="0"))
    assert all(plan.speedup <= 1 for plan in found.plans)
    assert all(plan.kind == "chain" for plan in found.plans)


def test_a_draft_that_does_not_fit_says_what_batch_would() -> None:
    found = compare(Request(gpu="a100", gpus=1, batch=90, ctx=4096))
    assert any("hold a batch of" in entry.reason for entry in found.left_out)


def test_adaptive_trees_as_the_roofline_has_them() -> None:
    # H200-class ideal roofline, 1B draft with a 512-token window: at batch 8 and more the tree
    # grows with context, and at batch 256 and 1k there is hardly any
    plan = adaptive_trees(
        Request(
            gpu="h200", gpus=64, batch=[1, 8, 64, 256], ctx=[1024, 4096, 16384, 65536, 131072],
            draft="llama-3.2-1b", draft_kv="streaming:512", acceptance=SEQUOIA_LIKE, stack="ideal",
        ),
        max_size=256,
    )  # fmt: skip
    sizes = {(p.batch, p.ctx_tokens): p.size for p in plan.points}
    for batch in (8, 64, 256):
        row = [sizes[(batch, ctx)] for ctx in (1024, 4096, 16384, 65536, 131072)]
        assert row == sorted(row)
    assert sizes[(256, 1024)] <= 3
    assert sizes[(256, 131072)] > 10
    for point in plan.points:
        assert point.speedup >= 1
        assert point.speedup >= point.chain_speedup * 0.999
        assert np.sum(point.weights) == pytest.approx(point.tokens_per_round)


def test_at_batch_one_and_long_context_the_tree_stops_at_the_attention_wall() -> None:
    # ridge 206 over group 4 is 51 query tokens: verification is free up to there
    plan = adaptive_trees(
        Request(
            gpu="h200", gpus=8, tp=1, batch=1, ctx=131072, draft="llama-3.2-1b",
            draft_kv="streaming:512", acceptance=SEQUOIA_LIKE, stack="ideal",
        ),
        max_size=256,
    )  # fmt: skip
    assert 40 <= plan.points[0].size <= 56


@pytest.mark.parametrize(
    ("draft", "model"),
    [("none", "llama-3.1-8b"), ("ngram", "llama-3.1-8b"), ("triforce", "llama-2-7b")],
)
def test_drafts_that_have_no_trees(draft: str, model: str) -> None:
    with pytest.raises(UsageError, match="cannot draft a tree"):
        adaptive_trees(Request(gpu="a100", model=model, draft=draft, acceptance="0.8"))


def test_a_grid_is_not_compared() -> None:
    with pytest.raises(UsageError, match="one workload"):
        compare(Request(gpu="a100", batch=[1, 2]))
