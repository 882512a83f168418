"""Schedules of few thresholds, and engine settings that parse back to the plan."""

from __future__ import annotations

import ast
import datetime
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.engine_specs.capabilities import capabilities, engines, load
from magicplan.engines.choice_settings import choice_settings
from magicplan.engines.nearest import TOLERANCE, losses, schedule, segments, settings
from magicplan.engines.settings import cost, model_id
from magicplan.engines.tree_settings import tree_settings
from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import TreePlan, adaptive_trees
from magicplan.prediction.choose import choose_everywhere
from magicplan.prediction.request import Request
from magicplan.prediction.result import Prediction
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
    assert config["model"] == "meta-llama/Llama-3.2-1B"
    steps = config["num_speculative_tokens_per_batch_size"]
    assert config["num_speculative_tokens"] == max(k for _, _, k in steps)
    assert steps[0][0] == 1
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(steps))
    assert [[t.batch_lo, t.batch_hi, t.gamma] for t in found.schedule] == steps


@pytest.mark.parametrize(
    ("version", "name"),
    [("0.11.0rc2", "deepseek_mtp"), ("0.11.0.dev5", "deepseek_mtp"), ("0.11.0", "mtp"),
     ("0.11.0.post1", "mtp"), ("v0.11.0+cu128", "mtp")],
)  # fmt: skip
def test_a_pre_release_lacks_what_its_release_brought(version: str, name: str) -> None:
    assert load(f"vllm@{version}").methods["mtp"] == name


def test_a_pre_release_of_the_oldest_version_is_older() -> None:
    with pytest.raises(UsageError, match=r"the oldest version known is 0\.9\.1$"):
        load("vllm@0.9.1rc1")


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
     ("eagle3", "vllm@0.1", "oldest version"), ("eagle3", "vllm@new", "no version"),
     ("eagle3", "vllm@7", "no version")],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_said(draft: str, engine: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        settings(grid(draft, acceptance="0.9"), engine)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_draft_that_an_engine_lacks_has_a_nearest_one_and_its_cost(engine: str) -> None:
    p = grid("self", acceptance="0.9")
    found = settings(p, engine)
    assert "cannot draft with self streaming:512; nearest: eagle3, which is" in found.notes[0]
    assert re.search(r" \d+\.\d% (faster|slower) in the median cell", found.notes[0])
    assert "eagle3" in found.text.lower()


def test_a_window_that_an_engine_cannot_keep_costs_the_whole_cache() -> None:
    p = grid(draft_kv="streaming:512", ctx=[16384, 65536], batch=[8, 64])
    found = settings(p, "vllm")
    whole = grid(draft_kv="full", ctx=[16384, 65536], batch=[8, 64])
    lost = 1 - whole.rounds.tokens_per_s.max(axis=-1) / p.rounds.tokens_per_s.max(axis=-1)
    fits = p.placement.fits & whole.placement.fits  # type: ignore[operator]
    assert "nearest: llama-3.2-1b full" in found.notes[0]
    assert f"{lost[fits].max():.1%} slower in the worst" in found.notes[0]


def test_costs_read_as_faster_or_slower() -> None:
    assert cost(np.array([-0.109, 0.352, -0.2])) == (
        "10.9% faster in the median cell, 35.2% slower in the worst"
    )
    assert (
        cost(np.array([-0.2, -0.1, -0.3])) == "20.0% faster in the median cell and slower in none"
    )
    assert cost(np.array([0.25])) == "25.0% slower"
    assert cost(np.array([0.0])) == "as fast"


def test_draft_models_that_are_no_preset_stay_as_given(tmp_path: Path) -> None:
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
        "num_hidden_layers": 4, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 128256, "torch_dtype": "bfloat16",
    }  # fmt: skip
    folder = tmp_path / "my draft"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    p = grid(str(folder), acceptance="0.9")
    assert vllm_config(settings(p, "vllm").text)["model"] == str(folder)
    words = flags(settings(p, "sglang").text)
    assert words["--speculative-draft-model-path"] == str(folder)
    assert model_id("org/unknown") == "org/unknown"
    assert model_id("tinyllama-1.1b") == "TinyLlama/TinyLlama_v1.1"


def test_sglang_s_ngram_has_a_breadth_of_its_own() -> None:
    p = grid("ngram", acceptance="0.8", batch=[1])
    words = flags(settings(p, "sglang").text)
    assert words["--speculative-ngram-max-bfs-breadth"] == "1"
    assert "--speculative-eagle-topk" not in words
    gamma = int(words["--speculative-num-draft-tokens"]) - 1
    assert gamma == losses(p).max(axis=(0, 1)).argmin()


def test_sglang_s_draft_model_is_an_id() -> None:
    words = flags(settings(grid(), "sglang").text)
    assert words["--speculative-draft-model-path"] == "meta-llama/Llama-3.2-1B"


@pytest.mark.parametrize("version", ["0.9.1", "0.10.1", "0.13.0", "0.14.1"])
def test_versions_without_draft_models_get_the_nearest_plan(version: str) -> None:
    found = settings(grid(), f"vllm@{version}")
    assert vllm_config(found.text)["method"] in ("ngram", "medusa", "eagle", "eagle3")
    assert f"vllm@{version} cannot draft with llama-3.2-1b full" in found.notes[0]
    assert "from 0.15.0 on: vLLM pull request 24322" in found.notes[0]
    assert "nearest:" in found.notes[0]
    assert vllm_config(settings(grid(), "vllm@0.15.0").text)["method"] == "draft_model"


def test_every_version_s_names_are_its_own() -> None:
    names = {
        version: load(f"vllm@{version}").methods
        for version in ("0.9.1", "0.10.2", "0.11.0", "0.15")
    }
    assert [methods["mtp"] for methods in names.values()] == [
        "deepseek_mtp", "deepseek_mtp", "mtp", "mtp",
    ]  # fmt: skip
    assert ["model" in methods for methods in names.values()] == [False, False, False, True]
    assert load("vllm").methods["model"] == load("vllm@pr48944").methods["model"] == "draft_model"
    assert "model" not in load("sglang@0.5.0").methods
    p = grid("mtp", model="deepseek-v3", gpus=32, acceptance="0.9")
    for version, name in (("0.10.1", "deepseek_mtp"), ("0.11.0", "mtp")):
        assert vllm_config(settings(p, f"vllm@{version}").text)["method"] == name


@pytest.mark.parametrize("engine", ["vllm", "vllm@0.19.0", "sglang"])
def test_a_draft_that_helps_in_some_cells_only_is_not_said_to_gain_nowhere(engine: str) -> None:
    p = grid("ngram", stack="vllm", acceptance="0.4", batch=[64, 256], ctx=[4096, 16384, 65536])
    found = settings(p, engine)
    assert any(t.gamma for t in found.schedule)
    assert found.text == ""
    assert "no draft length helps at every" in found.notes[0]
    assert f"loses up to {losses(p)[..., 0].max():.1%}" in found.notes[0]


def test_notes_cite_what_is_used_and_name_the_acceptance() -> None:
    chain = settings(grid("eagle3", ctx=[2048]), "vllm@0.19.0").notes
    assert not any("20401" in note for note in chain)
    assert any("acceptance of eagle3: " in note for note in chain)
    by_batch = settings(grid(ctx=[2048]), "vllm")
    assert "per_batch_size" in by_batch.text
    assert any("32374" in note for note in by_batch.notes)
    flat = settings(grid("eagle3", batch=[1, 4], ctx=[2048]), "vllm")
    assert "per_batch_size" not in flat.text
    assert not any("32374" in note for note in flat.notes)
    measured = settings(grid("eagle3", acceptance="auto"), "vllm").notes
    assert any(note.startswith("acceptance of eagle3: auto: ") for note in measured)


def test_a_grid_that_does_not_fit_has_no_settings() -> None:
    with pytest.raises(UsageError, match="no cell of this grid fits"):
        settings(grid("ngram", model="llama-3.1-70b", gpus=1), "vllm")


def test_batches_must_rise() -> None:
    with pytest.raises(UsageError, match="rising order"):
        settings(grid(batch=[4, 1]), "vllm")


def test_every_entry_has_its_source() -> None:
    for engine in engines():
        rows = capabilities(engine)
        assert any(row.since for row in rows)
        for row in rows:
            assert row.source
            assert row.url.startswith("https://")
            datetime.date.fromisoformat(row.seen)
            assert bool(row.since) != bool(row.branch)
            if row.since:
                assert row in load(f"{engine}@{row.since}").capabilities
            if row.before:
                assert row not in load(f"{engine}@{row.before}").capabilities
                assert row not in load(engine).capabilities
            if row.branch:
                assert row in load(f"{engine}@{row.branch}").capabilities
                assert row not in load(engine).capabilities
        assert load(f"{engine}@99.0.post1").capabilities == load(engine).capabilities


def tree(draft: str = "eagle3", **options: Any) -> TreePlan:
    base: dict[str, Any] = {"gpu": "h200", "stack": "ideal", "batch": 8, "ctx": 2048}
    return adaptive_trees(Request(**(base | {"draft": draft} | options)), max_size=16)


def test_a_tree_as_paths_parses_back_to_the_tree() -> None:
    plan = tree()
    config = vllm_config(tree_settings(plan, "vllm@0.12.0").text)
    paths = ast.literal_eval(config["speculative_token_tree"])
    assert config["num_speculative_tokens"] == len(paths) == plan.points[0].size - 1
    place = {(): 0} | {path: node for node, path in enumerate(paths, 1)}
    assert Tree(parents=(-1, *(place[path[:-1]] for path in paths))) == plan.points[0].tree


@pytest.mark.parametrize("engine", ["vllm", "vllm@0.10.0"])
def test_where_there_are_no_trees_the_best_chain_comes_with_its_cost(engine: str) -> None:
    plan = tree()
    found = tree_settings(plan, engine)
    point = plan.points[0]
    assert vllm_config(found.text)["num_speculative_tokens"] == point.chain_gamma
    assert f"is {1 - point.chain_speedup / point.speedup:.1%} slower" in found.notes[0]
    assert "from 0.10.1 up to 0.21.0" in found.notes[0]


def test_a_chain_where_only_other_drafts_have_trees_cites_no_tree() -> None:
    found = tree_settings(tree("llama-3.2-1b"), "vllm@0.19.0")
    assert vllm_config(found.text)["model"] == "meta-llama/Llama-3.2-1B"
    assert not any("20401" in note for note in found.notes)


def test_a_tree_s_draft_that_an_engine_lacks_has_a_nearest_plan() -> None:
    plan = tree("self", acceptance="0.8")
    chain = tree_settings(plan, "vllm", max_size=16)
    config = vllm_config(chain.text)
    assert config["method"] == "eagle3"
    best = mp.predict(gpu="h200", stack="ideal", batch=8, ctx=2048, draft="eagle3")
    assert config["num_speculative_tokens"] == best.best.gamma
    ours = (
        plan.points[0].speedup
        * mp.predict(
            gpu="h200", stack="ideal", batch=8, ctx=2048, draft="self"
        ).baseline.tokens_per_s
    )
    faster = best.best.tokens_per_s / ours - 1
    word = "faster" if faster > 0 else "slower"
    assert (
        "vllm cannot draft with self streaming:512; nearest: eagle3 in a chain, "
        f"which is {abs(faster):.1%} {word}" == chain.notes[0]
    )
    assert sum("acceptance of" in note for note in chain.notes) == 2
    whole = tree_settings(plan, "vllm@0.12.0", max_size=16)
    paths = ast.literal_eval(vllm_config(whole.text)["speculative_token_tree"])
    assert len(paths) + 1 == tree("eagle3").points[0].size
    assert "nearest: eagle3 in a tree" in whole.notes[0]
    ranked = tree_settings(plan, "sglang", max_size=16)
    size = int(flags(ranked.text)["--speculative-num-draft-tokens"])
    assert size == tree("eagle3").points[0].size


def test_a_tree_s_window_becomes_the_whole_cache() -> None:
    found = tree_settings(tree("llama-3.2-1b", draft_kv="streaming:512"), "vllm", max_size=16)
    assert "window" in found.notes[0]
    assert "nearest: llama-3.2-1b full in a chain" in found.notes[0]
    assert vllm_config(found.text)["model"] == "meta-llama/Llama-3.2-1B"


def test_sglang_gets_the_tree_s_size() -> None:
    point = tree().points[0]
    found = flags(tree_settings(tree(), "sglang").text)
    assert int(found["--speculative-num-steps"]) == point.depth - 1
    assert int(found["--speculative-num-draft-tokens"]) == point.size
    assert int(found["--speculative-eagle-topk"]) == point.tree.beam


def test_trees_that_engines_do_not_take() -> None:
    with pytest.raises(UsageError, match="settings takes one tree: give one batch"):
        tree_settings(tree(batch=[1, 8]), "vllm")
    off = tree_settings(tree(acceptance="0"), "vllm")
    assert off.text == ""
    assert "off" in off.notes[0]


@pytest.mark.parametrize("engine", ["vllm", "vllm@0.13.0", "sglang"])
def test_the_choice_of_every_cell_becomes_one_draft_and_what_cells_lose(engine: str) -> None:
    ask = Request(gpu="h100", gpus=8, stack="ideal", batch=[1, 64], ctx=[4096, 65536])
    found = choice_settings(ask, engine)
    choice = choose_everywhere(ask)
    best = np.array([cell.speedup for cell in choice.cells]).reshape(2, 2)
    lost = {}
    for draft in ("eagle", "eagle3", "medusa", "ngram", "llama-3.2-1b"):
        try:
            p = mp.predict(
                gpu="h100", gpus=8, stack="ideal", draft=draft, batch=[1, 64], ctx=[4096, 65536]
            )  # fmt: skip
        except UsageError:
            continue
        lost[draft] = 1 - np.nan_to_num(p.best.speedup, nan=1.0) / best
    assert "eagle3" in lost
    name = min(lost, key=lambda draft: float(lost[draft].mean()))
    assert found.notes[0].startswith(f"{engine} runs one draft for all cells: {name} loses least")
    assert f"{lost[name].max():.1%} slower in the worst" in found.notes[0]
    assert f"{(lost[name] > TOLERANCE).sum()} of 4 cells lose more than 2%" in found.notes[1]
    row, column = np.unravel_index(int(lost[name].argmax()), (2, 2))
    where = f"batch {[1, 64][row]} at {['4k', '64k'][column]} {lost[name].max():.1%}"
    assert f"most of all {where}" in found.notes[1]
    assert max(t.batch_hi for t in found.schedule) == 64
    if engine == "sglang":
        assert flags(found.text)["--speculative-algorithm"] == name.upper()
    else:
        assert vllm_config(found.text)["method"] == name


def test_a_choice_where_nothing_fits_has_no_settings() -> None:
    ask = Request(gpu="h100", gpus=1, model="llama-3.1-70b", batch=[1], ctx=[4096])
    with pytest.raises(UsageError, match="no cell of this grid fits"):
        choice_settings(ask, "vllm")
