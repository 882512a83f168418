"""Schedules of few thresholds, and engine settings that parse back to the plan."""

from __future__ import annotations

import ast
import datetime
import itertools
import json
import shlex
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.errors import UsageError
from magicplan.planning.adaptive import TreePlan, adaptive_trees
from magicplan.planning.engine_table import engines, load, versions
from magicplan.planning.prediction import Prediction
from magicplan.planning.request import Request
from magicplan.planning.settings import TOLERANCE, losses, schedule, segments, settings
from magicplan.planning.tree_settings import tree_settings
from magicplan.roofline.trees import Tree


def grid(draft: str = "llama-3.2-1b", **options: Any) -> Prediction:
    base: dict[str, Any] = {
        "gpu": "h100", "gpus": 8, "stack": "ideal", "draft": draft, "acceptance": "0.7",
        "batch": [1, 4, 16, 64, 256], "ctx": [2048, 16384],
    }  # fmt: skip
    return mp.predict(**(base | options))


def vllm_config(text: str) -> dict[str, Any]:
    words = shlex.split(text)
    assert words[0] == "--speculative-config"
    document: dict[str, Any] = json.loads(words[1])
    return document


def flags(text: str) -> dict[str, str]:
    words = shlex.split(text)
    return {
        word: "" if following.startswith("--") else following
        for word, following in itertools.pairwise([*words, "--"])
        if word.startswith("--")
    }


def test_segments_are_few_and_lose_little() -> None:
    lost = np.array([[0.0, 0.01], [0.01, 0.0], [0.5, 0.0], [0.0, 0.5], [0.3, 0.4]])
    assert segments(lost) == [(0, 2, 1, 0.01), (3, 3, 0, 0.0), (4, 4, 0, 0.3)]


@pytest.mark.parametrize("contexts", [[2048, 16384], [1024 * 2**k for k in range(7)]])
def test_the_schedule_covers_every_cell_once_within_its_loss(contexts: list[int]) -> None:
    p = grid(ctx=contexts)
    found = schedule(p)
    lost = losses(p)
    for row, batch in enumerate([1, 4, 16, 64, 256]):
        for column, ctx in enumerate(contexts):
            here = [
                t for t in found
                if t.batch_lo <= batch <= t.batch_hi and t.ctx_lo <= ctx <= t.ctx_hi
            ]  # fmt: skip
            assert len(here) == 1
            assert lost[row, column, here[0].gamma] <= max(here[0].loss, TOLERANCE) + 1e-12
    assert found[0].batch_lo == 1
    assert max(t.batch_hi for t in found) == 256
    assert max(t.loss for t in found) <= TOLERANCE


def test_neighbouring_contexts_share_thresholds() -> None:
    contexts = [1024 * 2**k for k in range(7)]
    alone = sum(len(segments(losses(grid(ctx=contexts))[:, c])) for c in range(7))
    assert len(schedule(grid(ctx=contexts))) < alone


def test_vllm_settings_parse_back() -> None:
    found = settings(grid(ctx=[2048]), "vllm")
    config = vllm_config(found.text)
    assert config["method"] == "draft_model"
    assert config["model"] == "llama-3.2-1b"
    steps = config["num_speculative_tokens_per_batch_size"]
    assert config["num_speculative_tokens"] == max(k for _, _, k in steps)
    assert steps[0][0] == 1
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(steps))
    assert [[t.batch_lo, t.batch_hi, t.gamma] for t in found.schedule] == steps


def test_versions_before_batch_schedules_have_one_length() -> None:
    p = grid(ctx=[2048])
    found = settings(p, "vllm@0.19.0")
    config = vllm_config(found.text)
    assert "num_speculative_tokens_per_batch_size" not in config
    gamma = config["num_speculative_tokens"]
    worst = losses(p)[:, 0, gamma].max()
    assert worst == losses(p)[:, 0].max(axis=0).min()
    assert any(f"{worst:.1%}" in note for note in found.notes)


def test_the_form_with_contexts_is_the_schedule() -> None:
    p = grid(ctx=[1024 * 2**k for k in range(7)])
    found = settings(p, "vllm@pr48944")
    entries = vllm_config(found.text)["num_speculative_tokens_per_batch_size"]
    assert entries == [[t.batch_lo, t.batch_hi, t.ctx_lo, t.ctx_hi, t.gamma] for t in schedule(p)]


def test_sglang_settings_count_the_root() -> None:
    found = flags(settings(grid("eagle3", batch=[1, 4]), "sglang@0.5.9").text)
    steps = int(found["--speculative-num-steps"])
    assert int(found["--speculative-num-draft-tokens"]) == steps + 1
    assert found["--speculative-algorithm"] == "EAGLE3"
    assert found["--speculative-eagle-topk"] == "1"
    assert "--speculative-adaptive" not in found


def test_sglang_s_adaptive_file_parses_back() -> None:
    p = grid("eagle3", acceptance="cond:0.8,0.7")
    found = settings(p, "sglang")
    words = flags(found.text)
    assert words["--speculative-adaptive-config"] == found.file_name
    candidates = json.loads(found.file_text)["candidate_steps"]
    assert candidates == sorted(set(candidates))
    assert int(words["--speculative-num-steps"]) in candidates
    assert {t.gamma for t in found.schedule} - {0} <= set(candidates)


def test_a_draft_that_never_pays_is_left_off() -> None:
    for engine in ("vllm", "sglang"):
        found = settings(grid(acceptance="0"), engine)
        assert found.text == ""
        assert "off" in found.notes[0]


@pytest.mark.parametrize(
    ("draft", "engine", "wrong"),
    [("none", "vllm", "needs a"), ("eagle3", "tgi", "expected one of"),
     ("eagle3", "vllm@0.1", "oldest version"), ("eagle3", "vllm@new", "no release"),
     ("eagle3", "vllm@7", "no release")],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_said(draft: str, engine: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        settings(grid(draft, acceptance="0.9"), engine)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_draft_that_an_engine_lacks_has_a_nearest_one_and_its_cost(engine: str) -> None:
    p = grid("self", acceptance="0.9")
    found = settings(p, engine)
    assert "cannot draft with self streaming:512; nearest: eagle3" in found.notes[0]
    assert "%" in found.notes[0]
    assert "eagle3" in found.text.lower()


def test_a_window_that_an_engine_cannot_keep_costs_the_whole_cache() -> None:
    p = grid(draft_kv="streaming:512", ctx=[16384, 65536], batch=[8, 64])
    found = settings(p, "vllm")
    whole = grid(draft_kv="full", ctx=[16384, 65536], batch=[8, 64])
    lost = 1 - whole.rounds.tokens_per_s.max(axis=-1) / p.rounds.tokens_per_s.max(axis=-1)
    fits = p.placement.fits & whole.placement.fits  # type: ignore[operator]
    assert "nearest: llama-3.2-1b full" in found.notes[0]
    assert f"{lost[fits].max():.1%} at worst" in found.notes[0]


def test_batches_must_rise() -> None:
    with pytest.raises(UsageError, match="rising order"):
        settings(grid(batch=[4, 1]), "vllm")


def test_every_version_has_its_source() -> None:
    for engine in engines():
        rows = versions(engine)
        assert any(row.since for row in rows)
        for row in rows:
            assert row.source
            assert row.url.startswith("https://")
            datetime.date.fromisoformat(row.seen)
            assert bool(row.since) != bool(row.name)
        released = [row.since for row in rows if row.since]
        numbers = [tuple(int(part) for part in text.split(".")) for text in released]
        assert numbers == sorted(numbers, reverse=True)
        for text in released:
            assert load(f"{engine}@{text}").can.since == text
        assert load(f"{engine}@99.0.post1").can.since == released[0]


def tree(draft: str = "eagle3", **options: Any) -> TreePlan:
    base: dict[str, Any] = {"gpu": "h200", "stack": "ideal", "batch": 8, "ctx": 32768}
    return adaptive_trees(Request(**(base | {"draft": draft} | options)), max_size=16)


def test_a_tree_as_paths_parses_back_to_the_tree() -> None:
    plan = tree()
    config = vllm_config(tree_settings(plan, "vllm@0.12.0").text)
    paths = ast.literal_eval(config["speculative_token_tree"])
    assert config["num_speculative_tokens"] == len(paths) == plan.points[0].size - 1
    place = {(): 0} | {path: node for node, path in enumerate(paths, 1)}
    assert Tree(parents=(-1, *(place[path[:-1]] for path in paths))) == plan.points[0].tree


def test_where_trees_are_gone_the_best_chain_comes_with_its_cost() -> None:
    plan = tree()
    found = tree_settings(plan, "vllm")
    point = plan.points[0]
    assert vllm_config(found.text)["num_speculative_tokens"] == point.chain_gamma
    assert f"costs {1 - point.chain_speedup / point.speedup:.1%}" in found.notes[0]


def test_sglang_gets_the_tree_s_size() -> None:
    point = tree().points[0]
    found = flags(tree_settings(tree(), "sglang").text)
    assert int(found["--speculative-num-steps"]) == point.depth - 1
    assert int(found["--speculative-num-draft-tokens"]) == point.size
    assert int(found["--speculative-eagle-topk"]) == max(point.tree.ranks) + 1


def test_trees_that_engines_do_not_take() -> None:
    with pytest.raises(UsageError, match="one --batch"):
        tree_settings(tree(batch=[1, 8]), "vllm")
    with pytest.raises(UsageError, match="cannot draft with self"):
        tree_settings(tree("self", acceptance="0.8"), "sglang")
    with pytest.raises(UsageError, match="window"):
        tree_settings(tree("llama-3.2-1b", draft_kv="streaming:512"), "vllm")
    off = tree_settings(tree(acceptance="0"), "vllm")
    assert off.text == ""
    assert "off" in off.notes[0]
