"""Which published row speaks for a workload, and how it goes on where nobody measured."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from magicplan.acceptance_specs import Wanted, choose
from magicplan.acceptance_specs.choose import choose_both
from magicplan.acceptance_specs.entry import Entry, entries
from magicplan.acceptance_specs.positions import beyond_measured
from magicplan.errors import UsageError
from magicplan.roofline.acceptance import Acceptance, PerPosition


def wanted(method: str, target: str, family: str, **more: object) -> Wanted:
    fields = {"ctx": (8192.0, 8192.0)} | more
    return Wanted(method=method, target=target, family=family, **fields)  # type: ignore[arg-type]


def rate(model: Acceptance, ctx: float = 8192.0, budget: float | None = None) -> float:
    return float(model.survival(1, ctx, budget)[0])


@pytest.mark.parametrize(
    ("target", "family"),
    [("qwen3-32b", "qwen3"), ("deepseek-v3", "deepseek_v3"), ("gpt-oss-20b", "gpt_oss")],
)
@pytest.mark.parametrize("ctx", [256.0, 8192.0, 131072.0])
def test_copying_speaks_for_no_target_that_did_not_ask_for_it(
    target: str, family: str, ctx: float
) -> None:
    """The row of the longest contexts once won every tie, and promised 9x."""
    rows = sorted(row.numbers[0] for row in entries("ngram"))
    found = choose(wanted("ngram", target, family, ctx=(ctx, ctx)))
    assert rate(found, ctx) == pytest.approx(rows[(len(rows) - 1) // 2])
    assert rate(found, ctx) < 0.3


def test_the_target_s_own_rows_speak_before_those_of_its_family() -> None:
    short = {"ctx": (2048.0, 2048.0)}
    own = choose(wanted("mtp", "deepseek-v3", "deepseek_v3", **short))
    assert rate(own, 2048.0) == pytest.approx(0.875, abs=1e-4)
    by_task = choose(wanted("mtp", "glm-4.5", "glm4_moe", task="GPQA", **short))
    assert rate(by_task, 2048.0) == pytest.approx(0.92, abs=1e-4)


def test_a_task_is_found_however_it_is_spelt() -> None:
    """Two heads of this target were measured on it: their mean speaks."""
    for task in ("mtbench", "MT-Bench", "mt bench"):
        found = choose(wanted("eagle3", "llama-3.1-8b", "llama", task=task))
        both = [
            row.numbers[0]
            for row in entries("eagle3")
            if row.target == "llama-3.1-8b" and row.task == "MT-Bench"
        ]
        faded = 1 / (1 + (8192 / 9920) ** 3)
        assert rate(found) == pytest.approx(sum(both) / len(both) * faded)


def test_rows_of_one_task_on_many_targets_give_their_median() -> None:
    rows = [r for r in entries("eagle3") if r.task.lower() == "gsm8k"]
    assert len(rows) > 3
    first = [r.numbers[0] for r in rows]
    found = choose(wanted("eagle3", "mistral-7b-v0.3", "mistral", task="GSM8K", ctx=(1.0, 1.0)))
    assert rate(found, 1.0) == pytest.approx(float(np.median(first)))
    near = choose(wanted("eagle3", "qwen3-30b-a3b", "qwen3_moe", task="gsm8k", ctx=(1.0, 1.0)))
    own = next(r for r in rows if r.target == "qwen3-30b-a3b")
    assert rate(near, 1.0) == pytest.approx(own.numbers[0])


@pytest.mark.parametrize("method", ["eagle", "eagle3", "mtp", "dflash", "dspark", "ngram"])
def test_a_task_that_nobody_measured_never_narrows(method: str) -> None:
    ctx = (2048.0, 2048.0)
    none = choose(wanted(method, "mistral-7b-v0.3", "mistral", ctx=ctx))
    books = choose(wanted(method, "mistral-7b-v0.3", "mistral", ctx=ctx, task="books"))
    assert books.uncertainty >= none.uncertainty
    assert rate(books, 2048.0) == pytest.approx(rate(none, 2048.0))
    assert "books was not measured" in books.origin


def test_a_task_that_no_table_knows_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"task 'foo' is unknown; expected one of chat, code.*"):
        choose(wanted("eagle3", "llama-3.1-8b", "llama", task="foo"))


def test_prompt_lookup_is_the_same_for_every_target() -> None:
    """Of three tasks the middle one, for a target that was measured and one that was not."""
    one, other = (choose(wanted("ngram", *who)) for who in (("llama-3.1-8b", "llama"), ("q", "q")))
    assert rate(one) == rate(other) == pytest.approx(0.1688)
    assert one.uncertainty == other.uncertainty


def test_a_larger_target_and_a_kind_of_work_widen() -> None:
    short = {"ctx": (1024.0, 1024.0), "task": "humaneval"}
    near = choose(wanted("eagle3", "llama-3.1-8b", "llama", **short))
    far = choose(wanted("eagle3", "llama-3.1-70b", "llama", **short))
    assert far.uncertainty > near.uncertainty
    code = choose(wanted("eagle3", "llama-3.1-8b", "llama", ctx=(1024.0, 1024.0), task="code"))
    assert code.uncertainty > near.uncertainty


@pytest.mark.parametrize(
    ("ctx", "length"),
    [(2048.0, 2.295), (4096.0, 2.04), (8192.0, 1.687), (12288.0, 1.289), (16384.0, 1.09)],
)
def test_a_head_fades_with_context_as_measured(ctx: float, length: float) -> None:
    """Qwen3-8B's EAGLE-3 head (speculators pull request 684), read at three drafted tokens."""
    model = choose(wanted("eagle3", "qwen3-8b", "qwen3", ctx=(ctx, ctx)))
    low, middle, high = (
        1 + float(end.survival(3, ctx).sum()) for end in (*model.interval()[:1], model, model)
    )
    assert middle == pytest.approx(length, rel=0.05)
    assert low < middle <= high


def test_a_window_keeps_its_share_at_every_context() -> None:
    model = choose(wanted("eagle3", "qwen3-8b", "qwen3", budget=2048.0, ctx=(1024.0, 20480.0)))
    lengths = [1 + float(model.survival(3, ctx, 2048.0).sum()) for ctx in (4096.0, 8192.0, 20480.0)]
    assert lengths == pytest.approx([1.56] * 3, abs=0.05)
    whole = 1 + float(model.survival(3, 20480.0).sum())
    assert whole < 1.1
    assert rate(model, 1024.0, 2048.0) == rate(model, 1024.0)


def test_methods_without_a_table_borrow_one_and_say_so() -> None:
    suffix, lookup = (choose(wanted(m, "qwen3-8b", "qwen3")) for m in ("suffix", "ngram"))
    assert rate(suffix) == rate(lookup)
    assert suffix.uncertainty >= lookup.uncertainty
    assert "none of suffix are published" in suffix.origin


def row(task: str, first: float, ctx: tuple[float, float], method: str = "alpha") -> Entry:
    return Entry(
        target="t", family="f", task=task, kind=method, ctx=ctx, basis="b", source="s", url="",
        seen="2026-11-25", spread=0.01, numbers=(first,),
    )  # fmt: skip


def test_context_chooses_between_the_rows_of_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (1.0, 2048.0), (4096.0, 65536.0)
    rows = (
        row("gsm8k", 0.1, short),
        row("gsm8k", 0.2, long),
        row("b", 0.5, short),
        row("c", 0.9, long),
    )
    table = importlib.import_module("magicplan.acceptance_specs.choose")  # its name is a function's
    monkeypatch.setattr(table, "entries", lambda method: rows)
    for ctx, task, found in (
        (8192.0, None, 0.5), (8192.0, "gsm8k", 0.2), (512.0, "gsm8k", 0.1), (512.0, None, 0.5)
    ):  # fmt: skip
        asked = wanted("ngram", "t", "f", ctx=(ctx, ctx), task=task)
        assert rate(choose(asked)) == pytest.approx(found)


@pytest.mark.parametrize("budget", [256.0, 512.0, 4096.0])
def test_quantising_never_raises_acceptance(budget: float) -> None:
    asked = wanted("streaming", "llama-3.1-8b", "llama", ctx=(32e3, 32e3), budget=budget)
    cache = choose(asked)
    weights = wanted("quant-weights", "llama-3.1-8b", "llama", ctx=(32e3, 32e3))
    both = choose_both(asked, weights)
    one, other = rate(cache, 32e3, budget), rate(choose(weights), 32e3, budget)
    assert rate(both, 32e3, budget) == pytest.approx(one * other)
    assert "streaming times quant-weights" in both.origin
    assert both.uncertainty >= cache.uncertainty
    # where the budget holds the context the cache costs nothing, and the weights still do
    assert rate(both, budget, budget) == pytest.approx(other)


def test_positions_nobody_measured_fall_as_longer_rows_do() -> None:
    """One position measured: the others fall by the median row's factor past its first."""
    model = choose(wanted("mtp", "deepseek-v3", "deepseek_v3", ctx=(2048.0, 2048.0)))
    survival = model.survival(6, 1.0)
    rates = survival / np.concatenate([[1.0], survival[:-1]])
    rows = [row for row in entries("mtp") if row.kind in ("marginal", "conditional")]
    longer = [np.array(row.numbers) for row in rows if len(row.numbers) > 1]
    falls = sorted(float((s[-1] / s[-2] / s[0]) ** (1 / (s.size - 1))) for s in longer)
    fall = falls[(len(falls) - 1) // 2]
    assert 0.7 < fall < 0.9
    assert rates.tolist() == pytest.approx((0.875 * fall ** np.arange(6)).tolist())
    assert f"positions beyond 1 times {fall:.2f} each" in model.origin
    low, high = (end.survival(3, 1.0) for end in model.interval())
    # the upper end holds an acceptance that does not fall, and more
    assert (high >= 0.875 ** np.arange(1, 4)).all()
    assert low[1] / low[0] < rates[1] - model.uncertainty - 0.05


def test_a_row_longer_than_all_goes_on_as_it_did_and_never_rises() -> None:
    rising = PerPosition(conditional=(0.2, 0.4), origin="t", uncertainty=0.02)
    on, words = beyond_measured(rising, (), widest=0.3)
    assert on.conditional[2:5] == (0.4, 0.4, 0.4)
    assert "times 1.00" in words
    low, high = (end.survival(4, 1.0) for end in on.interval())
    assert high[2] / high[1] == pytest.approx(0.4 + 0.02 + 0.02)
    assert low[3] / low[2] == pytest.approx(0.4 - 0.02 - 0.04)
    falling, _ = beyond_measured(
        PerPosition(conditional=(0.8, 0.4), origin="t", uncertainty=0.02), (), widest=0.3
    )
    assert falling.conditional[2:4] == pytest.approx((0.2, 0.1))
    zero, _ = beyond_measured(PerPosition(conditional=(0.0,), origin="t"), (), widest=0.3)
    assert set(zero.conditional) == {0.0}
