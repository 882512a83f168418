"""Schedules of few thresholds, and engine settings that parse back to the plan."""

from __future__ import annotations

import itertools
import json
import shlex
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.errors import UsageError
from magicplan.planning.prediction import Prediction
from magicplan.planning.settings import TOLERANCE, losses, schedule, segments, settings


def grid(draft: str = "llama-3.2-1b", **options: Any) -> Prediction:
    base: dict[str, Any] = {
        "gpu": "h100", "gpus": 8, "stack": "ideal", "draft": draft, "acceptance": "0.7",
        "batch": [1, 4, 16, 64, 256], "ctx": [2048, 16384],
    }  # fmt: skip
    return mp.predict(**(base | options))


def test_segments_are_few_and_lose_little() -> None:
    lost = np.array([[0.0, 0.01], [0.01, 0.0], [0.5, 0.0], [0.0, 0.5], [0.3, 0.4]])
    assert segments(lost) == [(0, 2, 1, 0.01), (3, 3, 0, 0.0), (4, 4, 0, 0.3)]


def test_the_schedule_covers_every_cell_once_within_its_loss() -> None:
    p = grid()
    found = schedule(p)
    lost = losses(p)
    for row, batch in enumerate([1, 4, 16, 64, 256]):
        for column, ctx in enumerate([2048, 16384]):
            here = [
                t for t in found
                if t.batch_lo <= batch <= t.batch_hi and t.ctx_lo <= ctx <= t.ctx_hi
            ]  # fmt: skip
            assert len(here) == 1
            assert lost[row, column, here[0].gamma] <= max(here[0].loss, TOLERANCE) + 1e-12
    assert found[0].batch_lo == 1
    assert max(t.batch_hi for t in found) == 256


def test_vllm_settings_parse_back() -> None:
    found = settings(grid(ctx=[2048]), "vllm")
    words = shlex.split(found.text)
    assert words[0] == "--speculative-config"
    config = json.loads(words[1])
    assert config["method"] == "draft_model"
    steps = config["num_speculative_tokens_per_batch_size"]
    assert config["num_speculative_tokens"] == max(k for _, _, k in steps)
    assert steps[0][0] == 1
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(steps))
    assert [[t.batch_lo, t.batch_hi, t.gamma] for t in found.schedule] == steps


def test_sglang_settings_count_the_root() -> None:
    text = settings(grid("eagle3", batch=[1, 4]), "sglang").text
    words = shlex.split(text)
    steps = int(words[words.index("--speculative-num-steps") + 1])
    assert int(words[words.index("--speculative-num-draft-tokens") + 1]) == steps + 1
    assert words[words.index("--speculative-algorithm") + 1] == "EAGLE3"


def test_a_draft_that_never_pays_is_left_off() -> None:
    for engine in ("vllm", "sglang"):
        found = settings(grid(acceptance="0"), engine)
        assert found.text == ""
        assert "off" in found.notes[0]


@pytest.mark.parametrize(
    ("draft", "engine", "wrong"),
    [("self", "vllm", "cannot draft"), ("self", "sglang", "cannot draft"),
     ("none", "vllm", "needs a"), ("eagle3", "tgi", "expected one of")],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_said(draft: str, engine: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        settings(grid(draft, acceptance="0.9"), engine)


def test_batches_must_rise() -> None:
    with pytest.raises(UsageError, match="rising order"):
        settings(grid(batch=[4, 1]), "vllm")
