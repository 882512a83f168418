"""The gate before any timing runs the draft that was asked for, and finds a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from magicplan.kernels import load
from magicplan.validate.decoder.build import build_decoder
from magicplan.validate.measure import exactness

ALWAYS = ["chain", "tree", "ngram"]


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        ("self", []),
        ("ngram", []),
        ("snapkv", ["snapkv chain", "snapkv tree"]),
        ("model", ["model chain", "model tree"]),
    ],
)
def test_the_draft_that_was_asked_for_is_checked(asked: str, more: list[str]) -> None:
    found = exactness.exactness_gate(load("torch"), "cpu", asked=asked)
    assert found["drafts"] == dict.fromkeys([*ALWAYS, *more], True)
    assert found["greedy_equal"] is True


@pytest.mark.parametrize("asked", ["snapkv", "model"])
def test_some_of_the_tokens_are_accepted_and_some_are_not(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the gate would not reach the accept path, or not the reject path."""
    accepted: dict[str, float] = {}
    build = build_decoder

    def building(*given: Any, plan: Any, **words: Any) -> Any:
        decoder = build(*given, plan=plan, **words)
        if plan is not None and plan.kind == asked:
            generate = decoder.generate

            def counting(*prompts: Any, **how: Any) -> Any:
                tokens = generate(*prompts, **how)
                counters = decoder.counters
                accepted[str(plan.parents)] = int(counters.accepted.sum()) / int(
                    counters.rounds.sum()
                )
                return tokens

            monkeypatch.setattr(decoder, "generate", counting)
        return decoder

    monkeypatch.setattr(exactness, "build_decoder", building)
    exactness.exactness_gate(load("torch"), "cpu", asked=asked)
    assert len(accepted) == 2
    assert all(0 < mean < 4 for mean in accepted.values())


@pytest.mark.parametrize("asked", ["snapkv", "model"])
def test_a_draft_whose_verification_is_wrong_is_found(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token behind what is accepted is off by one, under the kind asked for alone."""
    build = build_decoder

    def building(*given: Any, plan: Any, **words: Any) -> Any:
        decoder = build(*given, plan=plan, **words)
        if plan is not None and plan.kind == asked:
            verify = decoder.verify_step

            def wrong(proposal: Any) -> Any:
                found = verify(proposal)
                found.token.add_(1).remainder_(exactness.SHAPE.vocab)
                return found

            monkeypatch.setattr(decoder, "verify_step", wrong)
        return decoder

    monkeypatch.setattr(exactness, "build_decoder", building)
    found = exactness.exactness_gate(load("torch"), "cpu", asked=asked)
    assert found["greedy_equal"] is False
    assert {name for name, equal in found["drafts"].items() if not equal} == {
        f"{asked} chain", f"{asked} tree",
    }  # fmt: skip
