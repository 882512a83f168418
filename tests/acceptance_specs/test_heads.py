"""Published draft heads by target."""

from __future__ import annotations

import datetime

import pytest

from magicplan.acceptance_specs.entry import methods
from magicplan.acceptance_specs.heads import Head, heads, heads_for, plain_name


@pytest.mark.parametrize("head", heads(), ids=lambda head: head.id)
def test_every_head(head: Head) -> None:
    assert head.id.count("/") == 1
    assert head.method in methods()
    assert head.source
    assert head.url.startswith("https://")
    datetime.date.fromisoformat(head.seen)
    assert head.trained_tokens >= 0


def test_no_head_stands_twice() -> None:
    ids = [head.id for head in heads()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct-FP8"]
)
def test_a_model_is_found_by_any_of_its_names(name: str) -> None:
    found = heads_for(name)
    assert found[0].id == "lmsys/SGLang-EAGLE3-Llama-3.1-8B-Instruct-SpecForge"
    assert {head.method for head in found} == {"eagle3", "dflash"}
    assert {head.method for head in heads_for(name, "dflash")} == {"dflash"}


def test_a_size_is_not_another_size() -> None:
    assert not heads_for("llama-3.1-70b")
    assert plain_name("Qwen/Qwen3-30B-A3B-Instruct-2507") == "qwen3-30b-a3b"
