"""The best draft of every cell, and a new draft as one entry."""

from __future__ import annotations

import pytest

from magicplan.model_specs import load
from magicplan.prediction.adaptive_trees import adaptive_trees
from magicplan.prediction.choice.candidates import candidate_drafts
from magicplan.prediction.choose import choose_everywhere
from magicplan.prediction.compare_drafts import compare
from magicplan.prediction.predict import answered, predict
from magicplan.prediction.request import Request
from magicplan.roofline.drafts import DRAFTS, Draft, DraftRequest, Way, streaming

GRID = {"gpu": "h100", "gpus": 8, "batch": [1, 32], "ctx": [2048, 32768], "acceptance": "0.8"}


def test_a_cell_is_what_drafts_finds_there() -> None:
    found = choose_everywhere(Request(**GRID))  # type: ignore[arg-type]
    assert len(found.cells) == 4
    for cell in found.cells:
        asked = Request(
            gpu="h100", gpus=8, batch=cell.batch, ctx=cell.ctx_tokens, acceptance="0.8"
        )  # fmt: skip
        alone = compare(asked).plans[0]
        assert alone.launchable
        one = answered(asked).best
        assert cell.draft == one.draft
        assert cell.speedup == pytest.approx(one.speedup, rel=1e-12)
        if cell.kind == "none":
            assert alone.speedup <= 1
            continue
        assert (cell.draft, cell.size, cell.depth) == (
            alone.draft,
            alone.tree.size,
            alone.tree.depth,
        )
        assert cell.speedup == pytest.approx(alone.speedup, rel=1e-12)
        assert cell.speedup_low == pytest.approx(alone.speedup_low, rel=1e-12)
        assert cell.kind == alone.kind


def test_not_to_speculate_is_always_a_candidate() -> None:
    # contexts beyond every budget: within one a self-draft accepts everything
    grid = GRID | {"acceptance": "0", "ctx": [8192, 32768]}
    found = choose_everywhere(Request(**grid))  # type: ignore[arg-type]
    for cell in found.cells:
        assert (cell.draft, cell.kind, cell.size, cell.speedup) == ("none", "none", 1, 1.0)


def test_a_cell_that_fits_nowhere_says_so() -> None:
    found = choose_everywhere(Request(gpu="h100", gpus=1, batch=[1, 256], ctx=65536))
    assert [cell.fits for cell in found.cells] == [True, False]
    assert found.cells[1].speedup == 1


def test_static_batches_change_the_choice() -> None:
    grid = {**GRID, "batch": [256], "ctx": [8192], "output": 32, "acceptance": "0.9"}
    refilled = choose_everywhere(Request(**grid)).cells[0]  # type: ignore[arg-type]
    static = choose_everywhere(Request(**grid, batching="static")).cells[0]  # type: ignore[arg-type]
    assert static.speedup < refilled.speedup


def test_a_new_draft_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(ask: DraftRequest) -> Draft:
        """Every fourth layer of the target, over a window of its cache."""
        from dataclasses import replace

        shape = replace(ask.target, name="skipping", layers=ask.target.layers // 4)
        view = ask.view or streaming(1024)
        return Draft(name=f"skip {view.name}", method="skip", shape=shape, view=view)

    entry = Way(make=skipping, views=(streaming(256), streaming(1024)))
    monkeypatch.setitem(DRAFTS, "skip", entry)
    names = {draft.name for draft in candidate_drafts(load("llama-3.1-8b"))[0].values()}
    assert names >= {"skip streaming:256", "skip streaming:1024"}
    p = predict(gpu="h100", draft="skip", batch=32, ctx=32768, acceptance="0.7")
    assert p.best.draft == "skip streaming:1024"
    assert p.best.speedup > 1
    found = compare(Request(gpu="h100", batch=32, ctx=32768, acceptance="0.7"))
    assert "skip streaming:256" in {plan.draft for plan in found.plans}
    tree = adaptive_trees(Request(gpu="h100", draft="skip", ctx=32768, acceptance="0.7"))
    assert tree.points[0].speedup >= 1


def test_two_levels_may_draft_other_lengths_inside() -> None:
    base = {"gpu": "a100", "model": "llama-2-7b-32k", "ctx": 32768, "gamma": 6}
    published = predict(draft="triforce", **base)  # type: ignore[arg-type]
    longer = predict(draft="triforce:llama-68m:4", **base)  # type: ignore[arg-type]
    assert published.resolved.draft.middle.gamma == 2  # type: ignore[union-attr]
    assert longer.resolved.draft.middle.gamma == 4  # type: ignore[union-attr]
    assert any("2.31x" in line for line in published.assumptions)
    seconds = [p.gammas[6].draft_seconds for p in (published, longer)]
    assert seconds[0] != seconds[1]


def test_quantised_and_medusa_drafts_have_sourced_rates() -> None:
    for options in (
        {"draft": "self", "draft_kv": "quant:4"},
        {"draft": "self", "draft_kv": "full", "draft_dtype": "int4"},
        {"draft": "medusa"}, {"draft": "eagle"},
    ):  # fmt: skip
        p = predict(gpu="h100", batch=8, ctx=8192, **options)
        (line,) = (line for line in p.assumptions if line.startswith("acceptance: auto"))
        assert "80 % interval" in line
        assert p.gammas[1].speedup_low < p.gammas[1].speedup


def test_a_larger_draft_is_allowed_and_warned() -> None:
    p = predict(gpu="h100", model="llama-3.2-1b", draft="llama-3.1-8b", acceptance="0.9")
    assert any("larger than llama-3.2-1b" in line for line in p.assumptions)
    assert p.best.gamma == 0
