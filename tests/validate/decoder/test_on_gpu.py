"""On a GPU: every backend generates the same greedy tokens in fp32, also from a captured graph."""

from __future__ import annotations

import pytest
import torch

from magicplan import kernels
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.transformer import Transformer
from tests.validate.decoder import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SHAPE = {"hidden": 128, "head_dim": 32, "vocab": tiny.VOCAB}
PLANS = [
    DraftPlan.chain(4, budget=36),
    DraftPlan(parents=(-1, 0, 0, 1, 1, 2, 3, 3), budget=36),
    DraftPlan.chain(4, kind="streaming", budget=36),
    DraftPlan.chain(4, kind="snapkv", budget=36),
    DraftPlan.chain(4, kind="ngram"),
]


def model() -> Transformer:
    return Transformer.random(
        tiny.config(**SHAPE), device="cuda", seed=1, attention_scale=2.0, dtype=torch.float32
    )


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.kind}-{len(plan.parents)}")
def test_greedy_speculation_is_greedy_decoding(name: str, plan: DraftPlan) -> None:
    backend, target, prompts = kernels.load(name), model(), tiny.prompts(70, 23, 41)
    rows = [
        build_decoder(target, backend, batch=3, tokens=128, plan=p).generate(
            prompts, 30, speculative=p is not None
        )
        for p in (None, plan)
    ]
    assert rows[0] == rows[1]


def test_a_replayed_round_is_a_round() -> None:
    backend, target, prompts = kernels.load("triton"), model(), tiny.prompts(70, 23)
    found = []
    for replayed in (False, True):
        decoder = build_decoder(target, backend, batch=2, tokens=200, plan=PLANS[0])
        decoder.start(prompts, 60)
        step = decoder.round
        if replayed:
            decoder.round()  # compiles and warms up
            decoder.start(prompts, 60)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                decoder.round()
            decoder.start(prompts, 60)
            step = graph.replay
        for _ in range(20):
            step()
        found.append((decoder.text.lengths.tolist(), decoder.text.tokens[:, :120].tolist()))
    lengths, tokens = zip(*found, strict=True)
    assert lengths[0] == lengths[1]
    for b, length in enumerate(lengths[0]):
        assert tokens[0][b][: length + 1] == tokens[1][b][: length + 1]
