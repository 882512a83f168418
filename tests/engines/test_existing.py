"""Settings of drafts that exist for a model."""

from __future__ import annotations

import pytest

from magicplan import model_specs
from magicplan.engine_specs.capabilities import load
from magicplan.engines.existing import best_existing, schedule_settings
from magicplan.engines.settings import drafted
from magicplan.errors import UsageError
from magicplan.prediction.choice.contenders import launchable_drafts
from magicplan.prediction.request import Request


def ask(model: str, **more: object) -> Request:
    fields = {"gpu": "h100", "batch": [1, 8], "ctx": [2048], "stack": "vllm", "draft": "auto"}
    return Request(model=model, **(fields | more))  # type: ignore[arg-type]


def test_only_what_needs_no_training_can_be_launched() -> None:
    def launchable(model: str, stack: str = "vllm") -> tuple[str, ...]:
        return launchable_drafts(model_specs.load(model), stack)

    assert launchable("llama-3.1-8b") == ("eagle3", "ngram", "llama-3.2-1b")
    assert launchable("qwen2.5-7b") == ("ngram", "qwen2.5-0.5b")
    assert launchable("deepseek-v3")[0] == "mtp"
    assert "self streaming:512" in launchable("llama-3.1-8b", "magicdec")


def test_the_best_of_them_is_taken_or_the_one_that_is_named() -> None:
    best = best_existing(ask("llama-3.1-8b", task="chat"), load("vllm"))
    assert drafted(best.resolved).name == "eagle3"
    named = best_existing(ask("llama-3.1-8b", draft="ngram"), load("vllm"))
    assert drafted(named.resolved).name == "ngram"


def test_settings_name_the_head_and_say_why_it_is_off() -> None:
    """Its acceptance has faded at 64k tokens, so that nothing is drafted there."""
    request = ask("qwen3-8b", draft="eagle3", ctx=[2048, 65536], acceptance="auto")
    found = schedule_settings(request, "vllm")
    assert found.notes[0].startswith("eagle3: RedHatAI/Qwen3-8B-speculator.eagle3")
    off = [note for note in found.notes if note.startswith("off at")]
    assert off
    assert all("64k: little is accepted" in note for note in off)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError):
        schedule_settings(ask("qwen3-8b"), "ideal")
