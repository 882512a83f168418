"""What may be asked of a draft, what is refused and with which words, and what acceptance says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.prediction.draft_names import acceptance_for, parse_view
from magicplan.roofline.drafts import DraftRequest, self_draft, snapkv, streaming
from magicplan.roofline.traffic import FULL
from tests.shapes import LLAMA

LLAMA_8B = model_specs.load("llama-3.1-8b")


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"draft": "eagl3"}, "did you mean eagle3"),
        ({"draft": "n-gram"}, "did you mean ngram"),
        ({"draft": "llama-3.2-1"}, "llama-3.2-1b"),
        ({"draft": ""}, "draft is empty"),
        ({"draft": " "}, "draft is empty"),
        ({"draft": ":llama-68m"}, "draft is empty"),
        ({"draft": "self", "acceptance": "rank:"}, "expected rank:FILE"),
        ({"draft": "self", "acceptance": "file: "}, "expected file:FILE"),
        ({"draft": "self", "draft_kv": "snapkv:10"}, "expected 32 or more"),
        ({"draft": "self", "draft_kv": "topk:1"}, "expected 16 or more"),
        ({"draft": "ngram", "draft_kv": "full"}, "reads no KV"),
        ({"draft": "ngram", "draft_kv": "quant:4"}, "reads no KV"),
        ({"draft": "medusa", "draft_kv": "quant:4"}, "reads no KV"),
        ({"draft": "ngram", "draft_dtype": "int4"}, "has no weights"),
    ],
)
def test_refused_in_one_sentence(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError) as problem:
        mp.predict(gpu="h100", **options)
    assert wrong in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("view", ["snapkv:32", "topk:16"])
def test_the_smallest_budgets_that_can_be(view: str) -> None:
    assert parse_view(view).budget_tokens == float(view.partition(":")[2])


def test_narrow_weights_read_the_whole_cache_unless_a_view_is_asked_for() -> None:
    assert self_draft(DraftRequest(target=LLAMA, weight_dtype="int4")).view is FULL
    assert self_draft(DraftRequest(target=LLAMA)).view.budget_tokens == 512
    held = self_draft(DraftRequest(target=LLAMA, weight_dtype="int4", view=snapkv(1024)))
    assert held.view.budget_tokens == 1024


def test_narrow_weights_over_a_window_are_accepted_less_than_either() -> None:
    ctx = np.array([[32768.0]])

    def found(weights: str | None, window: bool) -> float:
        view = streaming(512) if window else FULL
        draft = self_draft(DraftRequest(target=LLAMA_8B, weight_dtype=weights, view=view))
        model = acceptance_for("auto", LLAMA_8B, draft, ctx)
        return float(model.survival(1, ctx, draft.budget_tokens).ravel()[0])

    assert found("int4", True) == pytest.approx(found(None, True) * found("int4", False))
    assert found(None, True) == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize("acceptance", ["0.8", "auto"])
@pytest.mark.parametrize(
    ("contexts", "said"),
    [
        ([400.0], "1 here: the budget of 512 tokens holds the whole context"),
        ([400.0, 8192.0], "1 up to 512 tokens of context"),
        ([8192.0], None),
    ],
)
def test_the_boundary_is_said(acceptance: str, contexts: list[float], said: str | None) -> None:
    draft = self_draft(DraftRequest(target=LLAMA_8B, view=streaming(512)))
    model = acceptance_for(acceptance, LLAMA_8B, draft, np.array([contexts]))
    if said:
        assert said in model.origin
    else:
        assert "whole context" not in model.origin
    rates = model.survival(1, np.array(contexts), 512.0).ravel()
    assert ((rates == 1) == (np.array(contexts) <= 512)).all()
