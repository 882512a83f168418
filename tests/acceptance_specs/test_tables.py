"""Shipped acceptance tables, the choice among them, and files of measured rates."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from magicplan.acceptance_specs import Wanted, choose, methods
from magicplan.acceptance_specs.entry import Entry, entries
from magicplan.acceptance_specs.files import import_measured, parse_acceptance
from magicplan.errors import SpecError, UsageError
from magicplan.roofline.acceptance import Acceptance

ROWS = [(method, row) for method in methods() for row in entries(method)]


def first(model: Acceptance, ctx: float, budget: float | None = None) -> float:
    return float(model.survival(1, ctx, budget)[0])


@pytest.mark.parametrize(("method", "row"), ROWS, ids=lambda v: getattr(v, "target", v))
def test_every_row(method: str, row: Entry) -> None:
    assert row.source
    assert row.basis
    datetime.date.fromisoformat(row.seen)
    assert row.half_width > 0, "a rate without an uncertainty is not a measurement"
    model = row.model("test", row.half_width)
    assert 0 < first(model, row.ctx[0], row.budget) < 1


def streaming(ctx: float, target: str = "llama-3.1-8b", family: str = "llama") -> Wanted:
    return Wanted(method="streaming", target=target, family=family, ctx=(ctx, ctx), budget=512)


@pytest.mark.parametrize(("ctx", "alpha"), [(4e3, 0.838), (8e3, 0.826), (32e3, 0.805), (1e5, 0.80)])
def test_magicdec_self_drafts(ctx: float, alpha: float) -> None:
    model = choose(streaming(ctx))
    assert first(model, ctx, 512) == pytest.approx(alpha, abs=0.012)
    assert "stretched" not in model.origin


def test_snapkv() -> None:
    wanted = Wanted(
        method="snapkv", target="llama-3.1-8b", family="llama", ctx=(32e3, 32e3), budget=2049
    )
    assert first(choose(wanted), 32e3, 2049) == pytest.approx(0.896, abs=0.001)


def test_a_stretch_is_said_and_widens_the_interval() -> None:
    near = choose(streaming(32e3))
    for wanted in (streaming(1e6), streaming(32e3, "qwen3-32b", "qwen3")):
        far = choose(wanted)
        assert "stretched" in far.origin
        assert far.uncertainty > near.uncertainty


def test_a_task_decides_prompt_lookup() -> None:
    def wanted(task: str | None) -> Wanted:
        return Wanted(method="ngram", target="llama-3.1-8b", family="llama", task=task)

    code, copying = choose(wanted("instructcoder")), choose(wanted("copying"))
    assert first(code, 1e3) < 0.3 < 0.7 < first(copying, 1e3)
    unknown = choose(wanted(None))
    assert unknown.uncertainty == pytest.approx(0.3)  # the widest there is
    assert "tasks differ" in unknown.origin


def test_the_copying_task_is_named_by_its_data_set_too() -> None:
    rates = [
        first(choose(Wanted(method="ngram", target="x", family="y", task=task)), 1e3)
        for task in ("copying", "edit_5k_char", "edit-5k-char")
    ]
    assert rates == [0.81] * 3


def test_counts_say_where_they_end(tmp_path: Path) -> None:
    document = {
        "schema": "magicplan.acceptance/1", "drafted": [400, 200], "accepted": [300, 110],
    }  # fmt: skip
    model = import_measured(write(tmp_path, json.dumps(document)))
    assert "up to 2 drafted tokens" in model.origin
    assert model.measured == 2
    low, high = (end.survival(2, 1.0) for end in model.interval())
    # the second position's error adds to Omega's in part only: it was counted on the same rounds
    assert (high - low).sum() < 2 * 1.2816 * ((0.1875 / 400) ** 0.5 + (0.2475 / 200) ** 0.5)
    assert high[0] - low[0] == pytest.approx(2 * 1.2816 * (0.1875 / 400) ** 0.5, rel=1e-3)


def test_a_method_without_data_asks_for_a_number() -> None:
    with pytest.raises(UsageError, match=r"acceptance auto: none published .* state it"):
        choose(Wanted(method="layer-skip", target="x", family="y"))


def write(folder: Path, text: str) -> Path:
    path = folder / "file"
    path.write_text(text)
    return path


def test_ranks_from_files(tmp_path: Path) -> None:
    for text in ("[0.6, 0.2]", "0.6\n0.2\n", '{"ranks": [0.6, 0.2], "samples": 100}'):
        model = parse_acceptance(f"rank:{write(tmp_path, text)}")
        assert model.ranks(3, 1.0).tolist() == pytest.approx([0.6, 0.2, 0.0])
    assert model.uncertainty == pytest.approx(1.2816 * (0.24 / 100) ** 0.5, rel=1e-3)


def test_ranks_by_level_from_a_file(tmp_path: Path) -> None:
    model = parse_acceptance(f"rank:{write(tmp_path, '[[0.6, 0.2], [0.5]]')}")
    expected = [[0.6, 0.2, 0.0], [0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert model.level_ranks(3, 3, 1.0).tolist() == pytest.approx(np.array(expected))
    assert model.survival(3, 1.0).tolist() == pytest.approx([0.6, 0.3, 0.15])
    bad = write(tmp_path, "[[0.6, 0.2], [0.9, 0.9]]")
    with pytest.raises(SpecError, match="at most 1"):
        parse_acceptance(f"rank:{bad}")


def test_survival_counts(tmp_path: Path) -> None:
    document = {
        "schema": "magicplan.acceptance/1", "drafted": [100, 100], "accepted": [80, 60],
    }  # fmt: skip
    model = import_measured(write(tmp_path, json.dumps(document)))
    assert model.survival(2, 1.0).tolist() == pytest.approx([0.8, 0.6])
    assert model.uncertainty > 0


def test_vllm_log_lines(tmp_path: Path) -> None:
    line = (
        "INFO 11-24 12:00:00 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 2.40, "
        "Accepted throughput: 100.00 tokens/s, Drafted throughput: 200.00 tokens/s, Accepted: 140 "
        "tokens, Drafted: 200 tokens, Per-position acceptance rate: {}, Avg Draft acceptance "
        "rate: 70.0%\n"
    )
    text = line.format("0.800, 0.600") + line.format("0.700, 0.500")
    model = import_measured(write(tmp_path, text))
    assert model.survival(2, 1.0).tolist() == pytest.approx([0.75, 0.55])
    # 200 tokens at two positions are 100 rounds a line
    assert model.uncertainty == pytest.approx(1.2816 * (0.75 * 0.25 / 200) ** 0.5, rel=1e-3)
    bare = import_measured(write(tmp_path, text.replace("Drafted: 200 tokens, ", "")))
    assert bare.survival(2, 1.0).tolist() == pytest.approx([0.75, 0.55])
    assert bare.uncertainty == pytest.approx(1.2816 * 0.05, rel=1e-3)
    more = text.replace("Drafted: 200", "Drafted: 600", 1)
    weighted = import_measured(write(tmp_path, more))
    assert weighted.survival(2, 1.0).tolist() == pytest.approx([0.775, 0.575])


def test_vllm_counters(tmp_path: Path) -> None:
    text = (
        'vllm:spec_decode_num_drafts_total{model_name="m"} 1000.0\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{model_name="m",position="0"} 800.0\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{model_name="m",position="1"} 500.0\n'
    )
    model = import_measured(write(tmp_path, text))
    assert model.survival(2, 1.0).tolist() == pytest.approx([0.8, 0.5])


@pytest.mark.parametrize("rate", [(2.5 - 1) / 3, 2.5 / 4])
def test_sglang_lines_of_both_kinds(tmp_path: Path, rate: float) -> None:
    text = f"Decode batch. #running-req: 1, accept len: 2.50, accept rate: {rate:.4f}, gen: 1\n"
    model = import_measured(write(tmp_path, text))
    emitted = 1 + model.survival(3, 1.0).sum()
    assert emitted == pytest.approx(2.5, abs=1e-3)
    assert model.uncertainty == 0  # one line says nothing of its own spread
    other = text.replace("2.50", "2.20").replace(f"{rate:.4f}", f"{rate * 0.8:.4f}")
    assert import_measured(write(tmp_path, text + other)).uncertainty > 0


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is empty"),
        ("hello", "neither"),
        ("{", "not JSON"),
        ("{}", "expected"),
        ('{"schema": "magicplan.acceptance/1", "drafted": [1], "accepted": [2]}', "position 1"),
        ('{"schema": "magicplan.acceptance/1", "drafted": [2, 2], "accepted": [1]}', "counts"),
        ('{"schema": "magicplan.acceptance/1", "drafted": ["a"], "accepted": [1]}', "entry 1"),
        ("accept len: 2.5\n", "no accept rate"),
    ],
)
def test_bad_measured_files(tmp_path: Path, text: str, wrong: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SpecError, match=wrong) as problem:
        import_measured(path)
    assert str(path) in str(problem.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[0.9, 0.9]",
        "[2]",
        "0.5\nx\n",
        '{"ranks": 3}',
        '["a"]',
        "[null]",
        "[[]]",
        "[[0.5], 0.2]",
        "{}",
    ],
)
def test_bad_rank_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError):
        parse_acceptance(f"rank:{write(tmp_path, text)}")


def test_ranks_that_pass_one_name_their_sum(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"sums to 1\.1: .* at most 1"):
        parse_acceptance(f"rank:{write(tmp_path, '[0.6, 0.5]')}")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        parse_acceptance(f"file:{tmp_path / 'none'}")


def test_the_choice_covers_a_whole_grid() -> None:
    model = choose(Wanted(method="streaming", target="llama-3.1-8b", family="llama", budget=512))
    contexts = np.array([[4096.0, 65536.0]])
    assert model.survival(3, contexts, 512).shape == (1, 2, 3)
