"""Closed forms of every kind of model, and what they say of the workload."""

from __future__ import annotations

import json
from typing import Any

import pytest

import magicplan as mp
from magicplan.prediction.closed_forms import closed_forms
from magicplan.report.formulas.explain import as_dict
from magicplan.report.pages import page_of
from tests.report.capacity.golden_texts import on_a_terminal


def explained(**options: Any) -> dict[str, Any]:
    document = as_dict(closed_forms(mp.predict(**({"gpu": "h100"} | options))))
    found: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return found


def values(document: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in document["formulas"]}


WALL = "Query tokens where attention turns compute-bound"


def test_a_model_whose_layers_all_have_a_window_has_an_attention_wall() -> None:
    """Four query heads share a KV head of Mistral 7B: 4 FLOP a byte in 16 bits, less
    the token that is written beside the 4,096 of its window that are read."""
    wall = values(explained(model="mistral-7b-v0.1", batch=8, ctx=8192, draft="self"))[WALL]
    assert wall["inputs"]["I_1"] == pytest.approx(4, rel=1e-3)
    assert wall["value"] == pytest.approx(989.4e12 / 3.35e12 / 4, rel=0.01)


def test_a_page_of_closed_forms_draws_each() -> None:
    document = explained(batch=8, ctx=8192, output=1024)
    page = page_of(document, "explain")
    text = on_a_terminal(page, 80)
    for entry in document["formulas"]:
        assert entry["name"] in text
        assert max(map(len, entry["drawn"].splitlines())) <= 76
    assert "Constants of calibration" in text
    assert page.verdict == document["verdict"]["text"]


def test_without_a_draft_the_walls_remain() -> None:
    document = explained(draft="none")
    assert set(values(document)) == {
        "Context where KV bytes equal weight bytes",
        "Query tokens where linear layers turn compute-bound",
        WALL,
    }
    assert "no draft was asked for" in page_of(document, "explain").verdict
