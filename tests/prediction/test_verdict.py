"""Verdicts follow intervals: all above 1 is yes, all below is no, one that holds 1 is undecided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import magicplan as mp
from magicplan.prediction.verdict import (
    at_words,
    better_elsewhere,
    drafts_verdict,
    grid_verdict,
    judged,
    most_sentence,
    workload_verdict,
)

SPEEDUPS = st.floats(0.1, 10.0)


@dataclass(frozen=True)
class ARound:
    draft: str
    gamma: int
    speedup: float
    speedup_low: float
    speedup_high: float
    tokens_per_s: float = 1234.0


@dataclass(frozen=True)
class APlan(ARound):
    head: str | None = None
    size: int | None = None
    runners: str = "sglang can"


def test_what_another_stack_brings_is_said_where_it_is_more() -> None:
    tree = APlan("eagle3", 4, 2.0, 1.5, 3.0, head="me/head", size=24)
    said = better_elsewhere(tree, APlan("eagle3", 3, 1.5, 1.2, 2.0), "vllm")
    assert said == (
        "Better with another stack: eagle3 (me/head), a tree of 24 nodes, would give 2.00x (1.50 "
        "to 3.00); vllm cannot run it, sglang can."
    )
    assert better_elsewhere(tree, APlan("ngram", 3, 2.5, 1.2, 3.0), "vllm") == ""
    assert better_elsewhere(APlan("self", 3, 0.9, 0.8, 1.0), None, "vllm") == ""


PLAIN = ARound("none", 0, 1.0, 1.0, 1.0)


@given(SPEEDUPS, SPEEDUPS)
def test_a_word_for_every_interval(one: float, other: float) -> None:
    low, high = sorted((one, other))
    word = judged(low, high)
    assert (word == "yes") == (low > 1)
    assert (word == "no") == (high < 1)
    assert (word == "undecided") == (low <= 1 <= high)


@pytest.mark.parametrize(
    ("drafted", "speculate", "text"),
    [
        (
            ARound("eagle3", 4, 2.0, 1.5, 2.5), "yes",
            "Decoding is memory-bound on the KV cache; speculate with eagle3, 4 drafted tokens: "
            "2.00x (1.50 to 2.50), 1.23k tokens/s.",
        ),
        (
            ARound("ngram", 1, 1.1, 0.9, 1.4), "undecided",
            "Decoding is memory-bound on the KV cache; whether to speculate is not decided: ngram, "
            "1 drafted token, gives 1.10x (0.90 to 1.40), 1.23k tokens/s, and the interval holds "
            "1, so measure first.",
        ),
        (
            ARound("self", 3, 0.9, 0.8, 0.95), "no",
            "Decoding is memory-bound on the KV cache; do not speculate: the best draft, self, 3 "
            "drafted tokens, gives 0.90x (0.80 to 0.95).",
        ),
    ],
)  # fmt: skip
def test_the_verdict_on_a_workload(drafted: ARound, speculate: str, text: str) -> None:
    for best in (drafted, PLAIN):  # forced, or the best of those that lose
        found = workload_verdict("kv", best, (PLAIN, drafted))
        assert (found.speculate, found.text) == (speculate, text)
        runs = (drafted.draft, drafted.gamma) if speculate != "no" else ("none", 0)
        assert (found.draft, found.gamma) == runs


def test_a_forced_round_is_judged_itself() -> None:
    forced = ARound("self", 5, 0.7, 0.6, 0.8)
    rival = ARound("self", 1, 1.5, 1.4, 1.6)
    assert workload_verdict("weights", forced, (PLAIN, rival, forced)).speculate == "no"


def test_without_a_draft_nothing_is_compared() -> None:
    found = workload_verdict("weights", PLAIN, (PLAIN,))
    assert (found.speculate, found.draft, found.gamma) == ("no", "none", 0)
    assert "no draft was asked for" in found.text


@dataclass(frozen=True)
class ARow:
    """A draft length over a grid."""

    draft: object
    gamma: object
    speedup: object
    speedup_low: object
    speedup_high: object
    tokens_per_s: object = 1.0


def test_every_cell_of_a_grid_has_its_own_verdict() -> None:
    gain = np.array([[2.0, 1.1], [0.5, np.nan]])
    drafted = ARow("self", 3, gain, gain - 0.2, gain + 0.2)
    best = ARow("self", np.array([[3, 3], [0, 0]]), np.maximum(gain, 1.0), gain - 0.2, gain + 0.2)
    fits = np.array([[True, True], [True, False]])
    batch, ctx = np.array([[1, 1], [8, 8]]), np.array([[4096, 8192], [4096, 8192]])
    found = grid_verdict("on x", (fits, batch, ctx), best, (ARow("none", 0, 1, 1, 1), drafted))
    assert found.speculate == [["yes", "undecided"], ["no", None]]
    assert found.draft == [["self", "self"], ["none", None]]
    assert found.gamma == [[3, 3], [0, None]]
    assert found.text == (
        "Speculation brings up to 2.00x on x, at batch 1 and context 4k; of 3 cells it pays in 1, "
        "loses in 1 and is not decided in 1."
    )
    nowhere = grid_verdict("on x", (np.zeros((2, 2), bool), batch, ctx), best, (drafted,))
    assert nowhere.text == "The workload fits nowhere on x."
    assert nowhere.speculate == [[None, None], [None, None]]


def test_a_grid_and_its_cells_say_the_same() -> None:
    batches, contexts = [1, 64], [4096, 65536]
    grid = mp.predict(gpu="h100", batch=batches, ctx=contexts).verdict
    for row, batch in enumerate(batches):
        for column, ctx in enumerate(contexts):
            one = mp.predict(gpu="h100", gpus=1, batch=batch, ctx=ctx).verdict if batch == 1 else (
                mp.predict(gpu="h100", batch=batch, ctx=ctx).verdict
            )  # fmt: skip
            assert grid.speculate[row][column] == one.speculate
            assert grid.draft[row][column] == one.draft
            assert grid.gamma[row][column] == one.gamma


def test_the_verdict_on_all_drafts() -> None:
    best = APlan("eagle3", 4, 2.0, 1.5, 3.0)
    found = drafts_verdict(best, at_words("vllm", 4096))
    assert found.text == (
        "Speculate with eagle3, 4 drafted tokens, on vllm at 4k tokens of context: 2.00x (1.50 to "
        "3.00)."
    )
    assert drafts_verdict(None).speculate == "no"
    lost = drafts_verdict(APlan("eagle3", 4, 0.8, 0.7, 0.9))
    assert (lost.speculate, lost.draft, lost.gamma) == ("no", "none", 0)


def test_the_most_of_a_grid() -> None:
    gains = [(1.5, 1, 4096, "a"), (2.0, 8, 65536, "b")]
    assert most_sentence("Trees bring", gains, fits=True) == (
        "Trees bring up to 2.00x, at batch 8 and context 64k: b."
    )
    assert most_sentence("Trees bring", [], fits=True).startswith("Do not speculate")
    assert most_sentence("Trees bring", [], fits=False).startswith("The workload fits nowhere")
